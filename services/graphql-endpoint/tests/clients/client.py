"""Tests the endpoint at URL with PyPI's gql, over HTTP and over a websocket.

Exits with 0 if all assertions hold.
"""

import asyncio
import os
import uuid

from gql import Client, gql
from gql.transport.exceptions import TransportQueryError
from gql.transport.requests import RequestsHTTPTransport
from gql.transport.websockets import WebsocketsTransport

URL = os.environ["URL"]

ACCOUNT = """($u: String!, $p: String!) {
    get_account(username: $u, password: $p) { iban token reason } }"""
TRANSFER = """($uuid: String!, $amount: Int!, $to: String!, $descr: String!) {
    money_transfer(uuid: $uuid, token: "cash", amount: $amount, from: "cash",
        to: $to, descr: $descr) { uuid success reason } }"""
STREAM = "subscription($iban: String!) { stream_transactions(iban: $iban) { descr new_balance } }"

MISSED = """subscription($iban: String!) {
    stream_transactions(iban: $iban, after_sequence: 0) { sequence descr } }"""


def ask(text, **variables):
    document = gql(text)
    document.variable_values = variables
    return document


def over_http():
    transport = RequestsHTTPTransport(url=URL, timeout=30)
    # The client fetches the schema by introspection and validates each document.
    with Client(transport=transport, fetch_schema_from_transport=True) as session:
        user = f"user-{uuid.uuid4()}"
        login = ask("mutation" + ACCOUNT, u=user, p="correct horse")
        account = session.execute(login)["get_account"]
        assert account["iban"].startswith("NL"), account
        deposit = dict(uuid=str(uuid.uuid4()), amount=1050, to=account["iban"], descr="by gql")
        made = session.execute(ask("mutation" + TRANSFER, **deposit))["money_transfer"]
        assert made == {"uuid": deposit["uuid"], "success": True, "reason": None}, made
        try:
            session.execute(ask('{ transactions_by_iban(iban: "a", max_items: 0) { id } }'))
            raise AssertionError("an error was expected")
        except TransportQueryError as err:
            assert "expected 1 to 1000" in str(err), err
            assert err.errors[0]["extensions"]["code"] == "BAD_USER_INPUT", err.errors
    return account


async def over_websocket(account):
    transport = WebsocketsTransport(url=URL.replace("http", "ws"))
    async with Client(transport=transport, fetch_schema_from_transport=True) as session:
        events = session.subscribe(ask(STREAM, iban=account["iban"]))
        first = asyncio.ensure_future(events.__anext__())
        # Deposits until the subscription receives one: the protocol does not confirm its start.
        made = 0
        while not first.done():
            made += 1
            descr = f"event {made}"
            deposit = dict(uuid=str(uuid.uuid4()), amount=100, to=account["iban"], descr=descr)
            result = await session.execute(ask("mutation" + TRANSFER, **deposit))
            assert result["money_transfer"]["success"], result
            await asyncio.wait([first], timeout=0.2)
            assert made < 100
        event = first.result()["stream_transactions"]
        # The first event can be the earlier transfer: its response does not wait for subscribers.
        assert event["descr"] == "by gql" or event["descr"].startswith("event "), event
        assert event["new_balance"].startswith("€"), event
        await events.aclose()
        missed = session.subscribe(ask(MISSED, iban=account["iban"]))
        event = (await missed.__anext__())["stream_transactions"]
        assert (event["sequence"], event["descr"]) == ("1", "by gql"), event
        await missed.aclose()
        login = ask("subscription" + ACCOUNT, u=f"user-{uuid.uuid4()}", p="correct horse")
        async for answer in session.subscribe(login):
            assert answer["get_account"]["iban"], answer


asyncio.run(over_websocket(over_http()))

"""Talks to the endpoint at URL by PyPI's gql, over HTTP and over a websocket. Exits with 0 if all was as it should be."""

import asyncio
import os
import uuid

from gql import Client, gql
from gql.transport.exceptions import TransportQueryError
from gql.transport.requests import RequestsHTTPTransport
from gql.transport.websockets import WebsocketsTransport

URL = os.environ["URL"]

ACCOUNT = "($u: String!, $p: String!) { get_account(username: $u, password: $p) { iban token reason } }"
TRANSFER = """($uuid: String!, $amount: Int!, $to: String!, $descr: String!) {
    money_transfer(uuid: $uuid, token: "cash", amount: $amount, from: "cash", to: $to, descr: $descr) { uuid success reason } }"""
STREAM = "subscription($iban: String!) { stream_transactions(iban: $iban) { descr new_balance } }"


def ask(text, **variables):
    document = gql(text)
    document.variable_values = variables
    return document


def over_http():
    transport = RequestsHTTPTransport(url=URL, timeout=30)
    # Fetches the schema by introspection, and checks each document against it.
    with Client(transport=transport, fetch_schema_from_transport=True) as session:
        user = f"user-{uuid.uuid4()}"
        account = session.execute(ask("mutation" + ACCOUNT, u=user, p="correct horse"))["get_account"]
        assert account["iban"].startswith("NL"), account
        deposit = dict(uuid=str(uuid.uuid4()), amount=1050, to=account["iban"], descr="by gql")
        made = session.execute(ask("mutation" + TRANSFER, **deposit))["money_transfer"]
        assert made == {"uuid": deposit["uuid"], "success": True, "reason": None}, made
        try:
            session.execute(ask('{ transactions_by_iban(iban: "a", max_items: 0) { id } }'))
            raise AssertionError("an error was expected")
        except TransportQueryError as err:
            assert "expected 1 to 1000" in str(err), err
    return account


async def over_websocket(account):
    transport = WebsocketsTransport(url=URL.replace("http", "ws"))
    async with Client(transport=transport, fetch_schema_from_transport=True) as session:
        events = session.subscribe(ask(STREAM, iban=account["iban"]))
        first = asyncio.ensure_future(events.__anext__())
        # Deposits until the subscription hears of one: nothing says when it has begun.
        made = 0
        while not first.done():
            made += 1
            deposit = dict(uuid=str(uuid.uuid4()), amount=100, to=account["iban"], descr=f"event {made}")
            result = await session.execute(ask("mutation" + TRANSFER, **deposit))
            assert result["money_transfer"]["success"], result
            await asyncio.wait([first], timeout=0.2)
            assert made < 100
        event = first.result()["stream_transactions"]
        # The answer over HTTP does not wait until subscribers have heard: the first they hear may be that transfer.
        assert event["descr"] == "by gql" or event["descr"].startswith("event "), event
        assert event["new_balance"].startswith("€"), event
        await events.aclose()
        async for answer in session.subscribe(ask("subscription" + ACCOUNT, u=f"user-{uuid.uuid4()}", p="correct horse")):
            assert answer["get_account"]["iban"], answer


asyncio.run(over_websocket(over_http()))

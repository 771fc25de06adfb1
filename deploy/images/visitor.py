#!/usr/bin/env python3
"""visitor.py FRONTEND ENDPOINT: what a visitor does at these two: opens the page, GraphiQL and an account, deposits 12.34 euro, sees it."""

import gzip
import json
import sys
import time
import urllib.request
import uuid

frontend, url = sys.argv[1:]


def ask(query):
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(url + "/graphql", body, {"Content-Type": "application/json"})
    answer = json.load(urllib.request.urlopen(request, timeout=30))
    if answer.get("errors"):
        sys.exit(f"visitor: {query}: {answer}")
    return answer["data"]


def shows(address, word):
    with urllib.request.urlopen(address, timeout=30) as reply:
        page = reply.read()
        if reply.headers["Content-Encoding"] == "gzip":
            page = gzip.decompress(page)
    if word not in page:
        sys.exit(f"visitor: {address} says {page[:200]}")


def main():
    shows(frontend, b"<script")
    shows(url, b"graphiql")

    name = f"visitor-{uuid.uuid4()}"
    account = ask(f'mutation {{ get_account(username: "{name}", password: "a long password") {{ iban reason }} }}')
    iban = account["get_account"]["iban"]
    deposit = f'token: "cash", amount: 1234, from: "cash", to: "{iban}", descr: "a deposit"'
    done = ask(f'mutation {{ money_transfer(uuid: "{uuid.uuid4()}", {deposit}) {{ success reason }} }}')
    if not done["money_transfer"]["success"]:
        sys.exit(f"visitor: {done}")

    # The outcome and the change come on two topics.
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        seen = ask(f'{{ transactions_by_iban(iban: "{iban}", max_items: 2) {{ new_balance }} }}')
        if seen["transactions_by_iban"] == [{"new_balance": "€12,34"}]:
            print(f"visitor: {iban} has {seen['transactions_by_iban'][0]['new_balance']}")
            return
        time.sleep(0.1)
    sys.exit(f"visitor: {seen}")


main()

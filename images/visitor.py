#!/usr/bin/env python3
"""visitor.py URL: what a visitor of the graphql-endpoint there does: opens GraphiQL and an account, deposits 12.34 euro, and sees it."""

import gzip
import json
import sys
import time
import urllib.request
import uuid

url = sys.argv[1]


def ask(query):
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(url + "/graphql", body, {"Content-Type": "application/json"})
    answer = json.load(urllib.request.urlopen(request, timeout=30))
    if answer.get("errors"):
        sys.exit(f"visitor: {query}: {answer}")
    return answer["data"]


def main():
    page = gzip.decompress(urllib.request.urlopen(url, timeout=30).read())
    if b"graphiql" not in page:
        sys.exit(f"visitor: {url} says {page[:200]}")

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

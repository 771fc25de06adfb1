#!/usr/bin/env python3
"""simulated_user.py FRONTEND ENDPOINT: uses the bank as a user does.

Loads the page and GraphiQL, and sends documents that must be refused. Then opens an account,
deposits 12.34 euro and waits for the new balance. FRONTEND and ENDPOINT are URLs.
"""

import gzip
import json
import sys
import time
import urllib.request
import uuid

ALIASES = " ".join(f"a{n}: description" for n in range(600))
NESTED = "fields { type { ofType { ofType { "
LIST = 'transactions_by_iban(iban: "a", max_items: 1000)'
# The GraphQL library panics on the first four. It needs too much memory for the last two.
REFUSED = [
    "query($v: Boolean = null) { __typename @skip(if: $v) }",
    "subscription { ...f } fragment f on Subscription { __typename }",
    '{ __type(name: """a\n b\n\u00a0c""") { name } }',
    "query($v: Unknown = 1) { __typename }",
    "subscription { a: stream_transactions { id } b: stream_transactions { id } }",
    f"{{ __schema {{ types {{ {NESTED * 4} {ALIASES} {'} } } } ' * 4} }} }} }}",
    f"{{ {LIST} {{ id }} {LIST} {{ {ALIASES.replace('description', 'descr')} }} }}",
]


def send(url, query):
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(url + "/graphql", body, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=30))


def execute(url, query):
    response = send(url, query)
    if response.get("errors"):
        sys.exit(f"simulated_user: {query} failed: {response}")
    return response["data"]


def check_page(address, text):
    with urllib.request.urlopen(address, timeout=30) as response:
        page = response.read()
        if response.headers["Content-Encoding"] == "gzip":
            page = gzip.decompress(page)
    if text not in page:
        sys.exit(f"simulated_user: {address} does not contain {text}: {page[:200]}")


def main():
    frontend, url = sys.argv[1:]
    check_page(frontend, b"<script")
    check_page(url, b"graphiql")

    for query in REFUSED:
        response = send(url, query)
        if not response.get("errors"):
            sys.exit(f"simulated_user: {query} was not refused: {response}")

    login = f'username: "user-{uuid.uuid4()}", password: "a long password"'
    account = execute(url, f"mutation {{ get_account({login}) {{ iban reason }} }}")
    iban = account["get_account"]["iban"]
    deposit = f'token: "cash", amount: 1234, from: "cash", to: "{iban}", descr: "a deposit"'
    transfer = f'money_transfer(uuid: "{uuid.uuid4()}", {deposit})'
    outcome = execute(url, f"mutation {{ {transfer} {{ success reason }} }}")
    if not outcome["money_transfer"]["success"]:
        sys.exit(f"simulated_user: deposit rejected: {outcome}")

    # The new balance may arrive after the outcome, because it has another topic.
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        query = f'transactions_by_iban(iban: "{iban}", max_items: 2)'
        found = execute(url, f"{{ {query} {{ new_balance }} }}")
        if found["transactions_by_iban"] == [{"new_balance": "€12,34"}]:
            print(f"simulated_user: {iban} has a balance of €12,34")
            return
        time.sleep(0.1)
    sys.exit(f"simulated_user: no balance of €12,34 within 10 s: {found}")


if __name__ == "__main__":
    main()

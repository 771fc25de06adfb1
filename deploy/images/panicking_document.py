#!/usr/bin/env python3
"""panicking_document.py ENDPOINT: checks that a panic ends only one operation of a client.

Needs a graphql-endpoint with the feature `failpoints`, which lets juniper panic on a document that
is otherwise refused. The script sends it by each transport, while another client has a
subscription. ENDPOINT is the URL of the endpoint.
"""

import json
import sys

from hostile import Address, WebSocket, stream
from simulated_user import REFUSED

DOCUMENT = REFUSED[0]


def check(what, response):
    if "internal error" not in response:
        sys.exit(f"panicking_document: {what}: expected an internal error, received {response}")


def main():
    endpoint = Address.of(sys.argv[1])
    with WebSocket(endpoint) as other, WebSocket(endpoint) as client:
        other.subscribe("1", query=stream())
        check("POST", endpoint.post(DOCUMENT)[1].decode())
        events = endpoint.post(DOCUMENT, Accept="text/event-stream")[1].decode()
        check("server-sent events", events)
        client.subscribe("1", query=DOCUMENT)
        check("websocket", json.dumps(client.expect("next")))
        client.expect("complete")
        # Both connections are open, and the operations on them continue.
        for connection in other, client:
            connection.send({"type": "ping"})
            connection.expect("pong")
        other.send({"type": "complete", "id": "1"})
    data = endpoint.execute("{ __typename }")
    if data != {"__typename": "Query"}:
        sys.exit(f"panicking_document: unexpected response {data}")
    print("panicking_document: each panic has ended one operation")


main()

#!/usr/bin/env python3
"""Attacks a running graphql-endpoint while honest clients use it, and checks that it keeps serving.

All attacks run at the same time, each in its own process and from its own address 127.0.0.N. The
honest clients use 127.0.0.1: each deposits cents, waits for them on its subscription, queries them
and logs in. The exit code is 1 if

- the process has ended, was restarted or has exceeded its memory limit;
- a request of an honest client failed;
- the 99th percentile of a kind of request is 1 s or more, or 8 s for logins, whose hash takes most
  of a second of one core on purpose;
- a probe of /healthz failed or took 1 s or more;
- an honest client has another balance than it has deposited;
- an operation that must be refused was not;
- memory, threads or open files stay above their values before the attacks.

The defaults fit the image's endpoint with VISITORS=200. Example, with the bank of `make up`:

    deploy/images/hostile.py --seconds 20 --pid "$(stack/stack.sh pid graphql-endpoint)"
"""

import argparse
import base64
import collections
import dataclasses
import http.client
import itertools
import json
import multiprocessing
import os
import queue
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
import uuid

from simulated_user import REFUSED

LATENCY_MAX_S = 1.0
# A hash takes most of a second of one core, at low priority, and the attacks keep all cores busy.
LOGIN_MAX_S = 8.0
TIMEOUT_S = 10
# Time for memory, threads and open files to return to their values before the attacks.
RECOVERY_S = 30
PASSWORD = "a long password"
# Transactions of the account that slow readers ask for: a response of 600 kB, more than the buffers
# of a socket hold.
LONG_TRANSACTIONS = 300
LONG_DESCRIPTION = "x" * 1000
ALL_FIELDS = "id ref sequence iban new_balance changed_by from_to descr direction"

context = multiprocessing.get_context("fork")


def say(text):
    print(f"hostile: {text}", flush=True)


# The connections of all clients.


@dataclasses.dataclass(frozen=True)
class Address:
    """The address of a server, and the address from which a client connects to it."""

    host: str
    port: int
    source: str | None = None

    @classmethod
    def of(cls, url):
        parts = urllib.parse.urlsplit(url)
        return cls(socket.gethostbyname(parts.hostname), parts.port)

    def seen_from(self, source):
        """The same server from another address of this machine, if the server is on it."""
        is_local = self.host.startswith("127.")
        return dataclasses.replace(self, source=source if is_local else None)

    def connect(self, receive_buffer=None):
        connection = socket.socket()
        connection.settimeout(TIMEOUT_S)
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if self.source:
            connection.bind((self.source, 0))
        connection.connect((self.host, self.port))
        return connection

    def request(self, method, path, body=None, headers=None):
        """Sends a request on a new connection. Returns the status and the body."""
        source = (self.source, 0) if self.source else None
        client = http.client.HTTPConnection(self.host, self.port, TIMEOUT_S, source)
        try:
            client.request(method, path, body, headers or {})
            response = client.getresponse()
            return response.status, response.read()
        finally:
            client.close()

    def post(self, query, variables=None, **headers):
        body = json.dumps({"query": query, "variables": variables})
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request(
            "POST", "/graphql", body, {"Content-Type": "application/json"} | headers
        )

    def execute(self, query, variables=None):
        """The data of a query or mutation, or an exception."""
        status, body = self.post(query, variables)
        try:
            response = json.loads(body)
        except ValueError:
            raise Failed(f"status {status}: {body[:200]!r}") from None
        if status != 200 or response.get("errors"):
            raise Failed(f"status {status}: {body[:200]!r}")
        return response["data"]


class Failed(Exception):
    """The endpoint refused a request or closed a connection."""


TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


def frame(opcode, payload, final=True, masked=True):
    """A frame of a websocket. Its mask is 0, so that the payload stays as it is."""
    size = len(payload)
    head = bytes([opcode | (0x80 if final else 0)])
    mask_bit = 0x80 if masked else 0
    if size < 126:
        head += bytes([mask_bit | size])
    elif size < 1 << 16:
        head += bytes([mask_bit | 126]) + struct.pack("!H", size)
    else:
        head += bytes([mask_bit | 127]) + struct.pack("!Q", size)
    return head + (bytes(4) if masked else b"") + payload


class WebSocket:
    """A client of graphql-transport-ws, after `connection_init`."""

    def __init__(self, address, receive_buffer=None):
        self.connection = address.connect(receive_buffer)
        self.received = b""
        key = base64.b64encode(os.urandom(16)).decode()
        self.connection.sendall(
            f"GET /graphql HTTP/1.1\r\nHost: {address.host}:{address.port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
            "".encode()
        )
        head = self.read_until(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise Failed(f"websocket handshake: {head[:100]!r}")
        self.send({"type": "connection_init"})
        self.expect("connection_ack")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def send(self, *messages):
        frames = [frame(TEXT, json.dumps(message).encode()) for message in messages]
        self.connection.sendall(b"".join(frames))

    def subscribe(self, *ids, query):
        payload = {"query": query}
        self.send(*({"type": "subscribe", "id": it, "payload": payload} for it in ids))

    def expect(self, kind, timeout=TIMEOUT_S):
        """The next message, which must be of this type. Answers pings before it."""
        deadline = time.monotonic() + timeout
        while True:
            self.connection.settimeout(max(deadline - time.monotonic(), 0.001))
            opcode, payload = self.read_frame()
            if opcode == PING:
                self.connection.sendall(frame(PONG, payload))
            elif opcode == CLOSE:
                raise Failed(f"websocket closed: {payload[:2].hex()} {payload[2:]!r}")
            elif opcode == TEXT:
                message = json.loads(payload)
                if message["type"] != kind:
                    raise Failed(f"expected {kind}: {payload[:200]!r}")
                return message

    def read_frame(self):
        opcode, size = self.read(2)
        size &= 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", self.read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self.read(8))
        return opcode & 0x0F, self.read(size)

    def read(self, size):
        while len(self.received) < size:
            self.receive()
        result, self.received = self.received[:size], self.received[size:]
        return result

    def read_until(self, end):
        while end not in self.received:
            self.receive()
        result, _, self.received = self.received.partition(end)
        return result

    def receive(self):
        part = self.connection.recv(1 << 16)
        if not part:
            raise Failed("websocket closed without a close frame")
        self.received += part


# The attacks. Each function is one round on one connection. It is repeated until the end.


@dataclasses.dataclass
class Target:
    """What an attack knows of the endpoint."""

    endpoint: Address
    health: Address
    over: multiprocessing.Event
    done: multiprocessing.Value
    violations: multiprocessing.Queue
    # An iban with LONG_TRANSACTIONS, and the name of a user.
    iban: str
    username: str

    def count(self, number=1):
        """Counts requests, operations or connections of this attack."""
        with self.done.get_lock():
            self.done.value += number

    def hold(self, seconds):
        """Waits. True unless the attacks are over."""
        return not self.over.wait(seconds)

    def violation(self, text):
        self.violations.put(text)


@dataclasses.dataclass
class Attack:
    round: callable
    threads: int

    @property
    def name(self):
        return self.round.__name__


ATTACKS = []


def attack(threads):
    """Registers an attack: `threads` connections at the same time."""

    def register(function):
        ATTACKS.append(Attack(function, threads))
        return function

    return register


def stream(arguments=""):
    return f"subscription {{ stream_transactions{arguments} {{ {ALL_FIELDS} }} }}"


def list_of(target, alias=""):
    query = f'transactions_by_iban(iban: "{target.iban}", max_items: 1000)'
    return f"{alias} {query} {{ {ALL_FIELDS} }} "


def reset(connection):
    """Closes with a reset instead of an orderly end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def read_to_end(connection):
    while connection.recv(1 << 16):
        pass


@attack(threads=40)
def subscriptions(target):
    """32 subscriptions on each websocket. A quarter of the websockets select all transactions."""
    serial = next(SERIAL)
    arguments = "" if serial % 4 == 0 else f'(iban: "nobody-{serial}")'
    with WebSocket(target.endpoint) as client:
        client.subscribe(*map(str, range(32)), query=stream(arguments))
        target.count(32)
        client.connection.settimeout(5)
        while not target.over.is_set():
            try:
                if not client.connection.recv(1 << 16):
                    return
            except TimeoutError:
                pass
            # The endpoint accepts it instead of the answer to a ping, which is not read here.
            client.connection.sendall(frame(PONG, b""))


SERIAL = itertools.count()


@attack(threads=2)
def subscribe_and_complete(target):
    """Starts and completes subscriptions as fast as the endpoint reads."""
    with WebSocket(target.endpoint) as client:
        for start in range(0, 10_000, 16):
            ids = [str(it) for it in range(start, start + 16)]
            client.subscribe(*ids, query=stream())
            client.send(*({"type": "complete", "id": it} for it in ids))
            target.count(16)
            client.connection.settimeout(0.001)
            try:
                if not client.connection.recv(1 << 16):
                    return
            except TimeoutError:
                pass
            client.connection.settimeout(TIMEOUT_S)
            if not target.hold(0.01):
                return


@attack(threads=2)
def subscribe_and_disconnect(target):
    with WebSocket(target.endpoint) as client:
        client.subscribe(*map(str, range(32)), query=stream())
        target.count(32)
        reset(client.connection)
    target.hold(0.02)


@attack(threads=12)
def slow_readers(target):
    """Reads a large response with one byte per second."""
    body = json.dumps({"query": f"{{ {list_of(target, 'a:')} {list_of(target, 'b:')} }}"})
    head = "POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with target.endpoint.connect(receive_buffer=4096) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        target.count()
        for _ in range(60):
            if not connection.recv(1) or not target.hold(1):
                return


@attack(threads=4)
def stalled_subscribers(target):
    """Subscribes on a websocket and does not read, but stays alive."""
    with WebSocket(target.endpoint, receive_buffer=4096) as client:
        client.subscribe(*map(str, range(32)), query=stream())
        target.count(32)
        while target.hold(5):
            client.connection.sendall(frame(PONG, b""))


@attack(threads=2)
def stalled_event_streams(target):
    """Subscribes by server-sent events and does not read."""
    query = urllib.parse.urlencode({"query": stream()})
    with target.endpoint.connect(receive_buffer=4096) as connection:
        connection.sendall(
            f"GET /graphql?{query} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
            "".encode()
        )
        target.count()
        target.hold(20)


def send_slowly(target, address, start, rest):
    with address.connect() as connection:
        connection.sendall(start)
        target.count()
        for byte in rest:
            if not target.hold(1):
                return
            connection.sendall(bytes([byte]))
        read_to_end(connection)
    # Not at once, if the endpoint refuses connections.
    target.hold(0.05)


@attack(threads=10)
def half_heads(target):
    send_slowly(target, target.endpoint, b"POST /graphql HTTP/1.1\r\nHost: local", b"host\r\nX: y")


@attack(threads=10)
def half_bodies(target):
    head = b"POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    send_slowly(target, target.endpoint, head + b"Content-Length: 60000\r\n\r\n", b'{"query": "')


@attack(threads=20)
def idle_connections(target):
    send_slowly(target, target.endpoint, b"", b"")


@attack(threads=64)
def idle_connections_to_health(target):
    send_slowly(target, target.health, b"", b"")


@attack(threads=8)
def half_heads_to_health(target):
    send_slowly(target, target.health, b"GET /healthz HTTP/1.1\r\n", b"Host: localhost")


@attack(threads=2)
def aliases(target):
    """Documents at and above the limits of rows, fields, tokens and depth."""
    singles = "".join(f"a{n}: transaction_by_id(id: {n}) {{ {ALL_FIELDS} }} " for n in range(100))
    for query in (
        f"{{ {list_of(target, 'a:')} {list_of(target, 'b:')} }}",
        f"{{ {singles} }}",
        "{ " + "".join(f"a{n}: all_last_transactions {{ id }} " for n in range(300)) + "}",
        "{ " + "__typename " * 1900 + "}",
        "{ __schema { types " + "{ fields { type { ofType " * 6 + "{ name }" + "} } }" * 6 + " } }",
        "{" * 5000,
    ):
        target.endpoint.post(query)
        target.count()
        target.hold(0.01)


@attack(threads=1)
def refused_documents(target):
    """Documents that would end the process, and others that must be refused."""
    for query, variables in [(it, None) for it in REFUSED] + [
        ("query($v: Boolean) { __typename @include(if: $v) }", {"v": "yes"}),
        ("query($v: Boolean!) { __typename @include(if: $v) }", {"v": None}),
        ("query($v: [[Int!]!]!) { __typename @skip(if: $v) }", {"v": [[None]]}),
        ("query($v: Int!) { transaction_by_id(id: $v) { id } }", {"v": 1 << 60}),
    ]:
        status, body = target.endpoint.post(query, variables)
        target.count()
        if status != 503 and b'"errors"' not in body:
            target.violation(f"{query} with {variables} was not refused: {status} {body[:200]!r}")
        with WebSocket(target.endpoint) as client:
            payload = {"query": query, "variables": variables}
            client.send({"type": "subscribe", "id": "1", "payload": payload})
            target.count()
            client.read_frame()
        target.hold(0.02)


HEADS = (
    "POST /graphql HTTP/1.1\r\n",
    "POST /graphql HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
    "POST http://attacker.example/graphql HTTP/1.1\r\nHost: localhost\r\n",
    "POST /graphql HTTP/1.1\r\nHost: " + "x" * 5000 + "\r\n",
    "POST /graphql HTTP/1.1\r\nHost: localhost\r\n" + "X: y\r\n" * 200,
    "POST /graphql HTTP/9.9\r\nHost: \xff\r\nTransfer-Encoding: chunked\r\n",
    "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)


@attack(threads=1)
def foreign_hosts(target):
    """Requests to a name of the attacker (DNS rebinding), and invalid heads."""
    for host in "attacker.example", "attacker.example:80", "localhost.attacker.example":
        status, body = target.endpoint.post("{ __typename }", Host=host)
        target.count()
        if status == 200:
            target.violation(f"a request to {host} was not refused: {body[:200]!r}")
    for head in HEADS:
        body = '{"query": "{ __typename }"}'
        rest = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        with target.endpoint.connect() as connection:
            connection.sendall((head + rest).encode("latin-1"))
            target.count()
            read_to_end(connection)
        target.hold(0.02)


@attack(threads=1)
def mutations_without_post(target):
    """Mutations by GET and HEAD, which a web page can send without permission of CORS."""
    name = f"without-post-{uuid.uuid4()}"
    for kind, method, accept in itertools.product(
        ("mutation", "subscription"), ("GET", "HEAD"), ("application/json", "text/event-stream")
    ):
        field = f'get_account(username: "{name}", password: "{PASSWORD}") {{ iban }}'
        query = urllib.parse.urlencode({"query": f"{kind} {{ {field} }}"})
        status, body = target.endpoint.request(
            method, f"/graphql?{query}", headers={"Accept": accept}
        )
        target.count()
        if status == 200:
            target.violation(f"{kind} by {method}, {accept} was not refused: {body[:200]!r}")
        target.hold(0.02)


@attack(threads=4)
def logins(target):
    """Wrong passwords for a user who logs in at the same time."""
    target.endpoint.post(login(target.username, "a wrong password"))
    target.count()
    target.hold(0.01)


INVALID_FRAMES = (
    frame(TEXT, b"{}", masked=False),
    frame(TEXT, b"\xff\xfe"),
    frame(0, b"x"),
    bytes([0xFF, 0x80, 0, 0, 0, 0]),
    bytes([0x81, 0xFF, 0x7F]) + bytes([0xFF] * 7),
    frame(TEXT, b'{"type":'),
    frame(TEXT, b"{" * 60_000),
    frame(TEXT, b"x" * 100_000),
    frame(TEXT, b"x", final=False) + frame(0, b"x", final=False) * 20_000,
    frame(TEXT, b"x" * 1000, final=False) + frame(0, b"x" * 1000, final=False) * 100,
    frame(PING, b"x" * 125) * 1000,
    frame(PING, b"x" * 126),
    frame(CLOSE, b"\x03"),
    frame(TEXT, json.dumps({"type": "subscribe", "id": "x" * 300, "payload": {}}).encode()),
    frame(TEXT, b'{"type": "connection_init"}'),
    b"\x81",
)


@attack(threads=3)
def frames(target):
    """Invalid, incomplete, fragmented and huge frames."""
    for attempt in INVALID_FRAMES:
        with WebSocket(target.endpoint) as client:
            client.connection.settimeout(2)
            target.count()
            try:
                client.connection.sendall(attempt)
                read_to_end(client.connection)
            except OSError:
                # Closed while the frames are sent, or still open after the timeout.
                pass
        if not target.hold(0.01):
            return


@attack(threads=1)
def connections(target):
    """Opens many connections at once and closes them, again and again."""
    opened = []
    for _ in range(FLOOD):
        try:
            opened.append(target.endpoint.connect())
        except OSError:
            break
    target.count(len(opened))
    target.hold(0.1)
    for connection in opened:
        reset(connection)
    target.hold(0.02)


# Connections that the last attack holds at a time. All clients together stay below 200.
FLOOD = 40


def run_attack(attack, target):
    """Runs one attack in a process of its own."""
    # The attacks must not take the CPU from the endpoint: that would be another test.
    os.nice(10)

    def repeat():
        while not target.over.is_set():
            try:
                attack.round(target)
            except (Failed, OSError, http.client.HTTPException, ValueError):
                # The endpoint has defended itself.
                target.hold(0.1)

    threads = [threading.Thread(target=repeat, daemon=True) for _ in range(attack.threads)]
    for thread in threads:
        thread.start()
    target.over.wait()


# The honest clients.


def login(name, password=PASSWORD):
    return (
        f'mutation {{ get_account(username: "{name}", password: "{password}") '
        "{ iban token reason } }"
    )


def deposit(transfer_id, iban, amount, description):
    return (
        f'mutation {{ money_transfer(uuid: "{transfer_id}", token: "cash", amount: {amount}, '
        f'from: "cash", to: "{iban}", descr: "{description}") {{ success reason }} }}'
    )


class Measurements:
    """Durations and failures of the honest requests, by kind."""

    def __init__(self):
        self.durations = collections.defaultdict(list)
        self.failures = collections.defaultdict(list)
        self.lock = threading.Lock()

    def measure(self, kind, call):
        """The result of `call`, or None if it failed."""
        started = time.monotonic()
        failure = result = None
        try:
            result = call()
        except (Failed, OSError, http.client.HTTPException, ValueError) as err:
            failure = f"{type(err).__name__}: {err}"
        took = time.monotonic() - started
        with self.lock:
            self.durations[kind].append(took)
            if failure:
                self.failures[kind].append(failure)
        return result

    def count(self):
        with self.lock:
            return sum(map(len, self.durations.values())), sum(map(len, self.failures.values()))

    def percentile(self, kind, percent):
        with self.lock:
            durations = sorted(self.durations[kind])
        return durations[max(0, -(-len(durations) * percent // 100) - 1)]


class HonestClient(threading.Thread):
    def __init__(self, number, endpoint, measurements, over):
        super().__init__(daemon=True)
        self.number = number
        self.endpoint, self.measurements, self.over = endpoint, measurements, over
        self.name = f"honest-{uuid.uuid4()}"
        self.iban = self.log_in()
        self.client = None
        # The sequence of the last transaction received.
        self.sequence = 0
        self.deposited = 0
        # The id of a deposit without a known outcome.
        self.unfinished = None

    def log_in(self):
        account = self.endpoint.execute(login(self.name))["get_account"]
        if not account["iban"]:
            raise Failed(f"login refused: {account['reason']}")
        return account["iban"]

    def run(self):
        for turn in itertools.count():
            if self.over.wait(0.3):
                break
            if self.client is None:
                self.client = self.measurements.measure("subscribe", self.subscribe)
            transfer_id = self.unfinished or str(uuid.uuid4())
            self.measurements.measure("transfer", lambda: self.deposit(transfer_id))
            if self.client and not self.unfinished:
                event = self.measurements.measure("event", lambda: self.wait_for(transfer_id))
                if event is None:
                    self.client.connection.close()
                    self.client = None
            self.measurements.measure("query", self.balance)
            # In turns, because an address has few places in the queue for password hashes.
            if (turn + self.number) % 10 == 0:
                self.measurements.measure("login", self.log_in)

    def subscribe(self):
        """A deposit can be stored before the endpoint has read this subscription, and is streamed
        all the same because it is after `sequence`."""
        client = WebSocket(self.endpoint)
        arguments = f'(iban: "{self.iban}", after_sequence: {self.sequence})'
        client.subscribe("1", query=stream(arguments))
        return client

    def deposit(self, transfer_id):
        """Deposits one cent. If that fails, the next call repeats it, so it happens once."""
        self.unfinished = transfer_id
        sent = deposit(transfer_id, self.iban, 1, transfer_id)
        outcome = self.endpoint.execute(sent)["money_transfer"]
        if outcome["success"] is not True:
            raise Failed(f"deposit: {outcome}")
        self.unfinished = None
        self.deposited += 1

    def wait_for(self, description):
        """Waits for the transaction on the subscription. Skips earlier ones."""
        while True:
            message = self.client.expect("next")
            transaction = (message["payload"]["data"] or {}).get("stream_transactions")
            if not transaction:
                raise Failed(f"subscription: {message['payload'].get('errors')}")
            self.sequence = int(transaction["sequence"])
            if transaction["descr"] == description:
                return message

    def balance(self):
        """The balance in cents, of the newest transaction."""
        query = f'transactions_by_iban(iban: "{self.iban}", max_items: 1)'
        found = self.endpoint.execute(f"{{ {query} {{ new_balance }} }}")["transactions_by_iban"]
        return int(re.sub(r"\D", "", found[0]["new_balance"])) if found else 0

    def lacks(self):
        """What is wrong with the balance after the attacks; None if it is right."""
        if self.unfinished:
            self.deposit(self.unfinished)
        deadline = time.monotonic() + TIMEOUT_S
        # A transaction is stored after the outcome of its transfer has arrived.
        while (found := self.balance()) < self.deposited and time.monotonic() < deadline:
            time.sleep(0.1)
        if found == self.deposited:
            return None
        return f"{self.iban} has {found} cents, expected {self.deposited}"


def probe_health(health, measurements, over):
    def probe():
        status, body = health.request("GET", "/healthz")
        if status != 200:
            raise Failed(f"status {status}: {body[:100]!r}")

    while not over.wait(0.2):
        measurements.measure("healthz", probe)


# The process of the endpoint.


@dataclasses.dataclass
class Usage:
    memory_mib: float
    threads: int
    files: int

    def __str__(self):
        return f"{self.memory_mib:.1f} MiB, {self.threads} threads, {self.files} open files"

    def exceeds(self, other, margin_mib):
        return (
            self.memory_mib > other.memory_mib + margin_mib
            # Threads and files of the pools that a first client fills.
            or self.threads > other.threads + 8
            or self.files > other.files + 16
        )


class Process:
    """The endpoint's process, by pid or as a container."""

    def __init__(self, pid, container):
        self.container = container
        self.pid = pid or int(self.inspect("{{.State.Pid}}"))
        self.started = self.stat()

    def inspect(self, template):
        command = ["docker", "inspect", "--format", template, self.container]
        return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.strip()

    def stat(self):
        """The start time of the process: field 22 of proc(5), counted from the end of the name."""
        with open(f"/proc/{self.pid}/stat") as stat:
            state, *fields = stat.read().rpartition(") ")[2].split()
        if state == "Z":
            raise ProcessLookupError(self.pid)
        return fields[18]

    def usage(self):
        with open(f"/proc/{self.pid}/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        memory = int(fields["VmRSS"].split()[0]) / 1024
        return Usage(memory, int(fields["Threads"]), len(os.listdir(f"/proc/{self.pid}/fd")))

    def end(self):
        """How the process has ended; None if it is the same as at the start."""
        if self.container:
            state = self.inspect("{{.State.Status}} {{.State.OOMKilled}} {{.RestartCount}}")
            if state != "running false 0":
                return f"the container's state, OOMKilled and RestartCount: {state}"
        try:
            return None if self.stat() == self.started else "the process was restarted"
        except OSError:
            return "the process has ended"


# The test.


def prepare(endpoint):
    """An account with LONG_TRANSACTIONS. Returns its iban."""
    name = f"long-list-{uuid.uuid4()}"
    iban = endpoint.execute(login(name))["get_account"]["iban"]
    todo = queue.SimpleQueue()
    failures = []
    for _ in range(LONG_TRANSACTIONS):
        todo.put(str(uuid.uuid4()))

    def work():
        try:
            while True:
                sent = deposit(todo.get_nowait(), iban, 1, LONG_DESCRIPTION)
                outcome = endpoint.execute(sent)["money_transfer"]
                if outcome["success"] is not True:
                    raise Failed(f"deposit: {outcome}")
        except queue.Empty:
            pass
        except (Failed, OSError) as err:
            failures.append(err)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        sys.exit(f"hostile: could not prepare an account: {failures[0]}")
    return iban


def main():
    args = arguments()
    endpoint, health = Address.of(args.endpoint), Address.of(args.health)
    process = Process(args.pid, args.container)
    honest_address = endpoint.seen_from("127.0.0.1")
    say(f"preparing an account with {LONG_TRANSACTIONS} transactions")
    iban = prepare(honest_address)
    over, attacks_over = threading.Event(), context.Event()
    measurements, violations = Measurements(), context.Queue()
    honest = [HonestClient(it, honest_address, measurements, over) for it in range(args.honest)]
    before = process.usage()
    say(f"before the attacks: {before}")

    running = start_attacks(
        args.attacks, endpoint, health, attacks_over, violations, iban, honest[0].name
    )
    for client in honest:
        client.start()
    prober = threading.Thread(target=probe_health, args=(health, measurements, over), daemon=True)
    prober.start()
    highest = watch(process, measurements, args.seconds)
    found = [process.end()]
    over.set()
    for thread in [*honest, prober]:
        thread.join(3 * TIMEOUT_S)
    attacks_over.set()
    for child, _, _ in running:
        child.join(2)
        child.kill()

    for client in honest:
        if client.client:
            client.client.connection.close()
    if found[0] is None:
        found += [client.lacks() for client in honest]
        after = recover(process, before, args.margin_mib)
        if after.exceeds(before, args.margin_mib):
            found.append(f"{after} after the attacks, {before} before")
        say(f"memory: {before} before, {highest} at most, {after} after")
        found.append(process.end())
    found += report(measurements, running)
    if found[0] is None:
        idle = [it.name for _, it, done in running if done.value == 0]
        found += [f"the attack {name} reached nothing" for name in idle]
    while not violations.empty():
        found.append(violations.get())
    found = list(dict.fromkeys(filter(None, found)))
    for violation in found:
        say(f"VIOLATION: {violation}")
    say("failed" if found else "passed")
    sys.exit(1 if found else 0)


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [it.name for it in ATTACKS]
    it = os.environ
    parser.add_argument(
        "--endpoint", default=it.get("GRAPHQL_ENDPOINT_URL", "http://127.0.0.1:8888")
    )
    parser.add_argument("--health", default=it.get("GRAPHQL_ENDPOINT_HEALTH_URL"), required=False)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--pid", type=int, help="pid of the endpoint")
    which.add_argument("--container", help="name of the endpoint's container")
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--honest", type=int, default=10, help="number of honest clients")
    parser.add_argument(
        "--margin-mib",
        type=float,
        default=16,
        help="memory that may stay in use after the attacks, since the allocator keeps free blocks",
    )
    parser.add_argument(
        "--attacks",
        type=lambda text: text.split(","),
        default=names,
        help="names of attacks, separated by commas: " + " ".join(names),
    )
    args = parser.parse_args()
    if unknown := set(args.attacks) - set(names):
        parser.error(f"unknown attacks: {' '.join(unknown)}")
    if not args.health:
        parser.error("--health is missing")
    return args


def start_attacks(names, endpoint, health, over, violations, iban, username):
    """Starts a process for each attack. Returns process, attack and its count."""
    running = []
    for number, it in enumerate(ATTACKS, 2):
        if it.name in names:
            source = f"127.0.0.{number}"
            done = context.Value("Q", 0)
            target = Target(
                endpoint.seen_from(source),
                health.seen_from(source),
                over,
                done,
                violations,
                iban,
                username,
            )
            child = context.Process(target=run_attack, args=(it, target), daemon=True)
            child.start()
            running.append((child, it, done))
    return running


def watch(process, measurements, seconds):
    """Prints the progress until the time is over or the process has ended. Returns the highest
    usage."""
    started = time.monotonic()
    highest = Usage(0, 0, 0)
    while (elapsed := time.monotonic() - started) < seconds and process.end() is None:
        time.sleep(min(1, seconds - elapsed))
        try:
            now = process.usage()
        except OSError:
            break
        highest = Usage(*map(max, dataclasses.astuple(highest), dataclasses.astuple(now)))
        if int(elapsed) % 5 == 4:
            requests, failures = measurements.count()
            say(f"{elapsed + 1:3.0f} s: {now}; {requests} honest requests, {failures} failed")
    return highest


def recover(process, before, margin_mib):
    deadline = time.monotonic() + RECOVERY_S
    while (now := process.usage()).exceeds(before, margin_mib) and time.monotonic() < deadline:
        time.sleep(0.5)
    return now


def report(measurements, running):
    """Prints the attacks and the honest requests. Returns the violations."""
    found = []
    print(f"{'attack':<28}{'connections':>12}{'requests':>12}")
    for _, it, done in running:
        print(f"{it.name:<28}{it.threads:>12}{done.value:>12}")
    columns = "count", "failed", "p50, ms", "p99, ms", "highest, ms"
    print(f"{'honest request':<16}" + "".join(f"{it:>12}" for it in columns))
    for kind in measurements.durations:
        p50, p99, highest = (measurements.percentile(kind, it) for it in (50, 99, 100))
        failures = measurements.failures[kind]
        counts = f"{len(measurements.durations[kind]):>12}{len(failures):>12}"
        times = "".join(f"{it * 1000:>12.0f}" for it in (p50, p99, highest))
        print(f"{kind:<16}{counts}{times}")
        limited = highest if kind == "healthz" else p99
        latency_max = LOGIN_MAX_S if kind == "login" else LATENCY_MAX_S
        if limited >= latency_max:
            found.append(f"{kind}: {limited:.3f} s, expected less than {latency_max} s")
        for failure, count in collections.Counter(failures).most_common(3):
            found.append(f"{kind} failed {count} times: {failure}")
    return found


if __name__ == "__main__":
    main()

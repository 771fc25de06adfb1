// Tests the endpoint at URL (http://host:port/graphql) with graphql-js, graphql-ws and graphql-sse.
// SCHEMAS is a folder with the talk's schema and previous ones. Exits with 0 if all assertions hold.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import {
  buildClientSchema,
  buildSchema,
  findBreakingChanges,
  getIntrospectionQuery,
} from "graphql";
import { createClient as createSse } from "graphql-sse";
import { createClient as createWs } from "graphql-ws";
import WebSocket from "ws";

const { URL: url, SCHEMAS: schemas, START: start } = process.env;
const wsUrl = url.replace("http", "ws");

const GET_ACCOUNT =
  "($u: String!, $p: String!) { get_account(username: $u, password: $p) { iban token reason } }";
const MONEY_TRANSFER = `($uuid: String!, $token: String!, $amount: Int!,
    $from: String!, $to: String!, $descr: String!) {
  money_transfer(uuid: $uuid, token: $token, amount: $amount,
    from: $from, to: $to, descr: $descr) { uuid success reason } }`;
const STREAM = `subscription($iban: String, $min: Int, $direction: dtype) {
  stream_transactions(iban: $iban, min_amount: $min, direction: $direction) {
    descr changed_by direction } }`;

async function post(query, variables, headers = {}) {
  const body = JSON.stringify({ query, variables });
  const reply = await fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    body,
  });
  return reply.json();
}

// All responses of an operation that ends by itself.
async function all(client, payload) {
  const answers = [];
  for await (const answer of client.iterate(payload)) answers.push(answer);
  return answers;
}

const deposit = (iban, amount, descr) => ({
  uuid: randomUUID(),
  token: "cash",
  amount,
  from: "cash",
  to: iban,
  descr,
});

async function schema() {
  const { data } = await post(getIntrospectionQuery());
  const ours = buildClientSchema(data);
  const previous = readdirSync(schemas);
  assert.ok(previous.length > 1, "the talk's schema and the committed ones");
  for (const file of previous) {
    const theirs = buildSchema(readFileSync(`${schemas}/${file}`, "utf8"));
    assert.deepEqual(findBreakingChanges(theirs, ours), [], file);
  }
  for (const type of [
    ours.getQueryType(),
    ours.getMutationType(),
    ours.getSubscriptionType(),
    ours.getType("Transaction"),
  ]) {
    for (const field of Object.values(type.getFields()))
      assert.ok(field.description, `${type}.${field.name} has no description`);
  }
}

// An amount above 2^53 keeps all its digits. A variable of a client is a text or a number.
async function largeAmounts(client) {
  const account = await post(`mutation ${GET_ACCOUNT}`, {
    u: `user-${randomUUID()}`,
    p: "correct horse",
  });
  const { iban } = account.data.get_account;
  const query = `mutation($uuid: String!, $cents: Long, $to: String!) {
    money_transfer(uuid: $uuid, token: "cash", amount_cents: $cents, from: "cash", to: $to,
      descr: "large") { success reason } }`;
  for (const cents of ["9007199254740993", 3_000_000_000]) {
    const variables = { uuid: randomUUID(), cents, to: iban };
    const [made] = await all(client, { query, variables });
    assert.equal(made.data.money_transfer.success, true, JSON.stringify(made));
  }
  const LAST = `query($iban: String!) { transactions_by_iban(iban: $iban, max_items: 2) {
    changed_by_cents new_balance_cents } }`;
  for (const deadline = Date.now() + 30_000; ;) {
    const [{ data }] = await all(client, { query: LAST, variables: { iban } });
    if (data.transactions_by_iban.length === 2) {
      assert.deepEqual({ ...data.transactions_by_iban[0] }, {
        changed_by_cents: "3000000000",
        new_balance_cents: "9007202254740993",
      });
      return;
    }
    assert.ok(Date.now() < deadline, JSON.stringify(data));
    await new Promise((next) => setTimeout(next, 20));
  }
}

// A lost connection: the client subscribes again by itself, with the variables of that time.
async function continued() {
  let socket;
  const client = createWs({
    url: wsUrl,
    webSocketImpl: WebSocket,
    shouldRetry: () => true,
    on: { connected: (it) => (socket = it) },
  });
  const user = { u: `user-${randomUUID()}`, p: "correct horse" };
  const { data: opened } = await post(`mutation ${GET_ACCOUNT}`, user);
  const { iban } = opened.get_account;
  const pay = async () => {
    const { data } = await post(`mutation ${MONEY_TRANSFER}`, deposit(iban, 100, "paid"));
    assert.equal(data.money_transfer.success, true);
  };
  const query = `subscription($iban: String!, $after: Long!) {
    stream_transactions(iban: $iban, after_sequence: $after) { sequence } }`;
  const variables = { iban, after: "0" };
  const received = [];
  await pay();
  await pay();
  for await (const { data } of client.iterate({ query, variables })) {
    variables.after = data.stream_transactions.sequence;
    received.push(variables.after);
    if (received.length === 4) break;
    if (received.length === 2) {
      socket.terminate();
      await pay();
      await pay();
    }
  }
  assert.deepEqual(received, ["1", "2", "3", "4"]);
  await client.dispose();
}

// The operations of a client of the bank: login, subscriptions, deposits, a payment.
async function customer(client) {
  const user = { u: `user-${randomUUID()}`, p: "correct horse" };
  const [opened, ...more] = await all(client, {
    query: `subscription ${GET_ACCOUNT}`,
    variables: user,
  });
  const account = opened.data.get_account;
  assert.equal(more.length, 0);
  assert.match(account.iban, /^NL\d\dOPEN\d{10}$/);
  const [again] = await all(client, { query: `mutation ${GET_ACCOUNT}`, variables: user });
  assert.deepEqual(again.data.get_account, account);

  const every = client.iterate({ query: STREAM, variables: { iban: account.iban } });
  const large = client.iterate({ query: STREAM, variables: { iban: account.iban, min: 1000 } });
  const debits = client.iterate({
    query: STREAM,
    variables: { iban: account.iban, direction: "DEBIT" },
  });
  const events = [every.next(), large.next(), debits.next()];
  await subscribed(3);
  const small = deposit(account.iban, 999, "small");
  for (const kind of ["subscription", "mutation"]) {
    const [made] = await all(client, { query: `${kind} ${MONEY_TRANSFER}`, variables: small });
    assert.deepEqual(
      { ...made.data.money_transfer },
      { uuid: small.uuid, success: true, reason: null },
    );
  }
  await all(client, {
    query: `mutation ${MONEY_TRANSFER}`,
    variables: deposit(account.iban, 1000, "large"),
  });
  const out = { ...deposit("cash", 5, "out"), from: account.iban, token: account.token };
  await all(client, { query: `subscription ${MONEY_TRANSFER}`, variables: out });
  const event = ({ value }) => ({ ...value.data.stream_transactions });
  const [first, one, debit] = (await Promise.all(events)).map(event);
  assert.deepEqual(first, { descr: "small", changed_by: "€9,99", direction: "CREDIT" });
  assert.deepEqual(event(await every.next()), {
    descr: "large",
    changed_by: "€10,00",
    direction: "CREDIT",
  });
  assert.deepEqual(event(await every.next()).descr, "out");
  assert.equal(one.descr, "large");
  assert.deepEqual(debit, { descr: "out", changed_by: "-€0,05", direction: "DEBIT" });
  await Promise.all([every.return(), large.return(), debits.return()]);
  await subscribed(0);
}

// Waits until the endpoint has `count` subscribers.
async function subscribed(count) {
  for (const deadline = Date.now() + 30_000; ;) {
    const text = await (await fetch(process.env.METRICS)).text();
    const found = text.match(/^graphql_subscribers (\d+)$/m)?.[1] ?? "0";
    if (Number(found) === count) return;
    assert.ok(Date.now() < deadline, `${found} subscribers, not ${count}`);
    await new Promise((next) => setTimeout(next, 20));
  }
}

async function refusals(client) {
  const [answer] = await all(client, {
    query: '{ transactions_by_iban(iban: "a", max_items: 0) { id } }',
  });
  assert.match(answer.errors[0].message, /expected 1 to 1000/);
  assert.equal(answer.errors[0].extensions.code, "BAD_USER_INPUT");
  const two = "subscription { a: stream_transactions { id } b: stream_transactions { id } }";
  for (const [query, code] of [
    ["{ nothing }", "GRAPHQL_VALIDATION_FAILED"],
    ["{", "GRAPHQL_PARSE_FAILED"],
    ["subscription { stream_transactions { nothing } }", "GRAPHQL_VALIDATION_FAILED"],
    [two, "GRAPHQL_VALIDATION_FAILED"],
  ]) {
    // graphql-ws throws the errors of an invalid operation; graphql-sse returns them.
    const refused = await all(client, { query }).catch((errors) => [{ errors }]);
    assert.equal(refused[0].errors[0].extensions.code, code, query);
  }
}

async function manyAtOnce(client) {
  const queries = Array.from({ length: 10 }, (_, n) =>
    all(client, { query: `{ n${n}: __typename }` }),
  );
  (await Promise.all(queries)).forEach(([answer], n) =>
    assert.equal(answer.data[`n${n}`], "Query"),
  );
}

// Sends `messages` and returns the code and reason of the close frame.
function closing(messages, protocol = "graphql-transport-ws") {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(wsUrl, protocol === null ? [] : [protocol]);
    socket.on("open", () =>
      messages.forEach((it) =>
        socket.send(typeof it === "string" || Buffer.isBuffer(it) ? it : JSON.stringify(it)),
      ),
    );
    socket.on("error", reject);
    socket.on("close", (code, reason) => resolve({ code, reason: reason.toString() }));
  });
}

async function closeCodes() {
  const init = { type: "connection_init" };
  const subscribe = {
    type: "subscribe",
    id: "1",
    payload: { query: "subscription { stream_transactions { id } }" },
  };
  const started = Date.now();
  for (const [code, messages, protocol] of [
    [4408, []],
    [4400, ["nonsense"]],
    [4400, [init, { type: "nonsense" }]],
    [4400, [init, { ...subscribe, payload: { query: 1 } }]],
    [4400, [init, Buffer.from("binary")]],
    [4401, [subscribe]],
    [4429, [init, init]],
    [4409, [init, subscribe, subscribe]],
    [1013, [init, ...Array.from({ length: 33 }, (_, n) => ({ ...subscribe, id: `${n}` }))]],
    [1009, [init, "x".repeat(70_000)]],
    [4406, [], null],
    [4406, [], "graphql-ws"],
  ]) {
    const closed = await closing(messages, protocol).catch((err) => ({ code: err.message }));
    // A client with another subprotocol may refuse the handshake before the close frame.
    if (protocol === "graphql-ws" && /subprotocol/.test(closed.code)) continue;
    assert.equal(closed.code, code, JSON.stringify([messages.slice(0, 3), closed]));
    assert.ok(closed.reason.length > 0);
    if (code === 4408) assert.ok(Date.now() - started >= 3000);
  }
  await subscribed(0);
}

async function graphiql() {
  const original = globalThis.fetch;
  globalThis.fetch = (path, options) => original(new URL(path, url), options);
  const { fetcher, examples } = createRequire(import.meta.url)(start);
  const { parse, validate } = await import("graphql");
  const { data } = await fetcher({ query: getIntrospectionQuery() });
  const documentAST = parse(examples);
  assert.deepEqual(validate(buildClientSchema(data), documentAST), []);
  const events = fetcher({ query: examples, operationName: "live" }, { documentAST });
  const first = events.next();
  await subscribed(1);
  const { data: made } = await fetcher(
    { query: examples, operationName: "deposit", variables: { uuid: randomUUID() } },
    { documentAST },
  );
  assert.equal(made.money_transfer.success, true);
  assert.equal((await first).value.data.stream_transactions.from_to, "cash");
  await events.return();
  await subscribed(0);
  globalThis.fetch = original;
}

const ws = createWs({ url: wsUrl, webSocketImpl: WebSocket, lazy: false, retryAttempts: 0 });
const sse = createSse({ url, retryAttempts: 0 });
for (const [name, work] of [
  ["schema", schema],
  ["graphql-ws: customer", () => customer(ws)],
  ["graphql-ws: large amounts", () => largeAmounts(ws)],
  ["graphql-ws: continued", continued],
  ["graphql-ws: refusals", () => refusals(ws)],
  ["graphql-ws: many at once", () => manyAtOnce(ws)],
  ["graphql-sse: customer", () => customer(sse)],
  ["graphql-sse: refusals", () => refusals(sse)],
  ["graphql-sse: many at once", () => manyAtOnce(sse)],
  ["close codes", closeCodes],
  ["GraphiQL's fetcher", graphiql],
]) {
  console.log(name);
  await work();
}
await ws.dispose();
sse.dispose();

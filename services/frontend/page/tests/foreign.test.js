// Browser tests of web pages from other origins: they can neither change nor read anything in the
// bank of the same machine.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { after, test } from "node:test";
import {
  COMPANY,
  FOREIGN_HOST,
  PATIENCE_MS,
  ask,
  browser,
  closePage,
  deposit,
  newName,
  openPage,
} from "./browser.js";

const { FRONTEND_URL, GRAPHQL_ENDPOINT_URL } = process.env;
const ENDPOINT = `${GRAPHQL_ENDPOINT_URL}/graphql`;

after(() => browser.close());

/** A server of one empty page. */
async function foreignSite() {
  const server = createServer((_, reply) => reply.end("<!doctype html><title>foreign</title>"));
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  return { url: `http://${FOREIGN_HOST}:${server.address().port}/`, close: () => server.close() };
}

/** The same address with the foreign host name, as after DNS rebinding. */
function rebound(url) {
  const { port, pathname } = new URL(url);
  return `http://${FOREIGN_HOST}:${port}${pathname}`;
}

/** Opens a page of another origin, whose own policy does not restrict it. */
function openForeign(url) {
  return openPage(url, { bypassCSP: true }, undefined, () => {});
}

/** Operations that have an effect, each with the check that it had none. */
function operations() {
  const accountOpening = (kind) => {
    const name = newName();
    return {
      query: `${kind} { get_account(username: "${name}", password: "of the page") { token } }`,
      // A user name that is known would need its password.
      async check(how) {
        const { get_account } = await ask(
          `mutation { get_account(username: "${name}", password: "of the test") { reason } }`,
        );
        assert.equal(get_account.reason, null, `an account was opened: ${how}`);
      },
    };
  };
  const moneyTransfer = (kind) => {
    const uuid = randomUUID();
    return {
      query: `${kind} { money_transfer(uuid: "${uuid}", token: "cash", amount: 1, from: "cash",
        to: "${COMPANY}", descr: "by a foreign page") { success } }`,
      // The endpoint stores a transfer before it is executed.
      async check(how) {
        const { transfer_by_uuid } = await ask(`{ transfer_by_uuid(uuid: "${uuid}") { reason } }`);
        assert.equal(transfer_by_uuid.reason, "uuid is not known", `money was moved: ${how}`);
      },
    };
  };
  const kinds = ["mutation", "subscription"];
  return kinds.flatMap((kind) => [accountOpening(kind), moneyTransfer(kind)]);
}

const READS = [
  `{ transactions_by_iban(iban: "${COMPANY}", max_items: 1) { descr } }`,
  "{ all_last_transactions { iban } }",
  "subscription { stream_transactions { descr } }",
  "{ __typename }",
];

/**
 * Sends a request from the page in each way that browsers have, and waits for its end. Returns
 * what the page received: the body of a readable response, the messages of a stream.
 */
async function send(page, way, endpoint, query) {
  return page.evaluate(
    async ([way, endpoint, query, patience]) => {
      const url = `${endpoint}?query=${encodeURIComponent(query)}`;
      const body = JSON.stringify({ query });
      const text = (request) => request.then((reply) => reply.text()).catch(() => "");
      const event = (target, ...names) =>
        new Promise((done) => names.forEach((name) => target.addEventListener(name, done)));
      const post = (mode, type) =>
        text(fetch(endpoint, { method: "POST", mode, headers: { "Content-Type": type }, body }));
      /** Loads `url` with an element of the page. */
      const load = async (element, attributes) => {
        const made = Object.assign(document.createElement(element), attributes);
        const end = event(made, "load", "error");
        document.body.append(made);
        await end;
        return made;
      };
      const ways = {
        "EventSource": async () => {
          const source = new EventSource(url);
          let received = "";
          source.addEventListener("next", ({ data }) => (received += data));
          await event(source, "error", "complete", "next");
          source.close();
          return received;
        },
        "GET no-cors": () => text(fetch(url, { mode: "no-cors" })),
        "GET cors": () => text(fetch(url)),
        "POST text/plain no-cors": () => post("no-cors", "text/plain"),
        "POST text/plain cors": () => post("cors", "text/plain"),
        "POST application/json no-cors": () => post("no-cors", "application/json"),
        "POST application/json cors": () => post("cors", "application/json"),
        "POST without a type": () =>
          text(fetch(endpoint, { method: "POST", mode: "no-cors", body: new Blob([body]) })),
        "script": async () => {
          const before = Object.keys(globalThis).length;
          await load("script", { src: url });
          return Object.keys(globalThis).length === before ? "" : "a script ran";
        },
        "image": async () => String((await load("img", { src: url })).naturalWidth || ""),
        "frame": async () => {
          try {
            return (await load("iframe", { src: url })).contentWindow.document.body.textContent;
          } catch {
            return "";
          }
        },
        "form": async () => {
          const frame = await load("iframe", { name: "target", src: "about:blank" });
          const types = ["text/plain", "multipart/form-data", "application/x-www-form-urlencoded"];
          for (const enctype of types) {
            const form = Object.assign(document.createElement("form"), {
              action: endpoint,
              method: "post",
              enctype,
              target: "target",
            });
            // As text/plain, name and value together are the JSON document.
            form.append(
              Object.assign(document.createElement("input"), {
                name: body.replace("}", ', "a": "').slice(0, -1),
                value: '"}',
              }),
              Object.assign(document.createElement("input"), { name: "query", value: query }),
            );
            document.body.append(form);
            const end = event(frame, "load");
            form.submit();
            await end;
            form.remove();
          }
          frame.remove();
          return "";
        },
        "websocket": () =>
          new Promise((done) => {
            let received = "";
            const socket = new WebSocket(endpoint.replace("http", "ws"), "graphql-transport-ws");
            socket.onopen = () => socket.send('{"type":"connection_init"}');
            socket.onmessage = ({ data }) => {
              received += data;
              if (JSON.parse(data).type === "connection_ack")
                socket.send(JSON.stringify({ id: "1", type: "subscribe", payload: { query } }));
              else socket.close();
            };
            socket.onclose = () => done(received);
          }),
      };
      if (!way) return Object.keys(ways);
      const late = new Promise((_, fail) => setTimeout(() => fail(new Error("timeout")), patience));
      return Promise.race([ways[way](), late]);
    },
    [way, endpoint, query, PATIENCE_MS],
  );
}

test("foreign page cannot move money, open accounts or read", async () => {
  const site = await foreignSite();
  const page = await openForeign(site.url);
  for (const way of await send(page, "", ENDPOINT, "")) {
    for (const { query, check } of operations()) {
      const how = `${way}: ${query}`;
      assert.equal(await send(page, way, ENDPOINT, query), "", how);
      await check(how);
    }
    for (const query of READS)
      assert.equal(await send(page, way, ENDPOINT, query), "", `${way}: ${query}`);
  }
  assert.ok(page.errors.length > 0);
  page.errors = [];
  await closePage(page);
  site.close();
});

test("endpoint refuses a foreign host name", async () => {
  const page = await openForeign("about:blank");
  const reply = await page.goto(rebound(`${GRAPHQL_ENDPOINT_URL}/`));
  assert.equal(reply.status(), 421, await reply.text());
  // This page now has the origin that a page of the attacker has after DNS rebinding.
  const endpoint = rebound(ENDPOINT);
  const statuses = [];
  page.on("response", async (response) => statuses.push([response.url(), response.status()]));
  for (const way of await send(page, "", endpoint, "")) {
    for (const { query, check } of operations()) {
      const how = `${way}: ${query}`;
      assert.ok(!(await send(page, way, endpoint, query)).includes('"data"'), how);
      await check(how);
    }
    for (const query of READS)
      assert.ok(!(await send(page, way, endpoint, query)).includes('"data"'), `${way}: ${query}`);
  }
  const of = statuses.filter(([url]) => url.startsWith(endpoint));
  assert.ok(of.length > 0);
  assert.deepEqual(of.filter(([, status]) => status !== 421), []);
  page.errors = [];
  await closePage(page);
});

test("page works on localhost as on 127.0.0.1", async () => {
  await deposit(COMPANY, 100);
  for (const host of ["localhost", "127.0.0.1"]) {
    const url = new URL(FRONTEND_URL);
    url.hostname = host;
    const page = await openPage(url.href);
    await page.locator("#transactions > div").first().waitFor();
    await closePage(page);
  }
});

// Browser tests of the page without a connection: it names the cause, and continues by itself.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { createServer, request } from "node:http";
import { connect } from "node:net";
import { after, before, test } from "node:test";
import {
  FRONTEND_ORIGIN,
  amounts,
  browser,
  closeDisconnected,
  connected,
  logIn,
  newest,
  openPage,
  stack,
  transactions,
  until,
} from "./browser.js";

const { GRAPHQL_ENDPOINT_URL } = process.env;

/**
 * A server in front of the endpoint. `respond` is the status and headers of all its responses, or
 * of those to `only` websockets. `close` is the code and reason with which it closes each
 * websocket. Without both it forwards.
 */
const fake = { respond: null, only: "", close: null, handshakes: [] };
const server = createServer((received, reply) => {
  if (fake.respond && fake.only !== "websockets") {
    return reply.writeHead(...fake.respond).end("refused");
  }
  const { method, url: path, headers } = received;
  const sent = request(GRAPHQL_ENDPOINT_URL, { method, path, headers }, (response) => {
    reply.writeHead(response.statusCode, response.headers);
    response.pipe(reply);
  });
  received.pipe(sent);
});
server.on("upgrade", ({ method, url, headers, rawHeaders }, client) => {
  client.on("error", () => {});
  fake.handshakes.push(Date.now());
  if (fake.respond) {
    client.end(`HTTP/1.1 ${fake.respond[0]} Refused\r\nContent-Length: 0\r\n\r\n`);
  } else if (fake.close) {
    const key = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    const accept = createHash("sha1").update(key).digest("base64");
    const [code, reason] = fake.close;
    const frame = Buffer.from([0x88, reason.length + 2, code >> 8, code & 0xff]);
    client.write(
      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
        `Sec-WebSocket-Protocol: graphql-transport-ws\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`,
    );
    client.end(Buffer.concat([frame, Buffer.from(reason)]));
  } else {
    const { hostname, port } = new URL(GRAPHQL_ENDPOINT_URL);
    const endpoint = connect(port, hostname);
    const lines = Array.from({ length: rawHeaders.length / 2 }, (_, at) =>
      rawHeaders.slice(2 * at, 2 * at + 2).join(": "),
    );
    endpoint.write([`${method} ${url} HTTP/1.1`, ...lines, "", ""].join("\r\n"));
    endpoint.on("error", () => client.destroy());
    client.pipe(endpoint).pipe(client);
  }
});

before(async () => {
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  await stack(["stop", "frontend"]);
  const url = `http://127.0.0.1:${server.address().port}/graphql`;
  await stack(["start", "frontend"], { GRAPHQL_URL: url });
});

after(async () => {
  await browser.close();
  server.close();
  server.closeAllConnections();
  await stack(["stop", "frontend"]);
  await stack(["start", "frontend"]);
});

function behave(respond, close = null, only = "") {
  Object.assign(fake, { respond, only, close, handshakes: [] });
}

/** Headers with which the page may read a response. */
const READABLE = {
  "Access-Control-Allow-Origin": "*",
  "Access-Control-Expose-Headers": "Retry-After",
};

const alert = (page) => page.locator("#connection-lost [role=alert]");

for (const [status, headers, what] of [
  [403, {}, "requests of this page"],
  [403, READABLE, "requests of this page"],
  [421, {}, "requests of this page"],
  [421, READABLE, "the host name 127.0.0.1"],
]) {
  const readable = headers === READABLE ? "readable" : "unreadable";
  test(`page names the remedy after ${readable} ${status}`, async () => {
    behave([status, headers]);
    const page = await openPage("/client", {}, undefined, (page) => alert(page).waitFor());
    const text =
      `The bank refuses ${what}. Add ${FRONTEND_ORIGIN} to CORS_ORIGINS of the graphql-endpoint, ` +
      "or open this page at an address that is allowed. This page tries again every 30 seconds.";
    await alert(page).getByText(text).waitFor();
    const attempts = fake.handshakes.length;
    behave(null);
    assert.equal(attempts, 1);
    await page.getByRole("button", { name: "Try again now" }).click();
    await connected(page);
    await alert(page).waitFor({ state: "detached" });
    await logIn(page);
    await closeDisconnected(page);
  });
}

for (const [status, text] of [
  [429, "The bank received too many requests from here."],
  [503, "The bank is busy or is starting."],
]) {
  test(`page waits as long as status ${status} asks, then continues`, async () => {
    behave([status, { ...READABLE, "Retry-After": "2" }]);
    const page = await openPage("/client", {}, undefined, (page) => alert(page).waitFor());
    await alert(page).getByText(`${text} This page tries again every 2 seconds`).waitFor();
    // The form waits for the connection.
    const iban = logIn(page);
    await until("three attempts", () => fake.handshakes.length >= 3);
    const [first, second, third] = fake.handshakes;
    assert.ok(second - first >= 2000 && third - second >= 2000, fake.handshakes.join());
    behave(null);
    assert.match(await iban, /^NL/);
    await alert(page).waitFor({ state: "detached" });
    await closeDisconnected(page);
  });
}

test("page names another status and the variable to check", async () => {
  behave([404, READABLE]);
  const page = await openPage("/", {}, undefined, (page) => alert(page).waitFor());
  await alert(page).getByText("The response has status 404. GRAPHQL_URL of the").waitFor();
  await closeDisconnected(page);
});

test("page names the likely causes if only websockets fail", async () => {
  behave([503, {}], null, "websockets");
  const page = await openPage("/", {}, undefined, (page) => alert(page).waitFor());
  await alert(page).getByText("The bank responds, but opens no live connection.").waitFor();
  assert.ok(fake.handshakes.length >= 3);
  behave(null);
  await connected(page);
  await closeDisconnected(page);
});

test("page shows why a websocket was closed, and reconnects", async () => {
  behave(null, [1013, "too slow: 8192 transactions were waiting"]);
  const page = await openPage("/client", {}, undefined, (page) => alert(page).waitFor());
  await alert(page).getByText("The bank closed the connection: too slow: 8192").waitFor();
  await alert(page).getByText("This page reconnects and then continues.").waitFor();
  behave(null);
  await connected(page);
  await closeDisconnected(page);
});

test("page asks for a reload after a protocol error", async () => {
  behave(null, [4406, "Subprotocol not acceptable"]);
  const page = await openPage("/client", {}, undefined, (page) => alert(page).waitFor());
  await alert(page).getByText("closed the connection: Subprotocol not acceptable.").waitFor();
  await alert(page).getByText("Reload this page to continue.").waitFor();
  behave(null);
  await page.getByRole("button", { name: "Reload" }).click();
  await connected(page);
  await closeDisconnected(page);
});

test("page repeats operations that failed for a busy bank", async () => {
  behave(null);
  let failing = true;
  let failures = 0;
  const page = await openPage("/client", {}, (page) =>
    page.routeWebSocket(/graphql/, (toPage) => {
      const endpoint = toPage.connectToServer();
      toPage.onMessage((message) => {
        const { id, type, payload } = JSON.parse(message);
        if (!failing || type !== "subscribe" || !/transactions|accounts/.test(payload.query)) {
          endpoint.send(message);
          return;
        }
        failures++;
        const errors = [{ message: "the database is unavailable, try again" }];
        toPage.send(JSON.stringify({ id, type: "next", payload: { data: null, errors } }));
        toPage.send(JSON.stringify({ id, type: "complete" }));
      });
    }),
  );
  await logIn(page);
  await page.getByText("cannot be loaded: the database is unavailable, try again.").waitFor();
  // At the login, on the connection that it opens, and after a pause.
  await until("an attempt after a pause", () => failures >= 3);
  failing = false;
  await page.getByText("No transactions yet.").waitFor();
  await page.locator("#deposit-1000").click();
  await newest(page, "€10,00");
  assert.equal(await page.getByText("cannot be loaded").count(), 0);
  await page.goto("/bank-employee");
  await page.locator("#accounts tbody tr").first().waitFor();
  failing = true;
  await page.getByText("Accounts cannot be loaded").waitFor();
  assert.ok((await page.locator("#accounts tbody tr").count()) > 0, "the shown accounts stay");
  failing = false;
  await page.getByText("Accounts cannot be loaded").waitFor({ state: "detached" });
  await closeDisconnected(page);
});

test("many clicks do not exceed the operations of a connection", async () => {
  behave(null);
  const held = [];
  let holding = true;
  const page = await openPage("/client", {}, (page) =>
    page.routeWebSocket(/graphql/, (toPage) => {
      const endpoint = toPage.connectToServer();
      toPage.onMessage((message) => {
        const { type, payload } = JSON.parse(message);
        const isTransfer = type === "subscribe" && payload.query.includes("money_transfer");
        if (holding && isTransfer) held.push(() => endpoint.send(message));
        else endpoint.send(message);
      });
    }),
  );
  const iban = await logIn(page);
  const clicks = 40;
  await page.locator("#deposit-1000").evaluate((button, clicks) => {
    for (let click = 0; click < clicks; click++) button.click();
  }, clicks);
  await until("the first transfers are sent", () => held.length === 16);
  holding = false;
  held.forEach((send) => send());
  await page.locator("#max-items-50").click();
  await until("all are done", async () => (await amounts(page)).length === clicks);
  assert.equal(held.length, 16);
  assert.equal((await transactions(iban)).length, clicks);
  await page.getByText("The deposit of €10,00 is done.").waitFor();
  await closeDisconnected(page);
});

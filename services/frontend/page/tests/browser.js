// Shared by the browser tests: pages in Chromium, requests to the running bank, waiting.
import { execFile } from "node:child_process";
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { randomUUID } from "node:crypto";
import { promisify } from "node:util";
import { chromium } from "playwright-core";

const { FRONTEND_URL, GRAPHQL_ENDPOINT_URL, HEARTBEAT_URL, STACK } = process.env;
assert.ok(STACK, "STACK is not set: make test-browser sets it");

export const FRONTEND_ORIGIN = new URL(FRONTEND_URL).origin;
export const COMPANY = "NL66OPEN0000000000";
export const PASSWORD = "correct horse";
/** Timeout of every wait. */
export const PATIENCE_MS = 30_000;

/** A host name that is not the bank's, but has its address. */
export const FOREIGN_HOST = "foreign.example";

export const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    `--host-resolver-rules=MAP ${FOREIGN_HOST} 127.0.0.1`,
    // Chromium's sandbox does not work as root; the browser opens pages of these tests only.
    ...(process.getuid() === 0 ? ["--no-sandbox"] : []),
  ],
});

/**
 * Opens `path` in a browser context of its own. `page.errors` collects errors on the console,
 * exceptions and failed requests.
 */
export async function openPage(path, options = {}, prepare = async () => {}, ready = connected) {
  const context = await browser.newContext({
    baseURL: FRONTEND_URL,
    viewport: { width: 1280, height: 900 },
    ...options,
  });
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  page.errors = [];
  page.on("console", (message) => message.type() === "error" && page.errors.push(message.text()));
  page.on("pageerror", (err) => page.errors.push(String(err)));
  page.on("requestfailed", (request) =>
    page.errors.push(`${request.url()}: ${request.failure()?.errorText}`),
  );
  await page.addInitScript(() => {
    globalThis.shifts = [];
    new PerformanceObserver((list) => {
      for (const { value, hadRecentInput, sources } of list.getEntries()) {
        const what = sources.map(({ node, previousRect, currentRect }) => {
          const [from, to] = [previousRect, currentRect].map(
            (it) => `${it.x},${it.y} ${it.width}x${it.height}`,
          );
          const text = node?.outerHTML ?? node?.textContent ?? "gone";
          return `${text.slice(0, 100)}: ${from} -> ${to}`;
        });
        globalThis.shifts.push({ value, byUser: hadRecentInput, what });
      }
    }).observe({ type: "layout-shift", buffered: true });
  });
  await prepare(page);
  await page.goto(path);
  await ready(page);
  return page;
}

/** Closes a page and asserts that it had no errors. */
export async function closePage(page) {
  await page.context().close();
  assert.deepEqual(page.errors, []);
}

/** Closes a page whose connection failed, which Chromium reports as errors. */
export async function closeDisconnected(page) {
  page.errors = page.errors.filter(
    (it) => !/WebSocket connection to|Failed to load resource|net::ERR|CORS policy/.test(it),
  );
  await closePage(page);
}

export function connected(page) {
  return page.locator("#connection[data-state=connected]").waitFor();
}

export function newName() {
  return `user-${randomUUID()}`;
}

/** Logs in by the form; returns the iban. */
export async function logIn(page, username = newName(), password = PASSWORD) {
  await page.getByLabel("User name").fill(username);
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Log in or register" }).click();
  return page.locator("#iban").textContent();
}

/** The shown amounts, the newest first. */
export function amounts(page) {
  return page.locator("#transactions > div p:nth-child(1) > span.icon + span").allTextContents();
}

/** Waits until the newest shown transaction has this amount. */
export function newest(page, amount) {
  return page
    .locator("#transactions > div:first-child")
    .getByText(amount, { exact: true })
    .first()
    .waitFor();
}

/** Waits until `condition` returns a true value, and returns it. */
export async function until(what, condition) {
  for (const deadline = Date.now() + PATIENCE_MS; ;) {
    const found = await condition();
    if (found) return found;
    assert.ok(Date.now() < deadline, `timeout after ${PATIENCE_MS} ms: ${what}`);
    await new Promise((next) => setTimeout(next, 50));
  }
}

const AXE = readFileSync("node_modules/axe-core/axe.min.js", "utf8");

/** Asserts that axe finds nothing. The page needs the option `bypassCSP`. */
export async function assertAccessible(page, what) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const found = violations.map(({ id, impact, nodes }) =>
    [`${what}: ${impact}: ${id}`]
      .concat(nodes.map((it) => `${it.html} ${it.failureSummary}`))
      .join("\n"),
  );
  assert.deepEqual(found, []);
}

/** Sends a GraphQL request to the endpoint. */
export async function ask(query, variables) {
  const reply = await fetch(`${GRAPHQL_ENDPOINT_URL}/graphql`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ query, variables }),
  });
  const { data, errors } = await reply.json();
  assert.equal(errors, undefined, JSON.stringify(errors));
  return data;
}

export async function deposit(iban, amount, descr = "test deposit") {
  const query = `mutation($uuid: String!, $to: String!, $amount: Int!, $descr: String!) {
    money_transfer(uuid: $uuid, token: "cash", from: "cash", to: $to, amount: $amount,
      descr: $descr) { success reason } }`;
  const { money_transfer } = await ask(query, { uuid: randomUUID(), to: iban, amount, descr });
  assert.equal(money_transfer.success, true, money_transfer.reason);
}

/** Makes `count` deposits of 1 cent, many at a time, and waits until they are stored. */
export async function depositMany(iban, count) {
  const query = "query($iban: String!) { account(iban: $iban) { changes } }";
  const changes = async () => Number((await ask(query, { iban })).account?.changes ?? 0);
  const before = await changes();
  let left = count;
  const deposits = async () => {
    while (left-- > 0) await deposit(iban, 1);
  };
  await Promise.all(Array.from({ length: 100 }, deposits));
  await until("the deposits are stored", async () => (await changes()) === before + count);
}

export async function transactions(iban, max = 1000) {
  const query = `query($iban: String!, $max: Int!) {
      transactions_by_iban(iban: $iban, max_items: $max) { id ref changed_by new_balance descr } }`;
  return (await ask(query, { iban, max })).transactions_by_iban;
}

/** The ibans of all accounts. */
export async function accounts() {
  const query = `query($after: String) { accounts(first: 1000, after: $after) {
    edges { node { iban } } pageInfo { hasNextPage endCursor } } }`;
  const ibans = [];
  for (let after; ; ) {
    const { edges, pageInfo } = (await ask(query, { after })).accounts;
    ibans.push(...edges.map(({ node }) => node.iban));
    if (!pageInfo.hasNextPage) return ibans;
    after = pageInfo.endCursor;
  }
}

/** Sets the load: `batch_size` heartbeat records each `sleep_ms`. */
export async function setLoad(batch_size, sleep_ms = 100) {
  const reply = await fetch(HEARTBEAT_URL, {
    method: "PUT",
    body: JSON.stringify({ batch_size, sleep_ms }),
  });
  assert.equal(reply.status, 200, await reply.text());
}

/** Sends at least `count` heartbeat records, in a second or more. */
export async function sendHeartbeats(count) {
  const sent = async () => (await (await fetch(HEARTBEAT_URL)).json()).sent;
  const before = await sent();
  await setLoad(Math.ceil(count / 10));
  await until("the heartbeats are sent", async () => (await sent()) >= before + count);
  await setLoad(0, 1000);
}

/** Runs a command of stack.sh. */
export async function stack(words, env = {}) {
  await promisify(execFile)(STACK, words, { env: { ...process.env, ...env } });
}

/** Opens more accounts than a page shows: each of the first 20 heartbeats opens some. */
export async function openAccounts() {
  if ((await accounts()).length > 20) return;
  await sendHeartbeats(30);
  await until("more than 20 accounts", async () => (await accounts()).length > 20);
}

// What the tests in a browser share: the running bank, visitors, waiting.
import { execFile } from "node:child_process";
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { promisify } from "node:util";
import { chromium } from "playwright-core";

const { FRONTEND_URL, GRAPHQL_ENDPOINT_URL, HEARTBEAT_URL, STACK } = process.env;
assert.ok(STACK, "STACK is not set: make test-browser sets it");

export const COMPANY = "NL66OPEN0000000000";
export const PASSWORD = "correct horse";
/** Longest wait for anything that should come. */
export const PATIENCE_MS = 30_000;

export const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  // Root can't have Chromium's sandbox; it sees nothing but this bank.
  args: process.getuid() === 0 ? ["--no-sandbox"] : [],
});

/** A page of a visitor of its own, who complains: `complaints` are errors on the console, exceptions and broken policies. */
export async function visit(path, options = {}, prepare = async () => {}, ready = connected) {
  const context = await browser.newContext({
    baseURL: FRONTEND_URL,
    viewport: { width: 1280, height: 900 },
    ...options,
  });
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  page.complaints = [];
  page.on(
    "console",
    (message) => message.type() === "error" && page.complaints.push(message.text()),
  );
  page.on("pageerror", (err) => page.complaints.push(String(err)));
  page.on("requestfailed", (request) =>
    page.complaints.push(`${request.url()}: ${request.failure()?.errorText}`),
  );
  await page.addInitScript(() => {
    globalThis.shifts = [];
    new PerformanceObserver((list) => {
      for (const { value, hadRecentInput, sources } of list.getEntries()) {
        const what = sources.map(({ node, previousRect, currentRect }) => {
          const [from, to] = [previousRect, currentRect].map(
            (it) => `${it.x},${it.y} ${it.width}x${it.height}`,
          );
          return `${(node?.outerHTML ?? node?.textContent ?? "gone").slice(0, 100)}: ${from} -> ${to}`;
        });
        globalThis.shifts.push({ value, byVisitor: hadRecentInput, what });
      }
    }).observe({ type: "layout-shift", buffered: true });
  });
  await prepare(page);
  await page.goto(path);
  await ready(page);
  return page;
}

/** Ends a visit that gave no reason to complain. */
export async function leave(page) {
  await page.context().close();
  assert.deepEqual(page.complaints, []);
}

export function connected(page) {
  return page.locator("#connection[data-state=connected]").waitFor();
}

export function newName() {
  return `user-${randomUUID()}`;
}

/** Logs a new user in, by the form; gives the iban. */
export async function logIn(page, username = newName(), password = PASSWORD) {
  await page.getByLabel("User name").fill(username);
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Log in or register" }).click();
  return page.locator("#iban").textContent();
}

/** The amounts that the boxes show, the newest first. */
export function amounts(page) {
  return page.locator("#transactions > div p:nth-child(1) > span.icon + span").allTextContents();
}

/** Waits until the newest transaction that is shown has this amount. */
export function newest(page, amount) {
  return page
    .locator("#transactions > div:first-child")
    .getByText(amount, { exact: true })
    .first()
    .waitFor();
}

/** Waits until `condition` gives something that is true, and gives that. */
export async function until(what, condition) {
  for (const deadline = Date.now() + PATIENCE_MS; ;) {
    const found = await condition();
    if (found) return found;
    assert.ok(Date.now() < deadline, `not within ${PATIENCE_MS} ms: ${what}`);
    await new Promise((next) => setTimeout(next, 50));
  }
}

/** Asks the endpoint, past the page. */
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

export async function deposit(iban, amount, descr = "of a test") {
  const query = `mutation($uuid: String!, $to: String!, $amount: Int!, $descr: String!) {
    money_transfer(uuid: $uuid, token: "cash", from: "cash", to: $to, amount: $amount, descr: $descr) { success reason } }`;
  const { money_transfer } = await ask(query, { uuid: randomUUID(), to: iban, amount, descr });
  assert.equal(money_transfer.success, true, money_transfer.reason);
}

export async function transactions(iban, max = 1000) {
  const query =
    "query($iban: String!, $max: Int!) { transactions_by_iban(iban: $iban, max_items: $max) { id ref changed_by new_balance descr } }";
  return (await ask(query, { iban, max })).transactions_by_iban;
}

export async function accounts() {
  return (await ask("{ all_last_transactions { iban } }")).all_last_transactions.map(
    ({ iban }) => iban,
  );
}

/** Sets the load: so many beats each `sleep_ms`. */
export async function beat(batch_size, sleep_ms = 100) {
  const reply = await fetch(HEARTBEAT_URL, {
    method: "PUT",
    body: JSON.stringify({ batch_size, sleep_ms }),
  });
  assert.equal(reply.status, 200, await reply.text());
}

/** Lets the bank work on so many beats, sent in a second or more. */
export async function beats(count) {
  const sent = async () => (await (await fetch(HEARTBEAT_URL)).json()).sent;
  const before = await sent();
  await beat(Math.ceil(count / 10));
  await until("the beats are sent", async () => (await sent()) >= before + count);
  await beat(0, 1000);
}

/** Runs a command of stack.sh. */
export async function stack(words, env = {}) {
  await promisify(execFile)(STACK, words, { env: { ...process.env, ...env } });
}

/** More accounts than a page has: the first twenty beats open some each. */
export async function openAccounts() {
  if ((await accounts()).length > 20) return;
  await beats(30);
  await until("more than 20 accounts", async () => (await accounts()).length > 20);
}

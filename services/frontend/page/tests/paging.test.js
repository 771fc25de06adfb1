// Browser tests of the pages of transactions, with a running bank.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import {
  assertAccessible,
  browser,
  closePage,
  deposit,
  depositMany,
  logIn,
  openPage,
  setLoad,
  until,
} from "./browser.js";

before(() => setLoad(0, 1000));
after(() => browser.close());

const status = (page) => page.locator("#page-of-transactions");

/** Waits until the balances after the shown transactions are `from` down to `to` cents. */
function shows(page, from, to) {
  const wanted = Array.from({ length: from - to + 1 }, (_, at) => (from - at) / 100)
    .map((it) => `€${it.toFixed(2).replace(".", ",")}`)
    .join();
  let found;
  return until(`${from} to ${to}`, async () => {
    const texts = await page.locator("#transactions .field-new_balance").allTextContents();
    found = texts.map((it) => it.replace("new balance: ", "")).join();
    return found === wanted;
  });
}

test("older pages stay the same while transactions arrive", async () => {
  const page = await openPage("/client");
  const iban = await logIn(page);
  const [newest, newer, older] = ["newest", "newer", "older"].map((it) =>
    page.locator(`#${it}-transactions`),
  );
  assert.equal(await older.isDisabled(), true);
  await depositMany(iban, 35);
  await shows(page, 35, 26);
  assert.equal(await newer.isDisabled(), true);
  await older.click();
  await shows(page, 25, 16);
  await status(page).getByText("Older transactions").waitFor();
  assert.equal(await page.locator("#pause").isDisabled(), true);
  await depositMany(iban, 3);
  await until("the balance is live", async () =>
    (await page.locator("#balance").textContent()) === "€0,38",
  );
  await shows(page, 25, 16);
  await older.click();
  await shows(page, 15, 6);
  await older.click();
  await shows(page, 5, 1);
  assert.equal(await older.isDisabled(), true);
  for (const [from, to] of [
    [15, 6],
    [25, 16],
    [35, 26],
    [38, 29],
  ]) {
    await newer.click();
    await shows(page, from, to);
  }
  assert.equal(await newer.isDisabled(), true);
  assert.equal(await status(page).textContent(), "");
  await deposit(iban, 1);
  await shows(page, 39, 30);

  // A page continues after a paused list, although newer transactions have arrived.
  await page.locator("#pause").click();
  await depositMany(iban, 15);
  await shows(page, 39, 30);
  await older.click();
  await shows(page, 29, 20);
  await newest.click();
  await shows(page, 39, 30);
  await page.locator("#pause").click();
  await shows(page, 54, 45);

  // Another number of transactions begins at the newest one.
  await older.click();
  await shows(page, 44, 35);
  await page.locator("#max-items-25").click();
  await shows(page, 54, 30);
  await older.click();
  await shows(page, 29, 5);
  await older.click();
  await shows(page, 4, 1);
  await closePage(page);
});

test("page of exactly all transactions has no older one", async () => {
  const page = await openPage("/client");
  const iban = await logIn(page);
  await depositMany(iban, 10);
  await shows(page, 10, 1);
  assert.equal(await page.locator("#older-transactions").isDisabled(), true);
  await deposit(iban, 1);
  await shows(page, 11, 2);
  await page.locator("#older-transactions").click();
  await shows(page, 1, 1);
  assert.equal(await page.locator("#older-transactions").isDisabled(), true);
  await closePage(page);
});

test("older transactions show loading and errors, by keyboard", async () => {
  let code = "";
  let held;
  for (const colorScheme of ["light", "dark"]) {
    const viewport = { width: 360, height: 800 };
    const page = await openPage("/client", { colorScheme, viewport, bypassCSP: true }, (page) =>
      page.routeWebSocket(/graphql/, (toPage) => {
        const endpoint = toPage.connectToServer();
        toPage.onMessage((message) => {
          const { id, payload } = JSON.parse(message);
          if (!code || !payload?.query?.includes("pageInfo")) return endpoint.send(message);
          const errors = [{ message: "busy, try again", extensions: { code } }];
          const result = JSON.stringify({ id, type: "next", payload: { data: null, errors } });
          held = () => toPage.send(result);
        });
      }),
    );
    await depositMany(await logIn(page), 25);
    await shows(page, 25, 16);
    const older = page.locator("#older-transactions");
    held = undefined;
    code = "BUSY";
    await older.focus();
    await page.keyboard.press("Enter");
    await status(page).getByText("Loading…").waitFor();
    await until("the query is held", () => held);
    held();
    const alert = page.getByRole("alert");
    await alert.getByText("cannot be loaded: busy, try again. Try again after a few").waitFor();
    await shows(page, 25, 16);
    code = "";
    await older.focus();
    await page.keyboard.press("Enter");
    await shows(page, 15, 6);
    assert.equal(await alert.count(), 0);
    assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= 360);
    await assertAccessible(page, `older transactions, ${colorScheme}`);
    await page.locator("#newest-transactions").focus();
    await page.keyboard.press("Enter");
    await shows(page, 25, 16);
    await closePage(page);
  }
});

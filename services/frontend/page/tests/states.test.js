// Browser tests of the states without data: loading, empty, and each kind of error.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import {
  assertAccessible,
  browser,
  closePage,
  logIn,
  openAccounts,
  openPage,
  setLoad,
  until,
} from "./browser.js";

before(async () => {
  await setLoad(0, 1000);
  await openAccounts();
});
after(() => browser.close());

/**
 * Opens a page in a narrow window. While `fake.code` is set, queries with data have an error with
 * this code; while `fake.held` is an array, it has their responses instead of the page.
 */
async function openFaked(path, colorScheme) {
  const fake = { code: "", held: null, queries: 0 };
  const options = { colorScheme, viewport: { width: 360, height: 800 }, bypassCSP: true };
  const page = await openPage(path, options, async (page) => {
    await page.clock.install();
    await page.routeWebSocket(/graphql/, (toPage) => {
      const endpoint = toPage.connectToServer();
      toPage.onMessage((message) => {
        const { id, payload } = JSON.parse(message);
        if (!/^query/.test(payload?.query)) return endpoint.send(message);
        fake.queries++;
        if (fake.held) return fake.held.push(() => endpoint.send(message));
        if (!fake.code) return endpoint.send(message);
        const errors = [{ message: "the reason", extensions: { code: fake.code } }];
        toPage.send(JSON.stringify({ id, type: "next", payload: { data: null, errors } }));
        toPage.send(JSON.stringify({ id, type: "complete" }));
      });
    });
  });
  return { page, fake };
}

function release(fake) {
  const { held } = fake;
  fake.held = null;
  held.forEach((send) => send());
}

for (const colorScheme of ["light", "dark"]) {
  const check = async (page, what) => {
    assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= 360, what);
    await assertAccessible(page, `${what}, ${colorScheme}`);
  };

  test(`accounts have loading, empty and error states, ${colorScheme}`, async () => {
    const { page, fake } = await openFaked("/", colorScheme);
    const alert = page.getByRole("alert");
    fake.held = [];
    await page.getByRole("link", { name: "Bank employee", exact: true }).click();
    await page.getByRole("status").getByText("Loading accounts…").waitFor();
    await check(page, "loading");
    await until("the query is held", () => fake.held.length > 0);
    release(fake);
    await page.locator("#accounts tbody tr").first().waitFor();
    const region = page.getByRole("region", { name: "Accounts" });
    assert.ok(await region.evaluate((it) => it.scrollWidth <= it.clientWidth), "the table fits");
    await check(page, "accounts");
    fake.code = "UNAVAILABLE";
    await alert.getByText("Accounts cannot be loaded: the reason. This page tries").waitFor();
    assert.ok((await page.locator("#accounts tbody tr").count()) > 0, "the shown accounts stay");
    const repeated = fake.queries + 1;
    await page.clock.fastForward(60_000);
    await until("the query is repeated", () => fake.queries >= repeated);
    fake.code = "";
    await alert.waitFor({ state: "detached" });
    await page.locator("#search-accounts").fill("none");
    await page.getByText("No account number begins with “NONE”.").waitFor();
    await check(page, "no accounts");
    fake.code = "BAD_USER_INPUT";
    await alert.getByText(/Accounts cannot be loaded: the reason\.\s*$/).waitFor();
    fake.code = "";
    await page.locator("#search-accounts").fill("nl");
    await page.locator("#accounts tbody tr").first().waitFor();
    fake.code = "UNAUTHENTICATED";
    await alert.getByText("this bank’s ledger is not public. Log in to see").waitFor();
    await page.getByText("Only an employee of the bank may search all accounts.").waitFor();
    await check(page, "denied");
    // A final error is not repeated: the next query is that of the home page.
    const { queries } = fake;
    await page.clock.fastForward(60_000);
    fake.held = [];
    await page.locator(".brand").click();
    await until("the home page sends a query", () => fake.held.length > 0);
    assert.equal(fake.queries, queries + 1);
    await closePage(page);
  });

  test(`client's page has loading, empty and error states, ${colorScheme}`, async () => {
    const { page, fake } = await openFaked("/client", colorScheme);
    const alert = page.getByRole("alert");
    fake.held = [];
    await logIn(page);
    await page.getByRole("status").getByText("Loading transactions…").waitFor();
    await check(page, "loading transactions");
    await until("the query is held", () => fake.held.length > 0);
    release(fake);
    await page.getByText("No transactions yet.").waitFor();
    await page.locator("#statement summary").click();
    fake.held = [];
    await page.locator("#show-statement").click();
    await page.getByRole("status").getByText("Loading the statement…").waitFor();
    await check(page, "loading a statement");
    await until("the query is held", () => fake.held.length > 0);
    release(fake);
    await page.getByText("No transactions in this period.").waitFor();
    await check(page, "empty statement");
    fake.code = "BUSY";
    await page.locator("#show-statement").click();
    await alert.getByText("The statement cannot be loaded: the reason. Try again").waitFor();
    await check(page, "statement with an error");
    await page.locator("#max-items-25").click();
    await alert.getByText("Transactions cannot be loaded: the reason. This page tries").waitFor();
    await check(page, "transactions with an error");
    fake.code = "";
    await alert.getByText("Transactions cannot be loaded").waitFor({ state: "detached" });
    await page.locator("#show-statement").click();
    await alert.waitFor({ state: "detached" });
    await page.getByText("No transactions in this period.").waitFor();
    await closePage(page);
  });
}

// Browser tests of a bank employee's sign-in, with a ledger that is not public.
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { after, before, test } from "node:test";
import {
  PASSWORD,
  ask,
  assertAccessible,
  browser,
  closeDisconnected,
  closePage,
  connected,
  deposit,
  newName,
  newest,
  openAccounts,
  openPage,
  setLoad,
  stack,
} from "./browser.js";

const TOKEN = randomBytes(20).toString("hex");
const EMPLOYEE = { EMPLOYEE_TOKENS: `anna=${createHash("sha256").update(TOKEN).digest("hex")}` };

before(async () => {
  await setLoad(0, 1000);
  await openAccounts();
  await restart({ PUBLIC_LEDGER: "false", ...EMPLOYEE });
});
after(async () => {
  await browser.close();
  await restart({});
});

async function restart(env) {
  await stack(["stop", "graphql-endpoint"]);
  await stack(["start", "graphql-endpoint"], env);
}

const field = (page) => page.getByLabel("Employee token");
const accounts = (page) => page.locator("#accounts tbody tr");

/** Signs in by the keyboard. */
async function signIn(page, token) {
  await field(page).fill(token);
  await page.keyboard.press("Enter");
}

/** Opens an account and returns it. */
async function newAccount() {
  const query = `mutation($username: String!, $password: String!) {
    get_account(username: $username, password: $password) { iban token } }`;
  return (await ask(query, { username: newName(), password: PASSWORD })).get_account;
}

function stored(page) {
  return page.evaluate(() => [sessionStorage.length, JSON.stringify({ ...sessionStorage })]);
}

test("employee searches and follows accounts until the sign-out", async () => {
  const { iban } = await newAccount();
  const page = await openPage("/bank-employee");
  await signIn(page, ` ${TOKEN}\n`);
  await accounts(page).first().waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.tagName), "H1");
  await page.getByLabel("Beginning of the account number").fill(iban);
  await page.locator(`#account-${iban}`).click();
  await deposit(iban, 1234);
  await newest(page, "€12,34");

  // Also after a reload, and on the other pages.
  await page.reload();
  await accounts(page).first().waitFor();
  await page.locator(".brand").click();
  await page.getByRole("listitem").first().waitFor();
  await page.getByRole("link", { name: "Bank employee", exact: true }).click();

  // Only in this tab.
  const other = await page.context().newPage();
  await other.goto("/bank-employee");
  await field(other).waitFor();
  assert.ok(!(await other.evaluate(() => JSON.stringify({ ...localStorage }))).includes(TOKEN));

  await page.getByRole("button", { name: "Sign out" }).click();
  await field(page).waitFor();
  assert.equal(await accounts(page).count(), 0);
  assert.equal(await page.evaluate(() => document.activeElement.tagName), "H1");
  assert.deepEqual(await stored(page), [0, "{}"]);
  await page.reload();
  await field(page).waitFor();
  await page.locator(".brand").click();
  await page.getByText("ledger is not public. Log in to see").waitFor();
  assert.equal(await page.getByRole("listitem").count(), 0);
  await closePage(page);
});

test("wrong token is refused with its reason", async () => {
  const account = await newAccount();
  let busy = false;
  const page = await openPage("/bank-employee", { bypassCSP: true }, (page) =>
    page.routeWebSocket(/graphql/, (toPage) => {
      if (busy) toPage.onMessage(() => toPage.close({ code: 1013, reason: "busy" }));
      else toPage.connectToServer();
    }),
  );
  const reason = page.getByRole("alert").getByText("Sign-in failed");
  await page.getByText("Only an employee of the bank may search all accounts.").waitFor();
  await assertAccessible(page, "sign-in");
  for (const token of ["wrong", " ", account.token]) {
    await signIn(page, token);
    await reason.getByText("failed: the bank has no employee with this token.").waitFor();
    assert.equal(await accounts(page).count(), 0);
    assert.deepEqual(await stored(page), [0, "{}"]);
    await assertAccessible(page, "refused");
    await page.reload();
  }
  await connected(page);
  busy = true;
  await signIn(page, TOKEN);
  await reason.getByText("Sign-in failed: busy.").waitFor();
  await closePage(page);
});

test("revoked token signs the employee out", async () => {
  const page = await openPage("/bank-employee");
  await signIn(page, TOKEN);
  await accounts(page).first().waitFor();
  await restart({ PUBLIC_LEDGER: "false" });
  try {
    await field(page).waitFor();
    await connected(page);
    assert.equal(await accounts(page).count(), 0);
    assert.deepEqual(await stored(page), [0, "{}"]);
  } finally {
    await restart({ PUBLIC_LEDGER: "false", ...EMPLOYEE });
  }
  await connected(page);
  await signIn(page, TOKEN);
  await accounts(page).first().waitFor();
  await closeDisconnected(page);
});

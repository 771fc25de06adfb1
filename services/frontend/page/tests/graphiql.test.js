// Browser tests of GraphiQL as the endpoint serves it: each example works unchanged.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { COMPANY, browser, deposit, closePage, until, openPage } from "./browser.js";

const { GRAPHQL_ENDPOINT_URL } = process.env;

after(() => browser.close());

const ready = (page) => page.locator("button.graphiql-execute-button").waitFor();

/** Runs the example of this name. */
async function run(page, name) {
  await page.locator("button.graphiql-execute-button").click();
  await page.getByRole("menuitem", { name, exact: true }).click();
}

/** A field of the shown result, or undefined. */
async function shown(page, field) {
  const text = await page.evaluate(() =>
    document.querySelector(".result-window .CodeMirror").CodeMirror.getValue(),
  );
  return text ? JSON.parse(text).data?.[field] : undefined;
}

/** Waits for a result with this field. */
function result(page, field) {
  return until(`a result with ${field}`, () => shown(page, field));
}

test("GraphiQL examples work without other servers", async () => {
  const requests = [];
  const page = await openPage(
    `${GRAPHQL_ENDPOINT_URL}/`,
    {},
    (page) => page.on("request", (request) => requests.push(request.url())),
    ready,
  );

  await run(page, "account");
  const { iban, token } = await result(page, "get_account");
  assert.match(iban, /^NL\d\dOPEN0\d{9}$/);
  assert.match(token, /^\d{20}$/);
  await run(page, "deposit");
  assert.equal((await result(page, "money_transfer")).success, true);
  await run(page, "company_account");
  assert.ok((await result(page, "transactions_by_iban")).length > 0);
  await run(page, "all_accounts");
  assert.ok((await result(page, "all_last_transactions")).length > 0);

  await run(page, "live");
  // The subscription may start after the first deposit.
  const live = await until("a live transaction", async () => {
    await deposit(COMPANY, 4711);
    return shown(page, "stream_transactions");
  });
  assert.deepEqual([live.iban, live.changed_by], [COMPANY, "€47,11"]);

  assert.deepEqual(
    requests.filter((url) => !url.startsWith(GRAPHQL_ENDPOINT_URL)),
    [],
  );
  await closePage(page);
});

test("GraphiQL shows the descriptions of the schema", async () => {
  const page = await openPage(`${GRAPHQL_ENDPOINT_URL}/`, {}, () => {}, ready);
  await page.getByRole("button", { name: /documentation/i }).click();
  await page.getByRole("link", { name: "Query", exact: true }).click();
  await page.getByText("Transactions of an account, newest first.").waitFor();
  await closePage(page);
});

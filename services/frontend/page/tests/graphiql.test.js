// GraphiQL as the endpoint serves it, in a real Chromium: each of its examples works as it stands.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { COMPANY, browser, deposit, leave, until, visit } from "./browser.js";

const { GRAPHQL_ENDPOINT_URL } = process.env;

after(() => browser.close());

const ready = (page) => page.locator("button.graphiql-execute-button").waitFor();

/** Runs an example by its name. */
async function run(page, name) {
  await page.locator("button.graphiql-execute-button").click();
  await page.getByRole("menuitem", { name, exact: true }).click();
}

/** This field of the result that is shown, if that has one. */
async function shown(page, field) {
  const text = await page.evaluate(() =>
    document.querySelector(".result-window .CodeMirror").CodeMirror.getValue(),
  );
  return text ? JSON.parse(text).data?.[field] : undefined;
}

/** The result of an example, by its field. */
function result(page, field) {
  return until(`a result with ${field}`, () => shown(page, field));
}

test("the examples in GraphiQL work, live ones too, and nothing comes from elsewhere", async () => {
  const requests = [];
  const page = await visit(
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
  await run(page, "of_the_company");
  assert.ok((await result(page, "transactions_by_iban")).length > 0);
  await run(page, "last_of_each_account");
  assert.ok((await result(page, "all_last_transactions")).length > 0);

  await run(page, "live");
  // The stream may begin after the first of these.
  const live = await until("a live transaction", async () => {
    await deposit(COMPANY, 4711);
    return shown(page, "stream_transactions");
  });
  assert.deepEqual([live.iban, live.changed_by], [COMPANY, "€47,11"]);

  assert.deepEqual(
    requests.filter((url) => !url.startsWith(GRAPHQL_ENDPOINT_URL)),
    [],
  );
  await leave(page);
});

test("GraphiQL shows the docs of the schema", async () => {
  const page = await visit(`${GRAPHQL_ENDPOINT_URL}/`, {}, () => {}, ready);
  await page.getByRole("button", { name: /documentation/i }).click();
  await page.getByRole("link", { name: "Query", exact: true }).click();
  await page.getByText("Transactions of an account, the newest first.").waitFor();
  await leave(page);
});

// Browser tests of GraphiQL as the endpoint serves it.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { COMPANY, browser, deposit, closePage, newName, until, openPage } from "./browser.js";

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
  await page.getByText("Transactions of an account, newest first.", { exact: true }).waitFor();
  await closePage(page);
});

/** Replaces the text of the editor with this class. */
async function type(page, editor, text) {
  await page.locator(`${editor} .CodeMirror:visible`).click();
  await page.keyboard.press("Control+A");
  await page.keyboard.insertText(text);
}

test("GraphiQL stores the appearance, but nothing that is typed", async () => {
  const secrets = ["secret in a query", "secret variable", "secret header", "secret of last year"];
  const page = await openPage(
    `${GRAPHQL_ENDPOINT_URL}/`,
    {},
    async (page) => {
      // GraphiQL stores some changes after a delay.
      await page.clock.install();
      await page.addInitScript(
        // As an earlier version stored it.
        (old) => localStorage.setItem("graphiql:queries", JSON.stringify({ queries: [old] })),
        secrets[3],
      );
    },
    ready,
  );
  await type(
    page,
    ".graphiql-query-editor",
    `mutation typed($name: String!) {
      get_account(username: $name, password: "${secrets[0]}") { iban reason } }`,
  );
  const variables = JSON.stringify({ name: newName(), password: secrets[1] });
  await type(page, ".graphiql-editor-tool", variables);
  await page.getByRole("button", { name: "Headers" }).click();
  await type(page, ".graphiql-editor-tool", JSON.stringify({ Authorization: secrets[2] }));
  // Running the operation adds it to the history.
  await page.locator("button.graphiql-execute-button").click();
  assert.match((await result(page, "get_account")).iban, /^NL/);
  await page.getByRole("button", { name: "Add tab" }).click();
  await page.getByRole("button", { name: "Open settings dialog" }).click();
  await page.getByRole("button", { name: "Dark", exact: true }).click();
  await page.clock.runFor(60_000);

  const stored = () =>
    page.evaluate(async () => {
      const databases = await indexedDB.databases();
      const places = [localStorage, sessionStorage, document.cookie, location.href, databases];
      return JSON.stringify(places);
    });
  const check = async () => {
    const all = await stored();
    assert.ok(all.includes('"graphiql:theme":"dark"'), all);
    for (const secret of [...secrets, "get_account"]) assert.ok(!all.includes(secret), all);
  };
  await check();
  await page.reload();
  await ready(page);
  await page.clock.runFor(60_000);
  await check();
  await page.locator("body.graphiql-dark").waitFor();
  await closePage(page);
});

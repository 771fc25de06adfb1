// Browser tests of the pages, in Chromium, with a running bank.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import {
  COMPANY,
  PASSWORD,
  accounts,
  amounts,
  ask,
  assertAccessible,
  browser,
  closeDisconnected,
  closePage,
  connected,
  deposit,
  depositMany,
  logIn,
  newest,
  newName,
  openAccounts,
  openPage,
  sendHeartbeats,
  setLoad,
  stack,
  transactions,
  until,
} from "./browser.js";

const PATHS = ["/", "/bank-employee", "/client", "/background"];

before(async () => {
  await setLoad(0, 1000);
  await openAccounts();
});
after(() => browser.close());

test("home page shows new transactions of the company first", async () => {
  const page = await openPage("/");
  await deposit(COMPANY, 1234);
  await newest(page, "€12,34");
  await deposit(COMPANY, 4321);
  await newest(page, "€43,21");
  const stored = (await transactions(COMPANY, 10)).map(({ changed_by }) => changed_by);
  assert.deepEqual(await amounts(page), stored);
  await closePage(page);
});

test("time of a transaction is in the reader's zone", async () => {
  const page = await openPage("/", { locale: "nl-NL", timezoneId: "Asia/Tokyo" });
  const before = Date.now();
  await deposit(COMPANY, 5678);
  await newest(page, "€56,78");
  const shown = page.locator("#transactions > div:first-child time");
  const decided = new Date(await shown.getAttribute("datetime"));
  assert.ok(decided >= before && decided <= Date.now(), decided.toISOString());
  // Tokyo has no daylight saving time.
  const tokyo = new Date(decided.getTime() + 9 * 3600_000).toISOString();
  const text = await shown.textContent();
  assert.ok(text.includes(tokyo.slice(11, 19)), `${text} is not ${tokyo}`);
  assert.ok(text.includes(tokyo.slice(0, 4)), text);
  await closePage(page);
});

test("client registers, deposits, transfers and sees refusals", async () => {
  const page = await openPage("/");
  await page.getByRole("link", { name: "Client", exact: true }).click();
  const iban = await logIn(page);
  assert.match(iban, /^NL\d\dOPEN0\d{9}$/);
  await page.getByText("No transactions yet.").waitFor();
  assert.equal(await page.locator("#balance").textContent(), "€0,00");

  await page.locator("#deposit-1000").click();
  await newest(page, "€10,00");
  await page.getByText("The deposit of €10,00 is done.").waitFor();
  for (const [id, amount] of [
    ["2000", "€20,00"],
    ["5000", "€50,00"],
    ["10000", "€100,00"],
    ["20000", "€200,00"],
    ["50000", "€500,00"],
  ]) {
    await page.locator(`#deposit-${id}`).click();
    await newest(page, amount);
  }
  assert.equal(await page.locator("#balance").textContent(), "€880,00");

  await page.getByLabel("Amount in cents").fill("1111");
  await page.getByText("= €11,11", { exact: true }).waitFor();
  await page.getByLabel("To", { exact: true }).fill(COMPANY);
  await page.getByLabel("Description", { exact: true }).fill("for the company");
  await page.getByRole("button", { name: "Transfer" }).click();
  await newest(page, "-€11,11");
  await page.getByText("The transfer of €11,11 is done.").waitFor();
  assert.equal(await page.locator("#balance").textContent(), "€868,89");
  assert.equal(await page.getByLabel("Amount in cents").inputValue(), "", "ready for the next one");

  for (const [cents, to, reason] of [
    ["999999", COMPANY, "insufficient funds"],
    ["0", COMPANY, "amount must be positive"],
    ["100", iban, "from and to can't be same for transfer"],
  ]) {
    await page.getByLabel("Amount in cents").fill(cents);
    await page.getByLabel("To", { exact: true }).fill(to);
    await page.getByLabel("Description", { exact: true }).fill("refused");
    await page.getByRole("button", { name: "Transfer" }).click();
    await page.getByText(`was refused: ${reason}`).waitFor();
    assert.equal(
      await page.getByLabel("To", { exact: true }).inputValue(),
      to,
      "the form keeps its text",
    );
  }
  assert.equal((await amounts(page)).length, 7);
  await closePage(page);
});

test("amount in cents is shown in euros while typing", async () => {
  const page = await openPage("/client");
  await logIn(page);
  const amount = page.getByLabel("Amount in cents", { exact: true });
  const hint = page.locator("#amount-in-euros");
  assert.equal(await hint.textContent(), "");
  for (const [key, text] of [
    ["1", "= €0,01"],
    ["2", "= €0,12"],
    ["3", "= €1,23"],
    ["4", "= €12,34"],
    ["Backspace", "= €1,23"],
    [",", "Whole cents, at most 2147483647"],
  ]) {
    await amount.press(key);
    await page.locator("#amount-in-euros").getByText(text, { exact: true }).waitFor();
  }
  await amount.fill("2147483647");
  await hint.getByText("= €21.474.836,47", { exact: true }).waitFor();
  await amount.fill("2147483648");
  await hint.getByText("Whole cents", { exact: false }).waitFor();
  assert.equal(await hint.getAttribute("aria-live"), "polite");
  assert.equal(await amount.getAttribute("aria-describedby"), "amount-in-euros");
  await closePage(page);
});

// Selectors and order of the talk's test (etaoin): `fill` ends with Enter each time.
test("browser test of the talk works on this page", async () => {
  const page = await openPage("/", { viewport: { width: 1920, height: 1080 } });
  const fill = async (selector, text) => {
    await page.locator(selector).first().pressSequentially(text);
    await page.keyboard.press("Enter");
  };
  await page.locator("#flex-main-menu a:nth-child(2)").click();
  await fill("#login-form div:nth-child(1) input", newName());
  await fill("#login-form div:nth-child(2) input", "password");
  await page.locator("#deposit-1000").waitFor();
  await page.locator("#login-form div:nth-child(3)").first().click();
  const shows = (amount) =>
    page
      .locator(
        "#transactions div:nth-child(1) div div:nth-child(1) p:nth-child(1) span:nth-child(2)",
      )
      .first()
      .and(page.getByText(amount))
      .waitFor();
  for (const [cents, amount] of [
    [1000, "€10,00"],
    [2000, "€20,00"],
    [5000, "€50,00"],
    [10000, "€100,00"],
    [20000, "€200,00"],
  ]) {
    await page.locator(`#deposit-${cents}`).click();
    await shows(amount);
  }
  for (const [cents, descr, amount] of [
    ["1111", "foo", "€11,11"],
    ["2323", "bar", "€23,23"],
    ["3489", "baz", "€34,89"],
    ["9999", "present", "€99,99"],
    ["21078", "fine", "€210,78"],
  ]) {
    await fill("#transfer-form div:nth-child(1) input", cents);
    await fill("#transfer-form div:nth-child(2) input", COMPANY);
    await fill("#transfer-form div:nth-child(3) input", descr);
    await page.locator("#transfer-form div:nth-child(4) div a").click();
    await shows(amount);
  }
  assert.equal((await amounts(page)).length, 10, "each once");
  assert.equal(await page.locator("#balance").textContent(), "€0,00");
  await closePage(page);
});

test("wrong password is refused, short one is not sent", async () => {
  const page = await openPage("/client");
  const name = newName();
  await logIn(page, name);
  await page.locator("#logout").click();
  await page.getByLabel("User name").fill(name);
  await page.getByLabel("Password").fill("wrong horse");
  await page.getByLabel("Password").press("Enter");
  await page.getByText("Login failed: incorrect password").waitFor();
  await page.getByLabel("Password").fill("short");
  await page.getByLabel("Password").press("Enter");
  assert.equal(
    await page.getByLabel("Password").evaluate((input) => input.validity.tooShort),
    true,
  );
  await page.getByLabel("Password").fill(PASSWORD);
  await page.getByLabel("Password").press("Enter");
  await page.locator("#iban").waitFor();
  await closePage(page);
});

test("session survives a reload and ends with the logout", async () => {
  const page = await openPage("/client");
  const iban = await logIn(page);
  await page.locator("#deposit-2000").click();
  await newest(page, "€20,00");
  await page.reload();
  assert.equal(await page.locator("#iban").textContent(), iban);
  await newest(page, "€20,00");
  const kept = await page.evaluate(() =>
    JSON.stringify([localStorage, document.cookie, location.href]),
  );
  const token = await page.evaluate(() => JSON.parse(sessionStorage.session).token);
  assert.ok(!kept.includes(token));
  const other = await page.context().newPage();
  await other.goto("/client");
  await other.getByLabel("User name").waitFor();
  await page.locator("#logout").click();
  await page.getByLabel("User name").waitFor();
  await page.reload();
  await page.getByLabel("User name").waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.session), undefined);
  await closePage(page);
});

test("logging out everywhere replaces the token", async () => {
  let result = { reason: "busy", reason_code: "BUSY" };
  let sent;
  const page = await openPage("/client", {}, (page) =>
    page.routeWebSocket(/graphql/, (toPage) => {
      const endpoint = toPage.connectToServer();
      toPage.onMessage((message) => {
        const { id, payload } = JSON.parse(message);
        const isFaked = result && payload?.query?.includes("rotate_token");
        if (!isFaked) return endpoint.send(message);
        sent = payload.variables.token;
        const data = { rotate_token: result };
        toPage.send(JSON.stringify({ id, type: "next", payload: { data } }));
        toPage.send(JSON.stringify({ id, type: "complete" }));
      });
    }),
  );
  // The first result is that of the endpoint.
  for (const logsOut of [
    null,
    { reason: "invalid token", reason_code: "TOKEN_INVALID" },
  ]) {
    await logIn(page);
    const { token } = JSON.parse(await page.evaluate(() => sessionStorage.session));
    await page.locator("#logout-everywhere").click();
    await page.getByText("The other logins are still valid: busy.").waitFor();
    assert.equal(sent, token);
    result = logsOut;
    await page.locator("#logout-everywhere").click();
    await page.getByLabel("User name").waitFor();
    assert.equal(await page.evaluate(() => sessionStorage.session), undefined);
    const again = "mutation($token: String!) { rotate_token(token: $token) { reason_code } }";
    const { rotate_token } = await ask(again, { token });
    assert.equal(rotate_token.reason_code, logsOut ? null : "TOKEN_INVALID");
    result = { reason: "busy", reason_code: "BUSY" };
  }
  await closePage(page);
});

test("bank employee pages through accounts and follows one", async () => {
  const page = await openPage("/bank-employee");
  const all = await accounts();
  const shown = [];
  for (let number = 1; ; number++) {
    await page.getByText(`Page ${number}`, { exact: true }).waitFor();
    const rows = page.locator("#accounts tbody tr");
    await until(
      "the page is loaded",
      async () => (await rows.first().locator("button").textContent()) === all[shown.length],
    );
    shown.push(...(await rows.locator("button").allTextContents()));
    assert.ok((await rows.count()) <= 20);
    if (await page.locator("#next-accounts").isDisabled()) break;
    await page.locator("#next-accounts").click();
  }
  assert.deepEqual(shown, all);
  assert.ok(all.length > 20);
  await page.locator("#previous-accounts").click();

  const iban = await page.locator("#accounts tbody tr").nth(3).locator("button").textContent();
  await page.locator(`#account-${iban}`).click();
  await page.getByText(`Following ${iban}`).waitFor();
  await deposit(iban, 5432, "followed");
  await newest(page, "€54,32");
  const [last] = await transactions(iban, 1);
  await page.locator(`#transaction-box-${last.id}`).getByText("followed").waitFor();
  const cells = page.locator(`#accounts tr:has(#account-${iban}) td`);
  await until("the row is updated", async () => {
    const [account, balance, change] = await cells.allTextContents();
    return account === iban && balance === last.new_balance && change.startsWith("€54,32");
  });
  const time = await cells.locator("time").getAttribute("datetime");
  assert.ok(Math.abs(Date.now() - Date.parse(time)) < 60_000, time);
  await closePage(page);
});

test("account search finds and pages ibans by prefix", async () => {
  const page = await openPage("/bank-employee");
  // An account that was opened and never used.
  const client = await openPage("/client");
  const unused = await logIn(client);
  await closePage(client);
  const all = await accounts();
  const search = page.getByLabel("Beginning of the account number");
  const rows = page.locator("#accounts tbody button");
  const shows = (ibans) =>
    until(
      "the matches are shown",
      async () => (await rows.allTextContents()).join() === ibans.join(),
    );
  const says = (text) => page.getByRole("status").getByText(text, { exact: true }).waitFor();

  // All accounts match, so the search has more than one page.
  await search.fill("nl");
  await says("Matches: more than 20");
  await shows(all.slice(0, 20));
  await page.locator("#next-accounts").click();
  await page.getByText("Page 2", { exact: true }).waitFor();
  await shows(all.slice(20, 40));

  // Each character searches again, from the first page. Spaces and lower case are accepted.
  await search.fill("");
  await search.pressSequentially(unused.slice(0, 4).toLowerCase());
  const found = all.filter((iban) => iban.startsWith(unused.slice(0, 4)));
  await says(`Matches: ${found.length > 20 ? "more than 20" : found.length}`);
  await page.getByText("Page 1", { exact: true }).waitFor();
  await shows(found.slice(0, 20));
  await search.fill(unused.replace(/(.{4})/g, "$1 "));
  await says("Matches: 1");
  await shows([unused]);
  assert.equal(await page.locator("#next-accounts").isDisabled(), true);
  assert.deepEqual(await page.locator("#accounts tbody td").allTextContents(), [
    unused,
    "€0,00",
    "never used",
  ]);
  await page.locator(`#account-${unused}`).click();
  await page.getByText("No transactions yet.").waitFor();

  await search.fill("NL00NONE");
  await says("Matches: 0");
  await page.getByText("No account number begins with “NL00NONE”.").waitFor();
  // These are not wildcards.
  await search.fill("NL%");
  await page.getByText("No account number begins with “NL%”.").waitFor();
  await search.fill("");
  await shows(all.slice(0, 20));
  assert.equal(await page.locator("#matches").textContent(), "");
  await closePage(page);
});

test("number and fields of transactions are saved", async () => {
  const page = await openPage("/client");
  const iban = await logIn(page);
  for (let cents = 1; cents <= 12; cents++) await deposit(iban, cents, `number ${cents}`);
  await newest(page, "€0,12");
  assert.equal((await amounts(page)).length, 10);
  await page.locator("#max-items-5").click();
  await until("five", async () => (await amounts(page)).length === 5);
  await page.locator("#max-items-250").click();
  await until("all", async () => (await amounts(page)).length === 12);
  const first = page.locator(".field-descr").getByText(/number 1$/);
  await first.waitFor();
  await page.getByLabel("description", { exact: true }).uncheck();
  await first.waitFor({ state: "detached" });
  await page.getByLabel("own account", { exact: true }).check();
  await page.reload();
  await until("all", async () => (await amounts(page)).length === 12);
  const box = page.locator("#transactions > div").first();
  assert.equal(await box.locator(".field-descr").count(), 0);
  assert.ok((await box.textContent()).includes(iban));

  await page.locator("#pause").click();
  await deposit(iban, 7777);
  await until(
    "the balance is updated during the pause",
    async () => (await page.locator("#balance").textContent()) === "€78,55",
  );
  assert.equal((await amounts(page))[0], "€0,12");
  await page.locator("#pause").click();
  await newest(page, "€77,77");
  await closePage(page);
});

test("page reconnects to a restarted endpoint without loss", async () => {
  const [home, client] = [await openPage("/"), await openPage("/client")];
  const iban = await logIn(client);
  await client.locator("#deposit-1000").click();
  await newest(client, "€10,00");

  await stack(["stop", "graphql-endpoint", "KILL"]);
  for (const page of [home, client]) {
    await page.locator("#connection[data-state=lost]").waitFor();
    await page.getByRole("alert").getByText("The connection to the bank is lost").waitFor();
  }
  // The deposit is sent again after the restart. The bank works meanwhile.
  await client.locator("#deposit-2000").click();
  await client.getByText("The deposit of €20,00 is on its way…").waitFor();
  await sendHeartbeats(1000);
  await stack(["start", "graphql-endpoint"]);
  for (const page of [home, client]) {
    await connected(page);
    await page.locator("#connection-lost").waitFor({ state: "detached" });
  }
  await client.getByText("The deposit of €20,00 is done.").waitFor();
  await newest(client, "€20,00");
  assert.equal(await client.locator("#balance").textContent(), "€30,00");
  assert.deepEqual(
    (await transactions(iban)).map(({ changed_by }) => changed_by),
    ["€20,00", "€10,00"],
    "once",
  );
  await until("home has the transactions of the interruption", async () => {
    const stored = (await transactions(COMPANY, 10)).map(({ changed_by }) => changed_by);
    return (await amounts(home)).join() === stored.join();
  });
  await deposit(COMPANY, 8765);
  await newest(home, "€87,65");
  for (const page of [home, client]) await closeDisconnected(page);
});

/**
 * Opens the client's page with a new account, and counts what the page asks for. While `blocked`,
 * new connections are closed; while `losing`, queries of the list are lost; while `silent`, streams
 * are lost until the next query of the list.
 */
async function openCounted() {
  const counted = { blocked: false, losing: false, silent: false, queries: 0, after: [] };
  const page = await openPage("/client", {}, (page) =>
    page.routeWebSocket(/graphql/, (toPage) => {
      if (counted.blocked) return toPage.close();
      counted.cut = () => toPage.close();
      const endpoint = toPage.connectToServer();
      toPage.onMessage((message) => {
        const { query, variables } = JSON.parse(message).payload ?? {};
        if (query?.includes("transactions_by_iban")) {
          counted.queries++;
          counted.silent = false;
          if (counted.losing) return;
        }
        if (query?.includes("stream_transactions")) {
          counted.after.push(variables.after);
          if (counted.silent) return;
        }
        endpoint.send(message);
      });
    }),
  );
  const iban = await logIn(page);
  await page.getByText("No transactions yet.").waitFor();
  const lose = async () => {
    counted.blocked = true;
    counted.cut();
    await page.locator("#connection[data-state=lost]").waitFor();
  };
  return { page, iban, counted, lose };
}

/** Waits until the page shows the newest `max` transactions, in the order of the account. */
function showsNewest(page, iban, max) {
  return until("the newest are shown", async () => {
    const shown = await page.locator("#transactions .field-new_balance").allTextContents();
    const stored = await transactions(iban, max);
    return shown.join() === stored.map((it) => `new balance: ${it.new_balance}`).join();
  });
}

test("missed transactions arrive once and in order", async () => {
  const { page, iban, counted, lose } = await openCounted();
  await page.locator("#max-items-250").click();
  await deposit(iban, 1);
  await newest(page, "€0,01");
  const { queries } = counted;
  counted.after.length = 0;
  for (let cuts = 1; cuts <= 5; cuts++) {
    await lose();
    await depositMany(iban, 10);
    counted.blocked = false;
    // While the page catches up.
    await depositMany(iban, 10);
    await showsNewest(page, iban, 250);
  }
  assert.deepEqual([...new Set(counted.after)], ["1", "21", "41", "61", "81"]);
  assert.equal((await amounts(page)).length, 101);
  assert.equal(counted.queries, queries, "the list is not read again");

  // The connection is lost before the response to the first query.
  counted.losing = true;
  await page.reload();
  await until("the page sends a query", () => counted.queries === queries + 1);
  await deposit(iban, 7777);
  counted.losing = false;
  counted.cut();
  await newest(page, "€77,77");
  assert.equal((await amounts(page)).length, 102);
  await closePage(page);
});

test("list is read again if it missed everything", async () => {
  const { page, iban, counted, lose } = await openCounted();
  await page.locator("#max-items-5").click();
  await deposit(iban, 1);
  await newest(page, "€0,01");
  const { queries } = counted;
  await lose();
  await depositMany(iban, 30);
  // The stream would send all 30.
  counted.silent = true;
  counted.blocked = false;
  await showsNewest(page, iban, 5);
  assert.equal(counted.queries, queries + 1);
  assert.equal(counted.after.at(-1), "31");
  await deposit(iban, 7777);
  await newest(page, "€77,77");
  await closePage(page);
});

test("private ledger shows clients their own account only", async () => {
  await stack(["stop", "graphql-endpoint"]);
  await stack(["start", "graphql-endpoint"], { PUBLIC_LEDGER: "false" });
  try {
    const page = await openPage("/");
    const alert = page.getByRole("alert");
    await alert.getByText("ledger is not public. Log in").waitFor();
    await page.getByRole("link", { name: "Bank employee", exact: true }).click();
    await alert.getByText("Accounts cannot be loaded: this bank’s ledger is not public.").waitFor();
    await page.getByText("Only an employee of the bank may search").waitFor();
    await page.getByRole("link", { name: "Client", exact: true }).click();
    await logIn(page);
    await connected(page);
    await page.locator("#deposit-5000").click();
    await newest(page, "€50,00");
    await page.reload();
    await newest(page, "€50,00");
    await page.getByRole("link", { name: "Bank employee", exact: true }).click();
    await alert.getByText("Your login shows your own account only.").waitFor();
    assert.equal(await page.locator("#accounts").count(), 0);
    await closePage(page);
  } finally {
    await stack(["stop", "graphql-endpoint"]);
    await stack(["start", "graphql-endpoint"]);
  }
});

test("thousand transactions cause no layout shift", async () => {
  const page = await openPage("/");
  await page.locator("#max-items-25").click();
  await until("25", async () => (await amounts(page)).length === 25);
  const shiftsBefore = (await page.evaluate(() => globalThis.shifts)).length;
  const writes = await page.evaluateHandle(() => {
    const counted = { frames: 0, batches: 0 };
    new MutationObserver(() => counted.batches++).observe(document.querySelector("#transactions"), {
      subtree: true,
      childList: true,
      characterData: true,
      attributes: true,
    });
    const frame = () => (counted.frames++, requestAnimationFrame(frame));
    requestAnimationFrame(frame);
    return counted;
  });
  const started = Date.now();
  const cents = Array.from({ length: 1000 }, (_, n) => n + 1);
  await Promise.all(
    Array.from({ length: 100 }, async (_, worker) => {
      for (const amount of cents.filter((it) => it % 100 === worker))
        await deposit(COMPANY, amount, `load ${amount}`);
    }),
  );
  const seconds = (Date.now() - started) / 1000;
  await until(
    "all are stored",
    async () =>
      (await transactions(COMPANY)).filter(({ descr }) => descr.startsWith("load ")).length ===
      cents.length,
  );
  const stored = (await transactions(COMPANY, 25)).map(({ changed_by }) => changed_by);
  await until(
    "the newest 25 are shown",
    async () => (await amounts(page)).join() === stored.join(),
  );
  const { frames, batches } = await writes.jsonValue();
  const shifts = (await page.evaluate(() => globalThis.shifts)).slice(shiftsBefore);
  console.log(
    `${Math.round(cents.length / seconds)} transactions/s`,
    `${batches} updates in ${frames} frames, ${shifts.length} layout shifts`,
  );
  assert.deepEqual(
    shifts.filter(({ byUser }) => !byUser),
    [],
  );
  assert.ok(batches <= frames, `${batches} updates in ${frames} frames`);
  await closePage(page);
});

/** Finds an account and shows its transactions. */
async function follow(page, iban) {
  await page.getByLabel("Beginning of the account number").fill(iban);
  await page.locator(`#account-${iban}`).click();
}

test("axe finds no violations in light and dark", async () => {
  for (const colorScheme of ["light", "dark"]) {
    const page = await openPage("/client", { colorScheme, bypassCSP: true });
    const check = (what) => assertAccessible(page, `${what}, ${colorScheme}`);
    await check("log in");
    await page.getByLabel("User name").fill("short");
    const iban = await logIn(page);
    await page.locator("#deposit-1000").click();
    await newest(page, "€10,00");
    await page.getByText("is done").waitFor();
    await check("client");
    for (const path of PATHS.filter((it) => it !== "/client")) {
      await page.goto(path);
      await connected(page);
      if (path === "/bank-employee") await follow(page, iban);
      if (path === "/background") await page.locator("#rows a").first().waitFor();
      else await page.locator("#transactions > div").first().waitFor();
      await check(path);
    }
    await closePage(page);
  }
});

test("pages work by keyboard and focus follows", async () => {
  const page = await openPage("/");
  await page.keyboard.press("Tab");
  assert.equal(
    await page.evaluate(() => document.activeElement.textContent),
    "Skip to the content",
  );
  const tabTo = async (wanted) => {
    for (let times = 0; times < 80; times++) {
      if (await page.locator(wanted).evaluate((it) => it === document.activeElement)) return;
      await page.keyboard.press("Tab");
    }
    assert.fail(`${wanted} was not reached`);
  };
  await tabTo("#flex-main-menu a:nth-child(2)");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.tagName), "H1");
  assert.equal(await page.title(), "Client · scratchbank");
  await page.keyboard.press("Tab");
  await page.keyboard.type(newName());
  await page.keyboard.press("Tab");
  await page.keyboard.type(PASSWORD);
  await page.keyboard.press("Enter");
  await page.locator("#deposit-1000").waitFor();
  await tabTo("#deposit-1000");
  await page.keyboard.press("Space");
  await newest(page, "€10,00");
  await page.goBack();
  await page.getByRole("heading", { name: "The company’s account" }).waitFor();
  await page.goForward();
  await newest(page, "€10,00");
  await closePage(page);
});

test("pages fit their window from phone to 4K", async () => {
  for (const width of [320, 768, 1920, 3840]) {
    const page = await openPage("/client", { viewport: { width, height: 800 } });
    const iban = await logIn(page);
    await page.locator("#deposit-50000").click();
    await newest(page, "€500,00");
    for (const path of PATHS) {
      if (path !== "/client") await page.goto(path);
      if (path === "/bank-employee") await follow(page, iban);
      await page
        .locator(path === "/background" ? "#rows a" : "#transactions > div")
        .first()
        .waitFor();
      const wide = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(wide <= width, `${path} is ${wide} wide at ${width}`);
    }
    await closePage(page);
  }
});

test("theme follows the system until the user chooses", async () => {
  const page = await openPage("/", { colorScheme: "dark" });
  const brightness = () =>
    page.evaluate(() =>
      Number(/\d+/.exec(getComputedStyle(document.documentElement).backgroundColor)[0]),
    );
  assert.ok((await brightness()) < 60);
  await page.getByRole("button", { name: "Use light colours" }).click();
  assert.ok((await brightness()) > 200);
  await page.reload();
  await connected(page);
  assert.ok((await brightness()) > 200, "the choice is saved");
  await closePage(page);
});

test("background shows graphs with data and the footprint", async () => {
  const page = await openPage("/background");
  const graph = page.getByRole("img", { name: "Latency & load" });
  await until("the graph is loaded", () =>
    graph.evaluate((img) => img.complete && img.naturalWidth > 0),
  );
  await page.getByText("For the tests: no figure in it was measured.").waitFor();
  await page.locator("#footprint-talk").getByText("scratchbank").waitFor();
  const raw = await page.locator("#rows a").allTextContents();
  assert.ok(
    raw.includes("raw-run.csv (1 kB)") && !raw.some((name) => name.startsWith("latency")),
    raw.join(),
  );
  const [download] = await Promise.all([
    page.waitForEvent("download"),
    page.locator("figure a[download]").first().click(),
  ]);
  assert.equal(download.suggestedFilename(), "latency.csv");
  assert.equal(
    readFileSync(await download.path(), "utf8"),
    readFileSync("tests/results/latency.csv", "utf8"),
  );

  // The script in an opened graph does not run.
  await page.goto("/results/latency.svg");
  assert.equal(await page.evaluate(() => document.documentElement.getAttribute("ran")), null);
  assert.ok(
    page.errors.some((it) => /script/i.test(it)),
    page.errors.join(),
  );
  page.errors = [];
  await closePage(page);
});

test("table of contents leads to each section", async () => {
  const page = await openPage("/background");
  await page.locator("#rows a").first().waitFor();
  const titles = await page.locator(".content h2").allTextContents();
  const contents = page.getByRole("navigation", { name: "Contents" });
  assert.deepEqual(await contents.getByRole("link").allTextContents(), titles);
  for (const title of ["Architecture", "Latency", "Comparison of command-handlers", "Footprint"]) {
    assert.ok(titles.includes(title), `${title} in ${titles.join()}`);
  }
  const top = () =>
    page
      .getByRole("heading", { name: "Footprint" })
      .evaluate((it) => it.getBoundingClientRect().top);
  const height = page.viewportSize().height;
  assert.ok((await top()) > height);
  await contents.getByRole("link", { name: "Footprint" }).focus();
  await page.keyboard.press("Enter");
  await until("the section is in view", async () => (await top()) < height);
  assert.equal(new URL(page.url()).hash, "#footprint");
  // The results are loaded after the page; a link from elsewhere leads to the section all the same.
  await page.goto("about:blank");
  await page.goto("/background#footprint");
  await page.locator("#rows a").first().waitFor();
  await until("the section is in view", async () => (await top()) < height);
  await closePage(page);
});

test("graph opens in full size by keyboard", async () => {
  const page = await openPage("/background");
  const link = page.getByRole("link", { name: "Full size of “Latency & load”, in a new tab" });
  await link.focus();
  const [graph] = await Promise.all([page.waitForEvent("popup"), page.keyboard.press("Enter")]);
  await graph.waitForLoadState();
  assert.equal(new URL(graph.url()).pathname, "/results/latency.svg");
  assert.equal(await graph.title(), "Latency & load");
  const { width } = await graph.locator("svg").boundingBox();
  assert.ok(width > 1000, `${width} pixels wide`);
  await closePage(page);
});

test("foreign scripts do not run", async () => {
  const page = await openPage("/");
  const ran = await page.evaluate(async () => {
    const script = document.createElement("script");
    try {
      script.textContent = "globalThis.ran = true";
    } catch {
      return "refused";
    }
    document.body.append(script);
    return globalThis.ran;
  });
  assert.equal(ran, "refused");
  const reached = await page.evaluate(() =>
    fetch("https://example.com").then(
      () => "reached",
      () => "refused",
    ),
  );
  assert.equal(reached, "refused");
  assert.ok(page.errors.length > 0);
  page.errors = [];
  await closePage(page);
});

test("first visit transfers few bytes", async () => {
  const page = await openPage("/");
  await page.locator("#transactions > div").first().waitFor();
  const { files, paint } = await page.evaluate(() => ({
    files: [
      ...performance.getEntriesByType("navigation"),
      ...performance.getEntriesByType("resource"),
    ].map(({ name, encodedBodySize }) => ({ name, bytes: encodedBodySize })),
    paint: performance.getEntriesByName("first-contentful-paint")[0]?.startTime,
  }));
  const sum = (wanted) =>
    files.filter(({ name }) => wanted.test(name)).reduce((all, { bytes }) => all + bytes, 0);
  console.log(
    `first paint after ${Math.round(paint)} ms`,
    `script ${sum(/\.js$/)} bytes, styles ${sum(/\.css$/)} bytes, all ${sum(/./)} bytes`,
  );
  assert.ok(sum(/\.js$/) > 0 && sum(/\.js$/) < 60_000);
  assert.ok(sum(/./) < 100_000);
  assert.ok(paint > 0);
  await closePage(page);
});

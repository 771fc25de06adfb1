// Browser tests of the statement on the client's page, with a running bank.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import {
  assertAccessible,
  ask,
  browser,
  closePage,
  deposit,
  depositMany,
  logIn,
  newest,
  openPage,
  setLoad,
  until,
} from "./browser.js";

before(() => setLoad(0, 1000));
after(() => browser.close());

/** The lines of a file as RFC 4180 has them. */
function parseCsv(text) {
  assert.ok(text.endsWith("\r\n"));
  const field = /("(?:[^"]|"")*"|[^",\r\n]*)(,|\r\n)/y;
  const records = [[]];
  while (field.lastIndex < text.length) {
    const [, value, end] = field.exec(text);
    records.at(-1).push(value.startsWith('"') ? value.slice(1, -1).replaceAll('""', '"') : value);
    if (end !== ",") records.push([]);
  }
  return records.slice(0, -1);
}

/** The transactions of an account as the endpoint returns them, the oldest first. */
async function stored(iban) {
  const query = `query($iban: String!) { transactions_by_iban(iban: $iban, max_items: 1000) {
    time sequence descr from_to changed_by new_balance } }`;
  return (await ask(query, { iban })).transactions_by_iban.reverse();
}

/**
 * Opens the client's page with a new account. `onQuery` receives each query of a page of
 * transactions, and may change it or return errors as its response.
 */
async function openClient(options = {}, onQuery = () => {}) {
  const page = await openPage("/client", options, (page) =>
    page.routeWebSocket(/graphql/, (toPage) => {
      const endpoint = toPage.connectToServer();
      toPage.onMessage((message) => {
        const sent = JSON.parse(message);
        const isQuery = sent.payload?.query?.includes("pageInfo");
        const errors = isQuery && onQuery(sent.payload.variables);
        if (!errors) return endpoint.send(JSON.stringify(sent));
        const { id } = sent;
        toPage.send(JSON.stringify({ id, type: "next", payload: { data: null, errors } }));
        toPage.send(JSON.stringify({ id, type: "complete" }));
      });
    }),
  );
  return { page, iban: await logIn(page) };
}

async function open(page) {
  await page.locator("#statement summary").click();
}

async function show(page) {
  await page.locator("#show-statement").click();
  await page.locator("#printed").waitFor();
}

async function rows(page) {
  const rows = await page.locator("#entries tbody tr").all();
  return Promise.all(rows.map((row) => row.locator("td").allTextContents()));
}

async function save(page) {
  const [download] = await Promise.all([
    page.waitForEvent("download"),
    page.locator("#save-statement").click(),
  ]);
  const text = readFileSync(await download.path(), "utf8");
  return { name: download.suggestedFilename(), records: parseCsv(text) };
}

test("statement shows entries with running balance, oldest first", async () => {
  let from;
  const { page, iban } = await openClient({ locale: "nl-NL", timezoneId: "Asia/Tokyo" }, (sent) => {
    if (from && sent.from) sent.from = from;
  });
  for (const cents of [1000, 2000, 5000]) await deposit(iban, cents, `deposit of ${cents}`);
  await newest(page, "€50,00");
  await open(page);
  const [first, last] = await Promise.all(
    ["#first-day", "#last-day"].map((id) => page.locator(id).inputValue()),
  );
  assert.equal(Date.parse(last) - Date.parse(first), 29 * 24 * 3600_000, "30 days");
  await show(page);
  const entries = await stored(iban);
  const shown = await rows(page);
  assert.deepEqual(
    shown.map((cells) => cells.slice(1)),
    entries.map((it) => [it.descr, it.from_to, it.changed_by, it.new_balance]),
  );
  for (const [at, { time }] of entries.entries()) {
    // Tokyo has no daylight saving time.
    const tokyo = new Date(Date.parse(time) + 9 * 3600_000).toISOString();
    assert.ok(shown[at][0].includes(tokyo.slice(11, 19)), `${shown[at][0]} is not ${tokyo}`);
  }
  assert.equal(await page.locator("#opening-balance").textContent(), "€0,00");
  assert.equal(await page.locator("#closing-balance").textContent(), "€80,00");

  // A period that begins with the second deposit.
  from = entries[1].time;
  await show(page);
  await until("two entries", async () => (await rows(page)).length === 2);
  assert.equal(await page.locator("#opening-balance").textContent(), "€10,00");
  assert.equal(await page.locator("#closing-balance").textContent(), "€80,00");
  await closePage(page);
});

test("period has the days of the reader's zone", async () => {
  const sent = [];
  const { page } = await openClient({ timezoneId: "Europe/Amsterdam" }, (variables) => {
    sent.push(variables);
  });
  await open(page);
  // The clocks change on the last day, which has 23 hours.
  await page.locator("#first-day").fill("2026-03-28");
  await page.locator("#last-day").fill("2026-03-29");
  await show(page);
  assert.equal(sent[0].from, "2026-03-27T23:00:00.000Z");
  assert.equal(sent[0].until, "2026-03-29T22:00:00.000Z");
  const queries = sent.length;

  await page.locator("#first-day").fill("2026-03-30");
  await page.locator("#show-statement").click();
  const last = page.locator("#last-day");
  assert.equal(await last.evaluate((input) => input.validity.rangeUnderflow), true);
  const tomorrow = new Date(Date.now() + 48 * 3600_000).toISOString().slice(0, 10);
  await last.fill(tomorrow);
  assert.equal(await last.evaluate((input) => input.validity.rangeOverflow), true);
  await page.locator("#show-statement").click();
  assert.equal(sent.length, queries, "nothing is sent");
  await closePage(page);
});

test("empty period has the balance before it", async () => {
  let from;
  const { page, iban } = await openClient({}, (sent) => {
    if (!from) return;
    if (sent.from) sent.from = from;
    else sent.until = from;
  });
  await open(page);
  await show(page);
  await page.getByText("No transactions in this period.").waitFor();
  assert.equal(await page.locator("#closing-balance").textContent(), "€0,00");
  assert.equal(await page.locator("#save-statement").count(), 0);

  await deposit(iban, 4200);
  await newest(page, "€42,00");
  from = new Date(Date.parse((await stored(iban))[0].time) + 1).toISOString();
  await show(page);
  await page.getByText("No transactions in this period.").waitFor();
  for (const id of ["#opening-balance", "#closing-balance"]) {
    assert.equal(await page.locator(id).textContent(), "€42,00");
  }
  await closePage(page);
});

test("file of a statement is harmless CSV", async () => {
  const { page, iban } = await openClient();
  const texts = [
    ["plain", "plain"],
    ['a "quoted" text, with commas', 'a "quoted" text, with commas'],
    ["Müller 漢字 €", "Müller 漢字 €"],
    ["=1+1", "'=1+1"],
    ["-5", "'-5"],
    ["+31 6", "'+31 6"],
    ["@SUM(A1)", "'@SUM(A1)"],
    [" =1", " '=1"],
    ["\uff1d1", "'\uff1d1"],
    ["a;=1;b", "a;'=1;b"],
    ["a,-1", "a,'-1"],
    ["a - b = c", "a - b = c"],
  ];
  for (const [at, [descr]] of texts.entries()) await deposit(iban, 12345 * at + 5, descr);
  await newest(page, "€1.358,00");
  await page.getByLabel("Amount in cents").fill("7");
  await page.getByLabel("To", { exact: true }).fill("=to");
  await page.getByLabel("Description", { exact: true }).fill("out");
  await page.getByRole("button", { name: "Transfer" }).click();
  await newest(page, "-€0,07");
  await open(page);
  const [first, last] = await Promise.all(
    ["#first-day", "#last-day"].map((id) => page.locator(id).inputValue()),
  );
  await show(page);
  const { name, records } = await save(page);
  assert.equal(name, `statement-${iban}-${first}-${last}.csv`);
  const [header, ...lines] = records;
  assert.deepEqual(header, ["time", "number", "description", "counterparty", "amount", "balance"]);
  const entries = await stored(iban);
  assert.deepEqual(
    lines.map(([time, number]) => [time, number]),
    entries.map(({ time, sequence }) => [time, sequence]),
  );
  assert.deepEqual(
    lines.map(([, , descr]) => descr),
    [...texts.map(([, safe]) => safe), "out"],
  );
  assert.deepEqual(lines[0].slice(3), ["cash", "0.05", "0.05"]);
  assert.deepEqual(lines[1].slice(3), ["cash", "123.50", "123.55"]);
  assert.deepEqual(lines.at(-1).slice(3, 5), ["'=to", "-0.07"]);
  await closePage(page);
});

test("long statement has parts, its file is whole", async () => {
  const sizes = [];
  const { page, iban } = await openClient({}, ({ first, last }) => {
    sizes.push(first ?? last);
  });
  const count = 1105;
  await depositMany(iban, count);
  const sequences = Array.from({ length: count }, (_, at) => String(at + 1));
  await open(page);
  await show(page);
  const range = page.locator("#shown-entries");
  assert.equal(await range.textContent(), `Transactions 1 to 250 of ${count}`);
  // These are not part of the statement that was read.
  await depositMany(iban, 5);
  const balance = () => page.locator("#entries tbody tr:last-child td:last-child").textContent();
  for (const end of [500, 750, 1000, 1105]) {
    await page.locator("#later-entries").click();
    const start = end === 1105 ? 1001 : end - 249;
    await page.getByText(`Transactions ${start} to ${end} of ${count}`).waitFor();
    assert.equal(await page.locator("#entries tbody tr").count(), end - start + 1);
  }
  assert.equal(await balance(), await page.locator("#closing-balance").textContent());
  assert.equal(await page.locator("#later-entries").isDisabled(), true);
  assert.equal(
    await page.evaluate(() => document.activeElement.getAttribute("aria-label")),
    "Transactions of the period",
  );

  const { records } = await save(page);
  assert.deepEqual(
    records.slice(1).map(([, number]) => number),
    sequences,
  );
  assert.ok(Math.max(...sizes) === 1000, sizes.join());

  for (const start of [751, 501, 251, 1]) {
    await page.locator("#earlier-entries").click();
    await page.getByText(`Transactions ${start} to ${start + 249} of ${count}`).waitFor();
  }
  assert.equal(await page.locator("#earlier-entries").isDisabled(), true);
  await closePage(page);
});

test("file is refused for too many transactions", async () => {
  const page = await openPage("/client", {}, (page) =>
    page.routeWebSocket(/graphql/, (toPage) => {
      const endpoint = toPage.connectToServer();
      endpoint.onMessage((message) =>
        toPage.send(message.replace(/"sequence":"2"/g, '"sequence":"1000001"')),
      );
    }),
  );
  const iban = await logIn(page);
  await depositMany(iban, 2);
  await open(page);
  await show(page);
  await page.locator("#save-statement").click();
  await page
    .getByText("it would have more than 1000000 transactions. Choose a shorter period.")
    .waitFor();
  await closePage(page);
});

test("reading of a file can be cancelled", async () => {
  let held = false;
  let release;
  const page = await openPage("/client", {}, (page) =>
    page.routeWebSocket(/graphql/, (toPage) => {
      const endpoint = toPage.connectToServer();
      toPage.onMessage((message) => {
        const { payload } = JSON.parse(message);
        if (held && payload?.variables?.last === 1000) release = () => endpoint.send(message);
        else endpoint.send(message);
      });
    }),
  );
  const iban = await logIn(page);
  await depositMany(iban, 2);
  await open(page);
  await show(page);
  let downloads = 0;
  page.on("download", () => downloads++);
  held = true;
  await page.locator("#save-statement").click();
  await page.getByRole("button", { name: "Cancel (0 read)" }).click();
  await page.getByRole("button", { name: "Download CSV" }).waitFor();
  await until("the query is held", () => release);
  held = false;
  release();
  const { records } = await save(page);
  assert.equal(records.length, 3);
  assert.equal(downloads, 1, "only the second one");
  await closePage(page);
});

test("statement shows errors by their code", async () => {
  let code = "BUSY";
  const { page } = await openClient({}, () => code && [{ message: "busy", extensions: { code } }]);
  await open(page);
  await page.locator("#show-statement").click();
  const alert = page.getByRole("alert");
  await alert.getByText("cannot be loaded: busy. Try again after a few seconds.").waitFor();
  code = "TOO_COSTLY";
  await page.locator("#show-statement").click();
  await alert.getByText(/cannot be loaded: busy\.\s*$/).waitFor();
  code = "FORBIDDEN";
  await page.locator("#show-statement").click();
  await alert.getByText("Your login shows your own account only.").waitFor();
  code = "";
  await show(page);
  assert.equal(await page.getByText("cannot be loaded").count(), 0);
  await closePage(page);
});

test("print shows the statement only, black on white", async () => {
  const { page, iban } = await openClient({ colorScheme: "dark" });
  await depositMany(iban, 100);
  await open(page);
  await show(page);
  await page.emulateMedia({ media: "print", colorScheme: "dark" });
  const { outside, colours, header } = await page.evaluate(() => {
    const printed = document.querySelector("#printed");
    const inside = [printed, ...printed.querySelectorAll("*")];
    const all = [...document.body.querySelectorAll("*")];
    const isShown = (it) => it.getClientRects().length > 0;
    const colours = inside.map((it) => {
      const { color, backgroundColor } = getComputedStyle(it);
      return `${color} on ${backgroundColor}`;
    });
    return {
      outside: all
        .filter((it) => isShown(it) && !it.contains(printed) && !printed.contains(it))
        .map((it) => it.outerHTML),
      colours: [...new Set(colours)],
      header: getComputedStyle(printed.querySelector("thead")).display,
    };
  });
  assert.deepEqual(outside, []);
  assert.deepEqual(colours, ["rgb(0, 0, 0) on rgb(255, 255, 255)"]);
  assert.equal(header, "table-header-group", "which browsers repeat on each page");
  for (const text of [iban, "Opening balance", "€0,00", "Closing balance"]) {
    assert.ok(await page.locator("#printed").getByText(text).first().isVisible(), text);
  }
  await page.emulateMedia({ media: "screen" });
  await page.evaluate(() => {
    globalThis.prints = 0;
    globalThis.print = () => globalThis.prints++;
  });
  await page.locator("#print-statement").click();
  assert.equal(await page.evaluate(() => globalThis.prints), 1);
  await closePage(page);
});

test("statement works by keyboard, narrow, light and dark", async () => {
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [360, 1280]) {
      const viewport = { width, height: 800 };
      const { page, iban } = await openClient({ colorScheme, viewport, bypassCSP: true });
      await deposit(iban, 1000, "a description without any space: ".repeat(4).replaceAll(" ", "_"));
      await page.locator("#statement summary").focus();
      await page.keyboard.press("Enter");
      await page.locator("#last-day").focus();
      await page.keyboard.press("Enter");
      await page.locator("#entries tbody tr").waitFor();
      assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= width);
      const region = page.getByRole("region", { name: "Transactions of the period" });
      assert.ok(await region.evaluate((it) => it.scrollWidth <= it.clientWidth), `at ${width}`);
      assert.equal(await region.getByRole("row").count(), 2);
      assert.equal(await region.getByRole("cell").count(), 5);
      await assertAccessible(page, `statement, ${colorScheme}, ${width}`);
      await closePage(page);
    }
  }
});

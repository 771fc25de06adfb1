// screenshots.js FOLDER: takes screenshots of all pages. `make screenshots` runs it.
import { mkdirSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import {
  COMPANY,
  setLoad,
  browser,
  deposit,
  logIn,
  newest,
  openAccounts,
  openPage,
} from "./tests/browser.js";

const folder = process.argv[2];
mkdirSync(folder, { recursive: true });
await openAccounts();

const DESKTOP = { viewport: { width: 1280, height: 800 } };
const PHONE = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };
for (const [name, options] of [
  ["desktop", DESKTOP],
  ["dark", { ...DESKTOP, colorScheme: "dark" }],
  ["phone", PHONE],
]) {
  // Some load, then a second without load, so that the deposits are the newest transactions.
  await setLoad(3, 200);
  await setTimeout(3000);
  await setLoad(0, 1000);
  await setTimeout(1000);
  const page = await openPage("/", options);
  const shot = (what) => page.screenshot({ path: `${folder}/${what}-${name}.png` });
  for (const [cents, descr] of [
    [250000, "salary"],
    [1999, "groceries"],
    [4250, "a present"],
  ])
    await deposit(COMPANY, cents, descr);
  await newest(page, "€42,50");
  await shot("home");
  await setLoad(3, 200);
  await page.goto("/bank-employee");
  await page.locator("#accounts tr:has(time) button").first().click();
  await page.locator("#transactions > div").first().waitFor();
  await shot("bank-employee");
  await page.goto("/client");
  await page.getByLabel("User name").waitFor();
  await logIn(page, `j.jansen-${Date.now() % 10_000}`);
  for (const [id, amount] of [
    ["2000", "€20,00"],
    ["5000", "€50,00"],
  ]) {
    await page.locator(`#deposit-${id}`).click();
    await newest(page, amount);
  }
  await page.getByLabel("Amount in cents").fill("999999");
  await page.getByLabel("To", { exact: true }).fill(COMPANY);
  await page.getByLabel("Description", { exact: true }).fill("too much");
  await page.getByRole("button", { name: "Transfer" }).click();
  await page.getByText("was refused").waitFor();
  await page.mouse.wheel(0, -2000);
  await page.waitForFunction(() => scrollY === 0);
  await shot("client");
  await page.locator("#statement summary").click();
  await page.locator("#show-statement").click();
  await page.locator("#entries").waitFor();
  await page.locator("#statement").scrollIntoViewIfNeeded();
  await shot("statement");
  await page.goto("/background");
  await page.locator("#footprint-talk").waitFor();
  await page.locator("img").evaluateAll((images) => Promise.all(images.map((img) => img.decode())));
  await shot("background");
  await page.context().close();
}
await browser.close();

// Looks at a relay's status page in Chromium, as a person with a keyboard does.
//
//   node browser.js CHROMIUM URL [SCREENSHOT]
//
// Prints one JSON object: what the page is with and without JavaScript, where Tab leads, and what went wrong.
"use strict";
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { chromium } = require("playwright-core");

const [executablePath, url, screenshot] = process.argv.slice(2);
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync"];

// What has the focus, and whether that can be seen.
const focused = () => {
  const element = document.activeElement;
  const style = getComputedStyle(element);
  return { name: element.id || element.getAttribute("href") || element.tagName,
    seen: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0 };
};

async function withPage(options, look) {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), "relayd-chromium-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath, headless: true, args: FLAGS, viewport: { width: 1280, height: 1240 }, ...options,
  });
  try {
    const page = context.pages()[0] || await context.newPage();
    const errors = [];
    page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
    page.on("pageerror", (error) => errors.push(String(error)));
    await page.goto(url);
    return { errors, ...await look(page) };
  } finally {
    await context.close();
    fs.rmSync(profile, { recursive: true, force: true });
  }
}

async function withKeyboard(page) {
  const stops = [];
  for (let i = 0; i < 40; i++) {
    await page.keyboard.press("Tab");
    const stop = await page.evaluate(focused);
    if (stop.name === "BODY" || (stops.length && stop.name === stops[0].name)) break;
    stops.push(stop);
  }
  // Enter on a link of the navigation leads to its section.
  await page.focus('nav a[href="#recent"]');
  await page.keyboard.press("Enter");
  const section = new URL(page.url()).hash;
  // What is refreshed keeps the focus.
  await page.focus("#recent-table");
  const before = await page.locator("#active-table").innerText();
  await page.waitForFunction((text) => document.querySelector("#active-table").innerText !== text, before,
    { timeout: 30000 });
  const kept = await page.evaluate(focused);
  const live = await page.isVisible("#live");
  await page.goto(url);
  if (screenshot) await page.screenshot({ path: screenshot });
  const back = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const captions = await page.locator("caption").allInnerTexts();
  const executed = await page.evaluate(() => Boolean(window.executed));
  return { stops, section, kept: kept.name, live, back, captions, executed };
}

async function withoutScript(page) {
  return { live: await page.isVisible("#live"), state: await page.locator("#state").innerText(),
    rows: await page.locator("#active tbody tr").count(), again: await page.isVisible("text=Refresh") };
}

async function main() {
  const keyboard = await withPage({ colorScheme: "light" }, withKeyboard);
  const dark = await withPage({ colorScheme: "dark" }, async (page) => ({
    back: await page.evaluate(() => getComputedStyle(document.body).backgroundColor) }));
  const narrow = await withPage({ viewport: { width: 360, height: 800 } }, async (page) => ({
    overflow: await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth) }));
  const plain = await withPage({ javaScriptEnabled: false }, withoutScript);
  console.log(JSON.stringify({ keyboard, dark, narrow, plain }));
}

main().catch((error) => { console.error(error); process.exit(1); });

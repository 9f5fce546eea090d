// Takes the picture of the dashboard that README.md shows, from a running demo with some history:
//
//   make demo                                    # in another terminal, for about five minutes
//   TOKEN=… node tests/browser/screenshot.mjs docs/images/dashboard.webp
//
// BASE      the address of the page (http://127.0.0.1:8432/)
// TOKEN     the token that the demo prints
// CHROMIUM  the browser (/usr/bin/chromium)

import { writeFile } from "node:fs/promises";

import { Browser } from "./cdp.mjs";

const { BASE = "http://127.0.0.1:8432/", TOKEN } = process.env;
const [WIDTH, HEIGHT] = [1200, 1010];
// A test limits the size of the file to 60 KiB.
const QUALITY = 60;

const out = process.argv[2];
if (!TOKEN || !out) {
  console.error("usage: TOKEN=… node tests/browser/screenshot.mjs FILE.webp");
  process.exit(2);
}

const has = (selector) => `document.querySelector(${JSON.stringify(selector)}) !== null`;

const browser = await Browser.start();
try {
  const page = await browser.page();
  await page.size(WIDTH, HEIGHT);
  await page.open(BASE);
  await page.until(has("#component-list tbody tr"), "the components");
  await page.click("#sign-in");
  await page.until(has("#sign-in-dialog[open]"), "the sign-in dialog");
  await page.type("#token", TOKEN);
  await page.click("#sign-in-send");
  await page.until(`!${has("#sign-in-dialog[open]")}`, "the end of the sign-in");
  await page.until(`document.querySelectorAll(".stage").length >= 3 &&
    [...document.querySelectorAll(".stage")].every(
      (stage) => stage.querySelector(".data")?.childElementCount > 0,
    )`, "the charts");
  await page.eval(
    "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))",
  );
  const options = { format: "webp", quality: QUALITY };
  const { data } = await page.send("Page.captureScreenshot", options);
  await writeFile(out, Buffer.from(data, "base64"));
} finally {
  await browser.stop();
}
process.exit(0);

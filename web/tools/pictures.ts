/** The pictures of docs/browser.md: the page on a desktop and on a phone, and a recording. `npm run pictures`. */

import { writeFile } from "node:fs/promises";
import type { BrowserContextOptions, Page } from "playwright-core";
import sharp from "sharp";
import { findChromium, launch } from "./chromium.js";
import { ISOLATED, serve } from "./serve.js";

const OUT = "../docs/images";
const SETTLE_MS = 150;
const FRAME_MS = 700;
const MAX_BYTES = 1_000_000;

const chromium = findChromium();
if (!chromium) throw new Error("no Chromium here");
const [browser, served] = await Promise.all([launch(chromium), serve("dist/site", ISOLATED)]);

async function open(options: BrowserContextOptions): Promise<Page> {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.setDefaultTimeout(180_000);
  await page.goto(served.url);
  await page.locator("#status", { hasText: "Ready" }).waitFor();
  return page;
}

async function segmented(page: Page): Promise<void> {
  await page.locator("#status", { hasText: /classes found/ }).waitFor();
  // How long it took depends on the machine, and is no part of the picture.
  await page.locator("#status").evaluate((status) => (status.textContent = status.textContent?.replace(/ in .*/, ".") ?? ""));
  await page.waitForTimeout(SETTLE_MS); // the overlay fades in
}

async function still(name: string, options: BrowserContextOptions): Promise<void> {
  const page = await open(options);
  await page.getByRole("button", { name: "Use the sample" }).click();
  await segmented(page);
  const picture = await page.screenshot({ fullPage: true });
  await sharp(picture).jpeg({ quality: 85, mozjpeg: true }).toFile(`${OUT}/${name}.jpg`);
  await page.context().close();
}

/** Choose the sample, then type other words, a line at a time. */
async function recording(): Promise<void> {
  const page = await open({ viewport: { width: 900, height: 640 } });
  const frames: Buffer[] = [];
  const shoot = async (): Promise<void> => void frames.push(await page.screenshot());
  await shoot();
  await page.getByRole("button", { name: "Use the sample" }).click();
  await segmented(page);
  await shoot();
  for (const words of ["grass, lawn", "grass, lawn\ngiraffe", "grass, lawn\ngiraffe\ntartan, plaid blanket"]) {
    await page.locator("#classes").fill(words);
    await shoot();
    await page.getByRole("button", { name: "Segment" }).click();
    await segmented(page);
    await shoot();
  }
  await page.getByRole("button", { name: "None" }).click();
  await page.locator("#legend input").first().check();
  await page.waitForTimeout(SETTLE_MS);
  await shoot();
  const delay = frames.map((_, index) => (index === frames.length - 1 ? 3 : 2) * FRAME_MS);
  const film = await sharp(frames, { join: { animated: true } }).webp({ quality: 60, delay, loop: 0, effort: 6 }).toBuffer();
  if (film.length > MAX_BYTES) throw new Error(`the recording has ${film.length} bytes, more than ${MAX_BYTES}`);
  await writeFile(`${OUT}/web-recording.webp`, film);
  await page.context().close();
}

await still("web-page", { viewport: { width: 1100, height: 760 } });
await still("web-phone", { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
await recording();
await browser.close();
await served.close();

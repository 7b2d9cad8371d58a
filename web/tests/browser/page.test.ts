/** The page in a real browser: Chromium of the system, without a window. */

import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test, type TestContext } from "node:test";
import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import sharp from "sharp";
import { colourOf } from "../../src/overlay.js";
import { crc32 } from "../../src/png.js";
import { findChromium, launch } from "../../tools/chromium.js";
import { ISOLATED, serve, type Served } from "../../tools/serve.js";
import { agreement, bytesOf, fixtures } from "../fixtures.js";

const CHROMIUM = findChromium();
const SITE = "dist/site";
const skip = CHROMIUM ? false : "no Chromium here (apt-get install chromium)";

let browser: Browser;
let isolated: Served;
let plain: Served;
const folder = mkdtempSync(join(tmpdir(), "scclip-web-"));

before(async () => {
  if (!CHROMIUM) return;
  browser = await launch(CHROMIUM);
  [isolated, plain] = await Promise.all([serve(SITE, ISOLATED), serve(SITE)]);
});

after(async () => {
  await browser?.close();
  await Promise.all([isolated?.close(), plain?.close()]);
  rmSync(folder, { recursive: true, force: true });
});

/** Open the page; no other address is asked, and nothing goes wrong in the console. */
async function open(t: TestContext, url: string, options: BrowserContextOptions = {}, allowed = /^$/): Promise<Page> {
  const context = await browser.newContext({ acceptDownloads: true, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(120_000);
  const complaints: string[] = [];
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  context.on("request", (request) => {
    if (!/^(blob:)?http:\/\/127\.0\.0\.1:/.test(request.url())) complaints.push(request.url());
  });
  t.after(async () => {
    await context.close();
    assert.deepEqual(complaints.filter((text) => !allowed.test(text)), []);
  });
  await page.goto(url);
  return page;
}

async function ready(page: Page): Promise<void> {
  await page.locator("#status", { hasText: "Ready" }).waitFor();
}

async function segmented(page: Page): Promise<void> {
  await page.locator("#status", { hasText: /classes found/ }).waitFor();
}

/** How many pixels of the downloaded label map have the colour of a scene's label in Python. */
async function equalTo(page: Page, number: number): Promise<number> {
  const waiting = page.waitForEvent("download");
  await page.getByRole("button", { name: "Download labels" }).click();
  const download = await waiting;
  assert.match(download.suggestedFilename(), /\.labels\.png$/);
  const { data } = await sharp(await download.path()).raw().toBuffer({ resolveWithObject: true });
  const { classes, labels } = fixtures.scenes[number];
  const background = classes ? 4 : null; // where the fixture names its classes, the fifth is called background
  const wanted = Array.from(bytesOf(labels), (label) => colourOf(label, { background, unlabelled: 255 })).flat();
  return agreement(data, wanted);
}

const sampleAt = fixtures.scenes.findIndex(({ classes, whole_image: whole, stride }) => !classes && !whole && !stride);
const ownAt = fixtures.scenes.findIndex(({ classes }) => classes);

test("with threads the sample has Python's labels, and so has another vocabulary", { skip }, async (t) => {
  const page = await open(t, isolated.url, { serviceWorkers: "block" });
  assert.equal(await page.evaluate("crossOriginIsolated"), true);
  await ready(page);
  if ((await page.evaluate<number>("navigator.hardwareConcurrency")) > 1) {
    assert.match((await page.locator("#status").textContent()) ?? "", /\d threads/);
  }
  assert.match(await page.locator("#classes").inputValue(), /^grass\nsand\n/);
  await page.getByRole("button", { name: "Use the sample" }).click();
  await segmented(page);
  assert.ok((await equalTo(page, sampleAt)) >= 0.999);
  await page.locator("#classes").fill((fixtures.scenes[ownAt].classes ?? "").replaceAll("; ", "\n"));
  await page.getByRole("button", { name: "Segment" }).click();
  await segmented(page);
  assert.ok((await equalTo(page, ownAt)) >= 0.999);
});

test("on a phone, without isolation, one thread gives the same labels and nothing is wider than the screen", { skip }, async (t) => {
  const viewport = { width: 360, height: 740 };
  const page = await open(t, plain.url, { serviceWorkers: "block", viewport, isMobile: true, hasTouch: true });
  assert.equal(await page.evaluate("crossOriginIsolated"), false);
  await ready(page);
  assert.match((await page.locator("#status").textContent()) ?? "", /one thread/);
  await page.getByRole("button", { name: "Use the sample" }).tap();
  await segmented(page);
  assert.ok((await page.evaluate<number>("document.documentElement.scrollWidth")) <= viewport.width);
  assert.ok((await equalTo(page, sampleAt)) >= 0.999);
});

test("after one visit the page works offline, under any path, with threads on a host that sends no headers", { skip }, async (t) => {
  const own = await serve("dist"); // the page lies under a sub-path of it
  const page = await open(t, `${own.url}site/`, {}, /ERR_CONNECTION_REFUSED/); // the browser looks for a newer service worker
  await page.locator("#offline", { hasText: "without a connection" }).waitFor();
  assert.equal(await page.evaluate("crossOriginIsolated"), true);
  await ready(page);
  await own.close();
  await page.reload();
  await ready(page);
  await page.getByRole("button", { name: "Use the sample" }).click();
  await segmented(page);
  assert.ok((await equalTo(page, sampleAt)) >= 0.999);
});

test("the keyboard alone is enough, and int8 can be chosen", { skip }, async (t) => {
  const page = await open(t, isolated.url, { serviceWorkers: "block" });
  await ready(page);
  const loaded = page.waitForRequest(/encoder\.int8\.onnx\.data/);
  await page.locator("#precision").selectOption("int8");
  await loaded;
  await page.locator("h1").click(); // Tab goes on from the page's beginning
  await page.keyboard.press("Tab"); // the file
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter"); // the sample
  await segmented(page);
  assert.ok((await equalTo(page, sampleAt)) >= 0.9);
  await page.locator("#stage").focus();
  await page.keyboard.press("ArrowRight");
  assert.match((await page.locator("#readout").textContent()) ?? "", /^[a-z ]+, \d+ % sure$/);
  assert.ok(await page.locator("#point").isVisible());
  const alpha = (): Promise<number> =>
    page.locator("#overlay").evaluate((canvas: HTMLCanvasElement) => canvas.getContext("2d")!.getImageData(5, 5, 1, 1).data[3]);
  assert.equal(await alpha(), 255);
  await page.getByRole("button", { name: "None" }).press("Enter");
  assert.equal(await alpha(), 0);
});

test("what is wrong is said in one line", { skip }, async (t) => {
  const site = join(folder, "site");
  cpSync(SITE, site, { recursive: true });
  const data = readFileSync(join(site, "demo.scclip/encoder.fp32.onnx.data"));
  data[1000] ^= 1;
  writeFileSync(join(site, "demo.scclip/encoder.fp32.onnx.data"), data);
  const served = await serve(site, ISOLATED);
  t.after(() => served.close());
  const page = await open(t, served.url, { serviceWorkers: "block" }, /404/);
  const status = page.locator("#status.error");
  await status.filter({ hasText: "SHA-256 of encoder.fp32.onnx.data is" }).waitFor();
  for (const [change, words] of [
    [(manifest: any) => (manifest.format_version = 3), "bundle.json has format version 3; this runtime reads 1 and 2"],
    [(manifest: any) => (manifest.files["encoder.fp32.onnx"].bytes = 1), "truncated or changed"],
  ] as const) {
    const manifest = JSON.parse(readFileSync(join(SITE, "demo.scclip/bundle.json"), "utf8"));
    change(manifest);
    writeFileSync(join(site, "demo.scclip/bundle.json"), JSON.stringify(manifest));
    await page.goto(served.url);
    await status.filter({ hasText: words }).waitFor();
  }
  await page.goto(`${served.url}?bundle=nowhere/`);
  await status.filter({ hasText: "the server answered 404" }).waitFor();
  await page.locator("#file").setInputFiles({ name: "x.png", mimeType: "image/png", buffer: Buffer.from("no picture") });
  await status.filter({ hasText: "no picture that the browser can show" }).waitFor();
  await page.goto(`${isolated.url}?bundle=demo.scclip`);
  await ready(page);
  await page.getByRole("button", { name: "Use the sample" }).click();
  await segmented(page);
  await page.locator("#classes").fill("cat\ncat, dog");
  await page.getByRole("button", { name: "Segment" }).click();
  await status.filter({ hasText: "'cat' is in two classes: class 1 and class 2" }).waitFor();
});

const DATA = "encoder.fp32.onnx.data";

test("a connection that breaks half-way is told, and the button tries again", { skip }, async (t) => {
  let breaks = true;
  const served = await serve(SITE, ISOLATED, (name) => breaks && name.endsWith(DATA));
  t.after(() => served.close());
  const page = await open(t, served.url, {}, /ERR_|Failed to load/);
  await page.locator("#status.error", { hasText: `can't get ${served.url}demo.scclip/${DATA}` }).waitFor();
  breaks = false;
  await page.getByRole("button", { name: "Segment" }).click();
  await ready(page);
  await page.getByRole("button", { name: "Use the sample" }).click();
  await segmented(page);
  assert.ok((await equalTo(page, sampleAt)) >= 0.999);
});

test("a worker that fails is told, and the button starts another one", { skip }, async (t) => {
  let missing = true;
  const served = await serve(SITE, ISOLATED, (name) => missing && name.endsWith("worker.js"));
  t.after(() => served.close());
  const page = await open(t, served.url, { serviceWorkers: "block" }, /ERR_|Failed to load/);
  await page.locator("#status.error", { hasText: "The worker failed" }).waitFor();
  missing = false;
  await page.getByRole("button", { name: "Segment" }).click();
  await ready(page);
});

test("a damaged copy among the files that are kept is replaced", { skip }, async (t) => {
  const served = await serve(SITE, ISOLATED);
  t.after(() => served.close());
  const page = await open(t, served.url);
  await ready(page);
  const kept = (script: string): Promise<number> => page.evaluate<number>(`(async () => {
    const cache = await caches.open("scclip-files");
    for (;; await new Promise((settle) => setTimeout(settle, 100))) {
      const request = (await cache.keys()).find(({ url }) => url.includes("${DATA}"));
      if (!request) continue;
      ${script}
    }
  })()`);
  const size = await kept("return (await (await cache.match(request)).arrayBuffer()).byteLength");
  await kept("await cache.put(request, new Response('half')); return 0");
  await page.reload();
  await ready(page);
  assert.equal(await kept(`const { byteLength } = await (await cache.match(request)).arrayBuffer(); if (byteLength > 4) return byteLength`), size);
});

test("where there is no room to keep files the page works, and says that it needs a connection", { skip }, async (t) => {
  const served = await serve(SITE, ISOLATED);
  t.after(() => served.close());
  const page = await open(t, "about:blank");
  const devtools = await page.context().newCDPSession(page);
  const shell = 20_000_000; // the page's own files fit, the model does not
  await devtools.send("Storage.overrideQuotaForOrigin", { origin: new URL(served.url).origin, quotaSize: shell });
  await page.goto(served.url);
  await ready(page);
  await page.locator("#offline", { hasText: "There is no room to keep all files here" }).waitFor();
  await page.getByRole("button", { name: "Use the sample" }).click();
  await segmented(page);
});

test("two tabs at once have both the model", { skip }, async (t) => {
  const served = await serve(SITE);
  t.after(() => served.close());
  const first = await open(t, "about:blank");
  const second = await first.context().newPage();
  second.setDefaultTimeout(120_000);
  await Promise.all([first, second].map(async (page) => {
    await page.goto(served.url);
    await ready(page);
    await page.getByRole("button", { name: "Use the sample" }).click();
    await segmented(page);
    assert.ok((await equalTo(page, sampleAt)) >= 0.999);
  }));
});

test("a list of one class is warned of, and one of thousands can be given up", { skip }, async (t) => {
  const page = await open(t, isolated.url, { serviceWorkers: "block" });
  await ready(page);
  await page.getByRole("button", { name: "Use the sample" }).click();
  await segmented(page);
  await page.locator("#classes").fill("zebra");
  await page.getByRole("button", { name: "Segment" }).click();
  await page.locator("#status", { hasText: /^1 class found in \d+ ms\. Warning: one class, 'zebra', and no background/ }).waitFor();
  const many = Array.from({ length: 5000 }, (_, index) => `thing ${index}`).join("\n");
  await page.locator("#classes").evaluate((field: HTMLTextAreaElement, text) => (field.value = text), many); // typing takes minutes
  await page.getByRole("button", { name: "Segment" }).click();
  await page.locator("#progress-label", { hasText: /^Reading the class names: \d+ of 5000$/ }).waitFor();
  await page.locator("#classes").fill("zebra\nsand");
  await page.getByRole("button", { name: "Segment" }).click();
  await page.locator("#status", { hasText: "2 classes found" }).waitFor();
});

test("pictures that can't be shown are told by what is wrong with them", { skip }, async (t) => {
  const page = await open(t, isolated.url, { serviceWorkers: "block" });
  await ready(page);
  const files: readonly (readonly [string, string, Buffer, string])[] = [
    ["empty.png", "image/png", Buffer.alloc(0), "This file is empty."],
    ["photo.heic", "image/heic", Buffer.from("0000001c6674797068656963", "hex"), "can't show HEIC pictures"],
    ["header.png", "image/png", await headerOf(10_000, 10_000), "damaged or too large"],
  ];
  for (const [name, mimeType, buffer, words] of files) {
    await page.locator("#file").setInputFiles({ name, mimeType, buffer });
    await page.locator("#status.error", { hasText: words }).waitFor();
  }
});

/** A PNG that claims to be large, and ends behind its header. */
async function headerOf(width: number, height: number): Promise<Buffer> {
  const small = await sharp({ create: { width: 1, height: 1, channels: 3, background: "#000" } }).png().toBuffer();
  small.writeUInt32BE(width, 16);
  small.writeUInt32BE(height, 20);
  small.writeUInt32BE(crc32(small.subarray(12, 29)), 29);
  return small;
}

test("names and roles are there for those who don't see the page", { skip }, async (t) => {
  const page = await open(t, isolated.url, { serviceWorkers: "block" });
  await ready(page);
  await page.getByRole("button", { name: "Use the sample" }).click();
  await segmented(page);
  const tree = await page.locator("body").ariaSnapshot();
  for (const line of [
    'heading "Segment a picture by naming classes" [level=1]', 'button "Choose a picture"', 'button "Use the sample"',
    'textbox "Classes, one a line; synonyms after commas"', 'combobox "Precision"', 'button "Segment"', 'region "Result"',
    'application "Segmented picture. Arrow keys move the point that is read out."', 'slider "Colour"', 'group "Classes shown"',
    'button "Download labels (PNG)"',
  ]) assert.ok(tree.includes(line), `${line} in:\n${tree}`);
  assert.match(tree, /checkbox "[a-z ]+ \d+\.\d %" \[checked\]/);
});

/** The page in Firefox and in WebKit, as the system has them: what Chromium's tests show in more ways. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { colourOf } from "../../src/overlay.js";
import { ISOLATED, serve } from "../../tools/serve.js";
import { OTHERS, type BrowserWindow } from "../../tools/webdriver.js";
import { agreement, bytesOf, fixtures } from "../fixtures.js";

const scene = fixtures.scenes[0];

/** Wait until the page says something of a kind; it may load itself again meanwhile. */
async function said(browser: BrowserWindow, what: RegExp): Promise<void> {
  let status = "";
  for (const end = Date.now() + 150_000; !what.test(status); await new Promise((settle) => setTimeout(settle, 100))) {
    assert.ok(Date.now() < end, status);
    status = await browser.run<string>("return document.getElementById('status').textContent").catch(() => "");
  }
}

for (const [name, open] of Object.entries(OTHERS)) {
  const skip = open ? false : `no ${name} here (apt-get install ${name === "Firefox" ? "firefox-esr" : "webkit2gtk-driver xvfb"})`;

  test(`in ${name} the sample has Python's labels, with threads and without, and again offline`, { skip }, async (t) => {
    const browser = await open!();
    t.after(() => browser.close());
    const labels = async (): Promise<Uint8Array> => {
      await said(browser, /Ready/);
      await browser.run("document.getElementById('sample').click()");
      await said(browser, /classes found/);
      return bytesOf(await browser.run(`
        const overlay = document.getElementById("overlay");
        const { data } = overlay.getContext("2d").getImageData(0, 0, overlay.width, overlay.height);
        return btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(""));`));
    };
    const wanted = Array.from(bytesOf(scene.labels), (label) => [...colourOf(label, { background: null, unlabelled: 255 }), 255]).flat();
    const [isolated, plain] = await Promise.all([serve("dist/site", ISOLATED), serve("dist/site")]);
    t.after(() => isolated.close());
    await browser.open(isolated.url);
    assert.ok(agreement(await labels(), wanted) >= 0.999);
    assert.equal(await browser.run("return crossOriginIsolated"), true);
    await browser.open(plain.url);
    assert.ok(agreement(await labels(), wanted) >= 0.999);
    assert.match(await browser.run("return document.getElementById('offline').textContent"), /without a connection/);
    await plain.close();
    await browser.open(plain.url);
    assert.ok(agreement(await labels(), wanted) >= 0.999);
  });
}

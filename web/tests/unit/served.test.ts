import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

test("the page that Python serves is built from these sources", () => {
  for (const file of ["page.js", "index.html"]) {
    const kept = readFileSync(`../scclip_rt/serving/page/${file}`, "utf8");
    assert.equal(kept, readFileSync(`build/served/${file}`, "utf8"), `${file}: run \`npm run served\``);
  }
});

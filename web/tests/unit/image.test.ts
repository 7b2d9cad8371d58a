import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { ScclipError } from "../../src/errors.js";
import { resizeShape, tilingOf, wholeImageShape, windowStarts, type TilingOptions } from "../../src/geometry.js";
import { cutWindows, resize } from "../../src/resize.js";
import { fixtures, noise } from "../fixtures.js";

const OPTIONS: TilingOptions = {
  grid: { kind: "window" }, patch: 16, window: 224, stride: 112, shortSide: 336, longSide: 2048,
  maxPixels: 1e8, maxWindows: 1024, padding: "none", wholeImage: "nearest",
};

test("resized bytes are those of OpenCV", () => {
  for (const [seed, { source, target, sha256 }] of fixtures.resize.entries()) {
    const [height, width] = source;
    const resized = resize({ data: noise(seed, height * width * 3), height, width }, target);
    const found = createHash("sha256").update(resized.data).digest("hex");
    assert.equal(found, sha256, `${source} to ${target}`);
  }
});

test("the alpha of RGBA is not looked at", () => {
  const rgb = noise(1, 20 * 30 * 3);
  const rgba = new Uint8ClampedArray(20 * 30 * 4);
  for (let at = 0; at < 600; at++) rgba.set([...rgb.subarray(at * 3, at * 3 + 3), at % 256], at * 4);
  for (const size of [[20, 30], [11, 17]] as const) {
    const a = resize({ data: rgb, width: 30, height: 20 }, size);
    const b = resize({ data: rgba, width: 30, height: 20 }, size);
    assert.deepEqual(a.data, b.data);
  }
});

test("sizes are those of Python", () => {
  for (const { size, windows, whole } of fixtures.shapes) {
    assert.deepEqual(resizeShape(size, 336, 2048, 224), windows);
    assert.deepEqual(wholeImageShape(size, 16, 336, 2048), whole);
  }
});

test("the last window ends at the border", () => {
  assert.deepEqual(windowStarts(448, 224, 112), [0, 112, 224]);
  assert.deepEqual(windowStarts(450, 224, 112), [0, 112, 224, 226]);
  assert.deepEqual(windowStarts(224, 224, 112), [0]);
});

test("windows are cut row by row", () => {
  const image = { data: noise(2, 6 * 5 * 3), width: 5, height: 6 };
  const cut = cutWindows(image, [[1, 2], [3, 0]], [2, 3]);
  const pixel = (y: number, x: number): Uint8Array => image.data.subarray((y * 5 + x) * 3, (y * 5 + x) * 3 + 3);
  assert.deepEqual(cut.subarray(0, 3), pixel(1, 2));
  assert.deepEqual(cut.subarray(9, 12), pixel(2, 2));
  assert.deepEqual(cut.subarray(18, 21), pixel(3, 0));
  assert.equal(cut.length, 2 * 2 * 3 * 3);
});

test("images that are too large, too long or empty are refused by name", () => {
  const refused = (size: [number, number], field: string): void =>
    assert.throws(() => tilingOf(size, OPTIONS), (error: ScclipError) => error.code === "ImageError" && error.field === field);
  refused([20000, 20000], "maxPixels");
  refused([4, 400000], "maxWindows");
  refused([0, 10], "image");
  const whole = { ...OPTIONS, grid: { kind: "dynamic" as const }, shortSide: 4000, longSide: 9000 };
  assert.throws(() => tilingOf([4000, 4000], whole), /encoded whole/);
});

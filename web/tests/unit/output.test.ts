import assert from "node:assert/strict";
import { test } from "node:test";
import sharp from "sharp";
import { colourOf, paint } from "../../src/overlay.js";
import { labelsPng, rgbPng } from "../../src/png.js";
import { sharesOf, type Segmentation } from "../../src/segmenter.js";
import { fixtures, noise } from "../fixtures.js";

function result(labels: Uint8Array | Uint16Array, width: number): Segmentation {
  return {
    labels, width, height: labels.length / width, confidence: null, unlabelled: labels instanceof Uint8Array ? 255 : 65535,
    classes: ["a", "b", "c", "d"], background: 3,
  };
}

test("colours are those of Python", () => {
  const places = { background: 3, unlabelled: 65535 };
  fixtures.colours.forEach((colour, at) => assert.deepEqual(colourOf(at < 300 ? at : 65535, places), colour));
});

test("a label map is a PNG whose pixels are the labels", async () => {
  const labels = noise(5, 50 * 40).map((value) => (value % 5 === 4 ? 255 : value % 5));
  const png = sharp(await labelsPng(result(labels, 50)));
  const { data, info } = await png.raw().toBuffer({ resolveWithObject: true });
  assert.deepEqual([info.width, info.height, info.channels], [50, 40, 3]);
  for (const at of [0, 7, 1999]) {
    assert.deepEqual([...data.subarray(at * 3, at * 3 + 3)], [...colourOf(labels[at], result(labels, 50))]);
  }
});

test("labels above 254 classes take 16 bits", async () => {
  const labels = Uint16Array.from({ length: 48 }, (_, at) => at * 1000);
  const { data } = await sharp(await labelsPng(result(labels, 8))).toColourspace("grey16").raw({ depth: "ushort" }).toBuffer({ resolveWithObject: true });
  assert.deepEqual(new Uint16Array(Uint8Array.from(data).buffer), labels);
});

test("a painted picture mixes colours and draws borders", async () => {
  const labels = new Uint8Array(64 * 64).fill(1);
  labels.fill(2, 32 * 64);
  const image = { data: new Uint8Array(64 * 64 * 4).fill(100), width: 64, height: 64 };
  const painted = paint(image, result(labels, 64), 0.5);
  assert.deepEqual([...painted.data.subarray(0, 3)], [165, 130, 50]);
  const border = 32 * 64 * 3;
  assert.deepEqual([...painted.data.subarray(border, border + 3)], [186, 213, 206]);
  const { data } = await sharp(await rgbPng(painted)).raw().toBuffer({ resolveWithObject: true });
  assert.deepEqual(Uint8Array.from(data), painted.data);
});

test("shares are largest first and name what has no class", () => {
  const shares = sharesOf(result(Uint8Array.of(1, 1, 1, 255, 0, 0), 6));
  assert.deepEqual(shares.map(({ name, share }) => [name, share]), [["b", 0.5], ["a", 2 / 6], ["(unlabelled)", 1 / 6]]);
});

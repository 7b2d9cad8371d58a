import assert from "node:assert/strict";
import { test } from "node:test";
import { decode, type Encoded } from "../../src/decode.js";
import { windowStarts, type Tiling } from "../../src/geometry.js";
import { interpolationAxis } from "../../src/interpolation.js";
import { agreement, bytesOf, fixtures, floatsOf, vectors } from "../fixtures.js";

const WIDTH = 24;
const TILING: Tiling = {
  size: [40, 56], rows: windowStarts(40, 32, 16), columns: windowStarts(56, 32, 16), window: [32, 32], input: [32, 32],
  padding: [[0, 0], [0, 0]],
};
const windows = TILING.rows.length * TILING.columns.length;
const ENCODED: Encoded = {
  kind: "features", values: vectors(1, windows * 16, WIDTH), width: WIDTH, grid: [4, 4], tiling: TILING, shape: [47, 83],
  resized: { data: new Uint8Array(40 * 56 * 3), width: 56, height: 40 }, classFeatures: null,
};

test("an axis has the weights of Python", () => {
  for (const { starts, window, cells, resized, length, order, matrix } of fixtures.axes) {
    const axis = interpolationAxis(starts, window, cells, resized, length);
    assert.deepEqual(Array.from(axis.rank), order.map((_, cell) => order.indexOf(cell)));
    const dense = new Float32Array(length * order.length);
    for (let pixel = 0; pixel < length; pixel++) {
      for (let i = axis.starts[pixel]; i < axis.starts[pixel + 1]; i++) {
        dense[pixel * order.length + axis.cells[i]] = axis.weights[i];
      }
    }
    const wanted = floatsOf(matrix);
    const worst = dense.reduce((most, value, at) => Math.max(most, Math.abs(value - wanted[at])), 0);
    assert.ok(worst < 1e-6, `${worst}`);
  }
});

for (const [number, wanted] of fixtures.decode.entries()) {
  const rules = ["prob_threshold", "area_threshold", "class_threshold", "background", "same_text"].filter((name) => name in wanted);
  test(`labels and confidence are those of Python: ${wanted.queries} queries, ${rules.join(", ") || "no rule"} (${number})`, () => {
    const text = vectors(wanted.seed, wanted.queries, WIDTH);
    if (wanted.same_text) text.copyWithin(WIDTH, 0, WIDTH);
    const settings = {
      queryClass: wanted.classes, numClasses: Math.max(...wanted.classes) + 1, logitScale: wanted.logit_scale,
      probThreshold: wanted.prob_threshold ?? 0, areaThreshold: wanted.area_threshold ?? 0,
      classThreshold: wanted.class_threshold ?? 0, background: wanted.background ?? null,
    };
    const found = decode(ENCODED, text, { ...settings, confidence: true });
    const bytes = bytesOf(wanted.labels);
    const labels = wanted.bits === 8 ? bytes : new Uint16Array(bytes.buffer);
    assert.equal(found.labels.BYTES_PER_ELEMENT * 8, wanted.bits);
    assert.equal(found.unlabelled, wanted.unlabelled);
    assert.ok(agreement(found.labels, labels) > 0.999, `${agreement(found.labels, labels)}`);
    const confidence = floatsOf(wanted.confidence);
    let at = 0;
    for (let y = 0; y < 47; y += 7) {
      for (let x = 0; x < 83; x += 7, at++) {
        assert.ok(Math.abs((found.confidence?.[y * 83 + x] ?? NaN) - confidence[at]) < 1e-4, `${y}, ${x}`);
      }
    }
    const unsure = decode(ENCODED, text, { ...settings, confidence: false });
    assert.equal(unsure.confidence, null);
    assert.deepEqual(unsure.labels, found.labels);
  });
}

test("features that are not finite give no labels", () => {
  const values = ENCODED.values.slice();
  values[7] = NaN;
  const settings = {
    queryClass: [0], numClasses: 1, logitScale: 1, probThreshold: 0, areaThreshold: 0, classThreshold: 0,
    background: null, confidence: false,
  };
  assert.throws(() => decode({ ...ENCODED, values }, vectors(3, 1, WIDTH), settings), /NaN or infinity/);
});

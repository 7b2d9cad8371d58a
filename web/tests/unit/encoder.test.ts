import assert from "node:assert/strict";
import { test } from "node:test";
import type { Graph } from "../../src/bundle.js";
import { answerEncoding, loadEncoder, type EncoderWorker, type Order, type Reply, type Windows } from "../../src/encoder.js";
import { loadImage, openSegmenter } from "../../src/node.js";
import type { OrtModule } from "../../src/runtime.js";
import { DEMO, SCENE } from "../fixtures.js";

const graph: Graph = { file: "encoder.onnx", model: new Uint8Array(8), weights: new Map() };
const spec = { file: "encoder.onnx", inputs: [], outputs: [] };
const windows = (): Windows => ({ pixels: new Uint8Array(3), shape: [1, 1, 1], text: new Float32Array(1), queries: 1, output: "features" });

/** Workers in this thread, which answer when `answer` lets them; what becomes of them. */
function workers(count: number, ort: () => Promise<OrtModule>) {
  const found = { started: 0, ended: 0, failed: [] as ((reason: unknown) => void)[] };
  const start = (): EncoderWorker => {
    let heard: (reply: Reply) => void = () => {};
    const answer = answerEncoding(ort, (reply) => heard(reply));
    found.started += 1;
    return {
      post: (order: Order) => void answer(order),
      listen: (hear, failed) => {
        heard = hear;
        found.failed.push(failed);
      },
      end: () => void (found.ended += 1),
    };
  };
  return { found, workers: { count, start } };
}

/** A runtime whose sessions run when they are told to. */
function slow() {
  const runs: (() => void)[] = [];
  const run = () => new Promise((settle) => runs.push(() => settle({ features: { data: Float32Array.of(runs.length) } })));
  const state = { runs, released: 0 };
  const release = async (): Promise<void> => void (state.released += 1);
  const ort = {
    InferenceSession: { create: async () => ({ inputNames: [], outputNames: [], run, release }) },
    Tensor: class {},
  } as unknown as OrtModule;
  return Object.assign(state, { ort });
}

const soon = (): Promise<void> => new Promise((settle) => setImmediate(settle));

test("workers encode at the same time, and who comes later waits for a free one", async () => {
  const { runs, ort } = slow();
  const { found, workers: two } = workers(2, async () => ort);
  const encoder = await loadEncoder(graph, spec, { ort, provider: "cpu" }, two);
  assert.equal(encoder.parts, 2);
  const three = Promise.all([1, 2, 3].map(() => encoder.encode(windows())));
  await soon();
  assert.equal(runs.length, 2);
  runs[0]();
  await soon();
  assert.equal(runs.length, 3);
  runs[1]();
  runs[2]();
  assert.equal((await three).length, 3);
  await encoder.release();
  assert.deepEqual([found.started, found.ended], [2, 2]);
});

const CLOSED = { code: "BackendError", message: /closed/ };

test("closing refuses what workers encode, what waits for one, and what comes later", async () => {
  const { ort } = slow();
  const { found, workers: two } = workers(2, async () => ort);
  const encoder = await loadEncoder(graph, spec, { ort, provider: "cpu" }, two);
  const refused = [1, 2, 3].map(() => assert.rejects(encoder.encode(windows()), CLOSED));
  await soon();
  await encoder.release();
  await Promise.all(refused);
  await assert.rejects(encoder.encode(windows()), CLOSED);
  assert.equal(found.ended, 2);
});

test("a session is released once nothing runs in it, and refuses what ran", async () => {
  const state = slow();
  const encoder = await loadEncoder(graph, spec, { ort: state.ort, provider: "cpu" }, undefined);
  const refused = assert.rejects(encoder.encode(windows()), CLOSED);
  const released = encoder.release();
  await soon();
  assert.equal(state.released, 0);
  state.runs[0]();
  await Promise.all([refused, released]);
  assert.equal(state.released, 1);
  await assert.rejects(encoder.encode(windows()), CLOSED);
});

test("a worker without a graph says so", async () => {
  const replies: Reply[] = [];
  const answer = answerEncoding(async () => slow().ort, (reply) => void replies.push(reply));
  await answer({ kind: "encode", windows: windows() });
  assert.deepEqual(replies.map(({ kind }) => kind), ["failed"]);
});

test("large weights are held once", async () => {
  const { ort } = slow();
  const { found, workers: two } = workers(2, async () => ort);
  const large = { ...graph, weights: new Map([["w", { length: 200 << 20 } as Uint8Array]]) };
  assert.equal((await loadEncoder(large, spec, { ort, provider: "cpu" }, two)).parts, 1);
  assert.equal(found.started, 0);
});

test("a worker that can't load, or ends, is an error in one line", async () => {
  const { ort } = slow();
  const without = workers(2, async () => Promise.reject(new Error("no\nruntime")));
  await assert.rejects(loadEncoder(graph, spec, { ort, provider: "cpu" }, without.workers), { code: "BackendError", message: "no runtime" });
  assert.equal(without.found.ended, 2);
  const { found, workers: two } = workers(2, async () => ort);
  const encoder = await loadEncoder(graph, spec, { ort, provider: "cpu" }, two);
  const asked = Promise.all([encoder.encode(windows()), encoder.encode(windows())]);
  for (const fail of found.failed) fail(new Error("out of memory"));
  await assert.rejects(asked, { code: "BackendError", message: /out of memory/ });
  await assert.rejects(encoder.encode(windows()), { code: "BackendError" });
});

test("a worker that has failed gets nothing more to do while another works", async () => {
  const { runs, ort } = slow();
  const { found, workers: two } = workers(2, async () => ort);
  const encoder = await loadEncoder(graph, spec, { ort, provider: "cpu" }, two);
  const [lost, kept, later] = [1, 2, 3].map(() => encoder.encode(windows()));
  const refused = assert.rejects(lost, { code: "BackendError", message: /gone/ });
  await soon();
  found.failed[1](new Error("gone"));
  await refused;
  await soon();
  assert.equal(runs.length, 2);
  runs[1]();
  await kept;
  await soon();
  runs[2]();
  await later;
  const both = Promise.all([encoder.encode(windows()), encoder.encode(windows())]);
  for (const run of [3, 4]) {
    await soon();
    runs[run]();
    await soon();
  }
  assert.equal((await both).length, 2);
});

test("any number of threads gives the same features", async () => {
  const scene = await loadImage(SCENE);
  const [one, three] = await Promise.all([1, 3].map((threads) => openSegmenter(DEMO, { threads })));
  const [alone, parts] = [await one.encode(scene), await three.encode(scene)];
  const worst = alone.values.reduce((most, value, at) => Math.max(most, Math.abs(value - parts.values[at])), 0);
  assert.ok(worst < 1e-5, `${worst}`);
  await Promise.all([one.close(), three.close()]);
});

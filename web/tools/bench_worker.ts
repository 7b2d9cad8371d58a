/** In a browser's worker: segments pixels that it is sent, and says how long that took. */

import { loadOrt } from "../page/ort.js";
import { fetchBundle } from "../src/fetch_bundle.js";
import type { Pixels } from "../src/resize.js";
import { Segmenter } from "../src/segmenter.js";

const provider = self.name === "webgpu" ? "webgpu" : "wasm";
const precision = self.name === "wasm-int8" ? "int8" : "fp32";
const [ort, threads] = await loadOrt(provider);
const segmenter = await Segmenter.open(fetchBundle("demo.scclip/"), { ort, provider, precision });

self.addEventListener("message", async ({ data }: MessageEvent<Pixels>) => {
  const start = performance.now();
  const { labels } = await segmenter.segment(data);
  self.postMessage({ seconds: (performance.now() - start) / 1000, labels });
});
self.postMessage({ threads });

/** onnxruntime-web in a worker, with its files beside the script. */

import type { OrtModule } from "../src/runtime.js";

const MAX_THREADS = 8;

/** The module for a provider, set up, and its number of threads. */
export async function loadOrt(provider: "wasm" | "webgpu"): Promise<[OrtModule, number]> {
  const ort = provider === "webgpu" ? await import("onnxruntime-web/webgpu") : await import("onnxruntime-web/wasm");
  const name = provider === "webgpu" ? "ort-wasm-simd-threaded.asyncify" : "ort-wasm-simd-threaded";
  const address = (end: string): string => new URL(`ort/${name}.${end}`, self.location.href).href;
  ort.env.wasm.wasmPaths = { mjs: address("mjs"), wasm: address("wasm") };
  // Without cross-origin isolation there is no shared memory, and so no threads.
  const threads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MAX_THREADS) : 1;
  ort.env.wasm.numThreads = threads;
  return [ort, threads];
}

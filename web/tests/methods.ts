/** What make_method_fixtures.py wrote: a small bundle by every method, made again here, and the labels Python gives with it. */

import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliDecompressSync } from "node:zlib";
import type { Vocabulary } from "../src/vocabulary.js";
import { bytesOf, DEMO, numbers } from "./fixtures.js";

interface Options {
  readonly part: readonly [number, number, number, number];
  readonly whole_image?: boolean;
  readonly preset?: string;
  readonly refine?: "pamr" | "none";
  readonly prob_threshold?: number;
  readonly area_threshold?: number;
  readonly classes?: string;
  readonly labels: string;
}

export interface MethodCase extends Options {
  readonly method: string;
  readonly last?: string;
  readonly rows?: string;
  readonly names: readonly string[];
  readonly confidence: string;
}

export interface DemoCase extends Options {
  readonly change: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
}

interface Recipe {
  readonly manifest: object;
  readonly graphs: Readonly<Record<string, string>>;
  readonly weights: readonly { count: number; mean: number; std: number }[];
  readonly queries: string;
}

interface Fixtures {
  readonly bundles: Readonly<Record<string, Recipe>>;
  readonly cases: readonly MethodCase[];
  readonly demo: readonly DemoCase[];
  readonly query_class: readonly number[];
}

export const methods = JSON.parse(
  brotliDecompressSync(readFileSync("tests/fixtures/methods.json.br")).toString("utf8"),
) as Fixtures;

const TEXT_FILES = ["text_encoder.onnx", "text_encoder.onnx.data", "text_encoder.resumed.onnx", "tokenizer.json"];

/** Write the bundle FOLDER/NAME.scclip; its weights are noise, its text encoder the demo's unless it has its own. */
export function writeMethodBundle(folder: string, method: string, name = method): string {
  const { manifest, graphs, weights } = methods.bundles[method];
  const path = join(folder, `${name}.scclip`);
  rmSync(path, { recursive: true, force: true });
  mkdirSync(path);
  writeFileSync(join(path, "bundle.json"), JSON.stringify(manifest));
  for (const [file, graph] of Object.entries(graphs)) writeFileSync(join(path, file), bytesOf(graph));
  const data = weights.map(({ count, mean, std }, seed) =>
    Buffer.from(Float32Array.from(numbers(seed, count), (value) => mean + std * (value / 2 ** 32 - 0.5)).buffer));
  writeFileSync(join(path, "weights.data"), Buffer.concat(data));
  for (const file of TEXT_FILES.filter((one) => !(one in graphs))) cpSync(join(DEMO, file), join(path, file));
  return path;
}

/** The queries of a method's cases; `last` is the name of the last one. */
export function methodVocabulary(method: string, last = "last"): Vocabulary {
  const rows = new Int8Array(bytesOf(methods.bundles[method].queries).buffer);
  const queryClass = methods.query_class;
  const width = rows.length / queryClass.length;
  const embeddings = new Float32Array(rows.length);
  for (let from = 0; from < rows.length; from += width) {
    const row = rows.subarray(from, from + width);
    const norm = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0));
    row.forEach((value, at) => (embeddings[from + at] = value / norm));
  }
  return {
    embeddings, queryClass, background: null,
    classes: Array.from({ length: Math.max(...queryClass) + 1 }, (_, index) => `class ${index}`),
    queries: queryClass.map((_, query) => (query < queryClass.length - 1 ? `query ${query}` : last)),
  };
}

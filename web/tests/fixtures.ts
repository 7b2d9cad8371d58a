/** What make_fixtures.py wrote, and the generator of numbers that it shares with these tests. */

import { readFileSync } from "node:fs";
import { inflateSync } from "node:zlib";
import type { Pixels } from "../src/resize.js";

export interface DecodeCase {
  readonly seed: number;
  readonly queries: number;
  readonly classes: readonly number[];
  readonly same_text?: boolean;
  readonly logit_scale: number;
  readonly prob_threshold?: number;
  readonly area_threshold?: number;
  readonly class_threshold?: number;
  readonly background?: number;
  readonly bits: number;
  readonly labels: string;
  readonly unlabelled: number;
  readonly confidence: string;
}

export interface SceneCase {
  readonly part: readonly [number, number, number, number];
  readonly whole_image?: boolean;
  readonly classes?: string;
  readonly precision?: string;
  readonly short_side?: number;
  readonly stride?: number;
  readonly prob_threshold?: number;
  readonly area_threshold?: number;
  readonly labels: string;
}

interface Fixtures {
  readonly resize: readonly { source: [number, number]; target: [number, number]; sha256: string }[];
  readonly shapes: readonly { size: [number, number]; windows: [number, number]; whole: [number, number] }[];
  readonly axes: readonly {
    starts: number[]; window: number; cells: number; resized: number; length: number; order: number[]; matrix: string;
  }[];
  readonly decode: readonly DecodeCase[];
  readonly tokens: readonly { text: string; ids: number[] }[];
  readonly classes: readonly {
    source: string | (string | string[])[]; classes?: string[][]; background?: number | null; refused?: boolean;
  }[];
  readonly templates: Readonly<Record<string, string>>;
  readonly embeddings: readonly { classes: string; templates: string; rows: string }[];
  readonly colours: readonly (readonly [number, number, number])[];
  readonly scenes: readonly SceneCase[];
}

/** The web folder: tests run in it. */
export const fixtures = JSON.parse(
  inflateSync(readFileSync("tests/fixtures/python.json.z")).toString("utf8"),
) as Fixtures;

export const DEMO = "../scclip_rt/demo.scclip";
export const SCENE = "../scclip_rt/demo/scene.png";

export function bytesOf(base64: string): Uint8Array {
  return Uint8Array.from(Buffer.from(base64, "base64"));
}

export function floatsOf(base64: string): Float32Array {
  return new Float32Array(bytesOf(base64).buffer);
}

/** Mixed bits of a counter, 32 each. */
export function numbers(seed: number, count: number): Uint32Array {
  const first = Number((BigInt(seed) * 0x9e3779b1n) % 0x100000000n);
  return Uint32Array.from({ length: count }, (_, index) => {
    let value = (first + index) >>> 0;
    value = Math.imul(value ^ (value >>> 16), 0x21f0aaad) >>> 0;
    value = Math.imul(value ^ (value >>> 15), 0x735a2d97) >>> 0;
    return (value ^ (value >>> 15)) >>> 0;
  });
}

export function noise(seed: number, count: number): Uint8Array {
  return Uint8Array.from(numbers(seed, count), (value) => value >>> 24);
}

/** Unit rows. */
export function vectors(seed: number, rows: number, width: number): Float32Array {
  const values = Float64Array.from(numbers(seed, rows * width), (value) => value / 2 ** 32 - 0.5);
  const out = new Float32Array(rows * width);
  for (let row = 0; row < rows; row++) {
    const part = values.subarray(row * width, (row + 1) * width);
    const norm = Math.sqrt(part.reduce((sum, value) => sum + value * value, 0));
    part.forEach((value, at) => (out[row * width + at] = value / norm));
  }
  return out;
}

/** The share of places where two lists are equal. */
export function agreement(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return 0;
  let equal = 0;
  for (let at = 0; at < a.length; at++) if (a[at] === b[at]) equal++;
  return equal / a.length;
}

/** Part of an RGB image: top, left, height, width. */
export function crop({ data, width }: Pixels, [top, left, height, cropped]: readonly number[]): Pixels {
  const out = new Uint8Array(height * cropped * 3);
  for (let y = 0; y < height; y++) {
    const from = ((top + y) * width + left) * 3;
    out.set(data.subarray(from, from + cropped * 3), y * cropped * 3);
  }
  return { data: out, width: cropped, height };
}

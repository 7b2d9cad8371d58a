/**
 * PAMR: pixel-adaptive refinement of the logits by the image (docs/method.md, §4), as scclip_rt/decode/pamr.py has it.
 *
 * The weights of the 16 neighbours are computed once; each query's map then goes through all steps alone.
 */

import { ScclipError } from "./errors.js";
import type { Size } from "./geometry.js";
import { tap } from "./interpolation.js";
import type { Pixels } from "./resize.js";

const STEPS = 10;
const DILATIONS = [8, 16];
const PAD = Math.max(...DILATIONS);
/** The weights take 64 bytes a pixel: 1 GB here. */
const MAX_PIXELS = 16_000_000;

const OFFSETS: readonly (readonly [number, number])[] = DILATIONS.flatMap((far) =>
  [-far, 0, far].flatMap((dy) => [-far, 0, far].map((dx) => [dy, dx] as const)).filter(([dy, dx]) => dy !== 0 || dx !== 0));

/** How much each neighbour of a pixel counts in one step: a map a neighbour, summing to 1 over them. */
export interface PixelWeights {
  readonly shape: Size;
  readonly weights: readonly Float32Array[];
}

/** A map whose rows have room for the neighbours of the first and the last pixel. */
class Plane {
  readonly values: Float32Array;
  readonly stride: number;

  constructor(private readonly height: number, private readonly width: number) {
    this.stride = width + 2 * PAD;
    this.values = new Float32Array(height * this.stride);
  }

  /** Where a row begins; rows beyond the first and the last are those again. */
  row(y: number): number {
    return Math.min(Math.max(y, 0), this.height - 1) * this.stride + PAD;
  }

  replicateBorders(): void {
    for (let y = 0; y < this.height; y++) {
      const first = this.row(y);
      const end = first + this.width;
      this.values.fill(this.values[first], first - PAD, first);
      this.values.fill(this.values[end - 1], end, end + PAD);
    }
  }
}

/**
 * Weights from the image: a_pq = softmax over q of mean_c −|x_p − x_q| / (1e-8 + 0.1·σ_p), where σ is the standard
 * deviation of all 18 taps, both dilations and their centres.
 *
 * @param resized The image that the windows were cut from.
 * @param shape Height and width of the maps; the normalised image is resized to it.
 * @param mean Of the model's normalisation, in 0 … 255.
 * @throws ScclipError ImageError: the maps are too large to refine.
 */
export function pixelWeights(resized: Pixels, shape: Size, mean: readonly number[], std: readonly number[]): PixelWeights {
  const [height, width] = shape;
  if (height * width > MAX_PIXELS) {
    throw new ScclipError(
      "ImageError",
      `PAMR holds 64 bytes a pixel and takes images of up to ${MAX_PIXELS / 1e6} million pixels here; this one is ` +
        `${width}×${height}. Shrink it, or segment with refine 'none'`,
      "refine",
    );
  }
  const weights = OFFSETS.map(() => new Float32Array(height * width));
  for (let c = 0; c < 3; c++) weigh(channel(resized, shape, c, mean[c], std[c]), shape, weights);
  softmax(weights);
  return { shape, weights };
}

/** One normalised channel at the size of the maps; every step rounds to float32, so that flat regions are exactly flat. */
function channel({ data, width: across, height: down }: Pixels, [height, width]: Size, c: number, mean: number, std: number): Plane {
  const table = Float32Array.from({ length: 256 }, (_, value) =>
    Math.fround(Math.fround(value - Math.fround(mean)) / Math.fround(std)));
  const mix = (low: number, high: number, part: number): number =>
    Math.fround(low + Math.fround(Math.fround(high - low) * part));
  const plane = new Plane(height, width);
  const joined = new Float32Array(across);
  const columns = Array.from({ length: width }, (_, x) => tap(x, width, across));
  for (let y = 0; y < height; y++) {
    const [low, high, fraction] = tap(y, height, down);
    const part = Math.fround(fraction);
    for (let x = 0; x < across; x++) {
      joined[x] = mix(table[data[(low * across + x) * 3 + c]], table[data[(high * across + x) * 3 + c]], part);
    }
    const to = plane.row(y);
    columns.forEach(([left, right, share], x) => (plane.values[to + x] = mix(joined[left], joined[right], Math.fround(share))));
  }
  plane.replicateBorders();
  return plane;
}

/** Add one channel's part of the exponents. */
function weigh(plane: Plane, [height, width]: Size, weights: readonly Float32Array[]): void {
  const taps = 9 * DILATIONS.length;
  const difference = OFFSETS.map(() => new Float32Array(width));
  const { values } = plane;
  for (let y = 0; y < height; y++) {
    const centre = plane.row(y);
    const total = new Float64Array(width);
    const squares = new Float64Array(width);
    OFFSETS.forEach(([dy, dx], index) => {
      const from = plane.row(y + dy) + dx;
      const out = difference[index];
      for (let x = 0; x < width; x++) {
        // From the centre, not from 0: no cancellation, and flat regions give exactly 0.
        const value = Math.fround(values[from + x] - values[centre + x]);
        out[x] = value;
        total[x] += value;
        squares[x] += value * value;
      }
    });
    for (let x = 0; x < width; x++) {
      const variance = Math.max(squares[x] - (total[x] * total[x]) / taps, 0) / (taps - 1);
      total[x] = -1 / (3 * (1e-8 + 0.1 * Math.sqrt(variance)));
    }
    difference.forEach((out, index) => {
      const target = weights[index];
      for (let x = 0, at = y * width; x < width; x++, at++) target[at] += Math.abs(out[x]) * total[x];
    });
  }
}

function softmax(weights: readonly Float32Array[]): void {
  for (let at = 0; at < weights[0].length; at++) {
    let most = -Infinity;
    for (const map of weights) if (map[at] > most) most = map[at];
    let sum = 0;
    for (const map of weights) sum += map[at] = Math.exp(map[at] - most);
    for (const map of weights) map[at] /= sum;
  }
}

/** Refines one map at a time. */
export class Refiner {
  private front: Plane;
  private back: Plane;

  constructor(private readonly pixels: PixelWeights) {
    this.front = new Plane(...pixels.shape);
    this.back = new Plane(...pixels.shape);
  }

  /** A row of the map, to be written before `run` and to be read after it. */
  row(y: number): Float32Array {
    const from = this.front.row(y);
    return this.front.values.subarray(from, from + this.pixels.shape[1]);
  }

  run(): void {
    const [height, width] = this.pixels.shape;
    for (let step = 0; step < STEPS; step++) {
      this.front.replicateBorders();
      for (let y = 0; y < height; y++) this.average(y, width);
      [this.front, this.back] = [this.back, this.front];
    }
  }

  /** A row of the next map, four neighbours at a time. */
  private average(y: number, width: number): void {
    const { values } = this.front;
    const target = this.back.values;
    const to = this.back.row(y);
    const { weights } = this.pixels;
    for (let tap = 0; tap < OFFSETS.length; tap += 4) {
      const [a, b, c, d] = [0, 1, 2, 3].map((one) => this.front.row(y + OFFSETS[tap + one][0]) + OFFSETS[tap + one][1]);
      const wa = weights[tap], wb = weights[tap + 1], wc = weights[tap + 2], wd = weights[tap + 3];
      for (let x = 0, at = y * width; x < width; x++, at++) {
        const sum = wa[at] * values[a + x] + wb[at] * values[b + x] + wc[at] * values[c + x] + wd[at] * values[d + x];
        target[to + x] = tap === 0 ? sum : target[to + x] + sum;
      }
    }
  }
}

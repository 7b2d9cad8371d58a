/**
 * The separable map from window patches to output pixels (docs/method.md, §4), one axis at a time.
 *
 * Patches → window (bilinear) → mean over the windows that cover a pixel → original size (bilinear). A cell is one patch
 * row (or column) of one window. Each output pixel is a weighted mean of the few cells near it.
 */

import type { Ends } from "./geometry.js";

/** An axis: pixel p is the sum of `weights[i]` times cell `cells[i]` for i from `starts[p]` to `starts[p + 1]` − 1. */
export interface Axis {
  readonly length: number;
  /** For each cell in window-major order (window · cells + cell), its rank by place in the image. */
  readonly rank: Int32Array;
  readonly starts: Int32Array;
  /** Ranks of cells, ascending within a pixel. */
  readonly cells: Int32Array;
  readonly weights: Float32Array;
}

const MOST_KEPT = 32;
const kept = new Map<string, Axis>();

/** As `interpolationAxis`; those of the latest sizes are kept. */
export function cachedAxis(...sizes: Parameters<typeof interpolationAxis>): Axis {
  const key = JSON.stringify(sizes);
  const axis = kept.get(key) ?? interpolationAxis(...sizes);
  kept.delete(key);
  kept.set(key, axis);
  const [oldest] = kept.keys();
  if (kept.size > MOST_KEPT && oldest !== undefined) kept.delete(oldest);
  return axis;
}

/** Where output pixel `index` of a bilinear resize reads from (edges clamped, corners not aligned, as in torch). */
export function tap(index: number, outLength: number, inLength: number): [number, number, number] {
  const source = Math.max((index + 0.5) * (inLength / outLength) - 0.5, 0);
  const lower = Math.min(Math.trunc(source), inLength - 1);
  return [lower, Math.min(lower + 1, inLength - 1), source - lower];
}

/**
 * @param starts First pixel of each window along this axis of the resized image.
 * @param window Pixels of a window.
 * @param cells Patches per window.
 * @param resized Pixels of the resized image.
 * @param length Pixels of the output.
 * @param padding Pixels that the encoder added before and after a window, cut away again.
 */
export function interpolationAxis(
  starts: readonly number[], window: number, cells: number, resized: number, length: number, [before, after]: Ends = [0, 0],
): Axis {
  const padded = before + window + after;
  const rank = rankOfCells(starts, padded, cells);
  const upsample = Array.from({ length: window }, (_, pixel) => tap(before + pixel, padded, cells));
  const firsts = new Int32Array(length + 1);
  const indices: number[] = [];
  const weights: number[] = [];
  for (let pixel = 0; pixel < length; pixel++) {
    const [lower, upper, fraction] = tap(pixel, length, resized);
    const sums = new Map<number, number>();
    for (const [place, share] of [[lower, 1 - fraction], [upper, fraction]] as const) {
      if (share === 0) continue;
      const covering = starts.flatMap((start, index) => (start <= place && place < start + window ? [index] : []));
      for (const index of covering) {
        const [low, high, part] = upsample[place - starts[index]];
        const weight = share / covering.length;
        for (const [cell, value] of [[low, weight * (1 - part)], [high, weight * part]] as const) {
          const at = rank[index * cells + cell];
          sums.set(at, (sums.get(at) ?? 0) + value);
        }
      }
    }
    for (const [at, value] of [...sums].filter(([, value]) => value !== 0).sort((a, b) => a[0] - b[0])) {
      indices.push(at);
      weights.push(value);
    }
    firsts[pixel + 1] = indices.length;
  }
  return { length, rank, starts: firsts, cells: Int32Array.from(indices), weights: Float32Array.from(weights) };
}

function rankOfCells(starts: readonly number[], window: number, cells: number): Int32Array {
  const centres = starts.flatMap((start) => Array.from({ length: cells }, (_, cell) => start + (cell + 0.5) * (window / cells)));
  const order = centres.map((_, index) => index).sort((a, b) => centres[a] - centres[b] || a - b);
  const rank = new Int32Array(order.length);
  order.forEach((cell, place) => (rank[cell] = place));
  return rank;
}

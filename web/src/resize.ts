/**
 * OpenCV's bilinear resize of 8-bit images, byte for byte, as tables of taps (scclip_rt/image/resize.py explains them).
 *
 *     row[x] = (p[low] · w_low + p[high] · w_high) >> 4
 *     out[y] = ((w_low · row_low >> 16) + (w_high · row_high >> 16) + 2) >> 2
 */

import type { Size } from "./geometry.js";

const ONE = 2048;

/** Pixels row by row: RGB, or RGBA whose fourth channel is not looked at. */
export interface Pixels {
  readonly data: Uint8Array | Uint8ClampedArray;
  readonly width: number;
  readonly height: number;
}

interface Taps {
  readonly low: Int32Array;
  readonly high: Int32Array;
  readonly lowWeight: Int32Array;
  readonly highWeight: Int32Array;
}

/** Channels of an image, from the length of its data. */
export function channelsOf({ data, width, height }: Pixels): 3 | 4 {
  const channels = data.length / (width * height);
  if (channels !== 3 && channels !== 4) {
    throw new RangeError(`${width}×${height} pixels need 3 or 4 bytes each; got ${data.length} bytes`);
  }
  return channels;
}

/** Rounded to the nearest integer, halves to the even one. */
export function roundEven(value: number): number {
  const low = Math.floor(value);
  const rest = value - low;
  return rest > 0.5 || (rest === 0.5 && low % 2 !== 0) ? low + 1 : low;
}

/** Where each pixel of a resized axis reads from; columns stop at the border, rows run over it with clamped taps. */
export function resizeTaps(length: number, source: number, horizontal: boolean): Taps {
  const taps: Taps = {
    low: new Int32Array(length), high: new Int32Array(length),
    lowWeight: new Int32Array(length), highWeight: new Int32Array(length),
  };
  const scale = 1 / (length / source);
  const clip = (index: number): number => Math.min(Math.max(index, 0), source - 1);
  for (let i = 0; i < length; i++) {
    const place = Math.fround((i + 0.5) * scale - 0.5);
    let lower = Math.floor(place);
    let fraction = Math.fround(place - Math.fround(lower));
    if (horizontal) {
      if (lower < 0 || lower >= source - 1) fraction = 0;
      lower = clip(lower);
    }
    taps.low[i] = clip(lower);
    taps.high[i] = clip(lower + 1);
    taps.lowWeight[i] = roundEven(Math.fround(Math.fround(1 - fraction) * ONE));
    taps.highWeight[i] = roundEven(Math.fround(fraction * ONE));
  }
  return taps;
}

/**
 * Resize to `size`.
 *
 * @returns RGB, three bytes a pixel.
 */
export function resize(image: Pixels, [height, width]: Size): Pixels {
  const channels = channelsOf(image);
  if (image.height === height && image.width === width) return { data: withoutAlpha(image), width, height };
  const rows = resizeTaps(height, image.height, false);
  const columns = resizeTaps(width, image.width, true);
  const out = new Uint8Array(height * width * 3);
  // The two source rows in use, resized across: most are used by several rows of the result.
  let low: Row = { index: -1, values: new Int32Array(width * 3) };
  let high: Row = { index: -1, values: new Int32Array(width * 3) };
  for (let y = 0; y < height; y++) {
    if (high.index === rows.low[y] || low.index === rows.high[y]) [low, high] = [high, low];
    across(image, channels, rows.low[y], columns, low);
    across(image, channels, rows.high[y], columns, high);
    const lowWeight = rows.lowWeight[y];
    const highWeight = rows.highWeight[y];
    const a = low.values;
    const b = high.values;
    for (let x = 0, to = y * width * 3; x < width * 3; x++, to++) {
      out[to] = (((a[x] * lowWeight) >> 16) + ((b[x] * highWeight) >> 16) + 2) >> 2;
    }
  }
  return { data: out, width, height };
}

interface Row {
  index: number;
  readonly values: Int32Array;
}

function across(image: Pixels, channels: number, index: number, taps: Taps, row: Row): void {
  if (row.index === index) return;
  row.index = index;
  const { data, width } = image;
  const start = index * width * channels;
  for (let x = 0, to = 0; x < taps.low.length; x++) {
    const low = start + taps.low[x] * channels;
    const high = start + taps.high[x] * channels;
    const lowWeight = taps.lowWeight[x];
    const highWeight = taps.highWeight[x];
    for (let c = 0; c < 3; c++, to++) row.values[to] = (data[low + c] * lowWeight + data[high + c] * highWeight) >> 4;
  }
}

function withoutAlpha(image: Pixels): Uint8Array {
  const { data, width, height } = image;
  if (channelsOf(image) === 3) return new Uint8Array(data.buffer, data.byteOffset, data.length);
  const out = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < out.length; from += 4, to += 3) {
    out[to] = data[from];
    out[to + 1] = data[from + 1];
    out[to + 2] = data[from + 2];
  }
  return out;
}

/** Windows first … last − 1 of an RGB image, one after the other. */
export function cutWindows(
  image: Pixels, starts: readonly (readonly [number, number])[], [height, width]: Size,
): Uint8Array {
  const out = new Uint8Array(starts.length * height * width * 3);
  let to = 0;
  for (const [top, left] of starts) {
    for (let y = 0; y < height; y++, to += width * 3) {
      const from = ((top + y) * image.width + left) * 3;
      out.set(image.data.subarray(from, from + width * 3), to);
    }
  }
  return out;
}

/** Sizes: how an image is resized and cut into windows (docs/method.md, §1), or taken whole (§7). */

import { ScclipError } from "./errors.js";

const MIN_PATCHES = 6;
export const MAX_PIXELS = 128_000_000;
export const MAX_WINDOWS = 1024;
/** Most patches of an image encoded whole: the memory of attention grows with their square. */
const MAX_WHOLE_PATCHES = 8192;

/** Height and width in pixels, or rows and columns. */
export type Size = readonly [number, number];

/** How a resized image of `size` is covered by windows of `window`; they go row by row. */
export interface Tiling {
  readonly size: Size;
  readonly rows: readonly number[];
  readonly columns: readonly number[];
  readonly window: Size;
}

/** Size to resize an image to before windows are cut: the ratio is kept, halves are rounded up. */
export function resizeShape([height, width]: Size, shortSide: number, longSide: number, minSide: number): Size {
  if (height < 1 || width < 1) {
    throw new ScclipError("ImageError", `the image has no pixels: its size is ${width}×${height}`, "image");
  }
  let scale = Math.min(longSide / Math.max(height, width), shortSide / Math.min(height, width));
  scale = Math.max(scale, minSide / Math.min(height, width));
  return [Math.floor(height * scale + 0.5), Math.floor(width * scale + 0.5)];
}

/** Size for one pass over the whole image: each side goes to the nearest multiple of `patch`, at least six patches. */
export function wholeImageShape(size: Size, patch: number, shortSide: number, longSide: number): Size {
  const round = (side: number): number => Math.max(Math.floor(side / patch + 0.5), MIN_PATCHES) * patch;
  const [height, width] = resizeShape(size, shortSide, longSide, 0);
  return [round(height), round(width)];
}

/** Where windows start along an axis; the last one ends at the border. */
export function windowStarts(length: number, window: number, stride: number): number[] {
  if (length < window) {
    throw new ScclipError("OptionError", `a window of ${window} pixels doesn't fit into ${length}`);
  }
  const count = Math.ceil((length - window) / stride) + 1;
  return Array.from({ length: count }, (_, i) => Math.min(stride * i + window, length) - window);
}

/** What decides about windows: lengths in pixels. */
export interface TilingOptions {
  readonly grid: { readonly kind: "window" | "fixed" | "dynamic"; readonly rows?: number; readonly columns?: number };
  readonly patch: number;
  readonly window: number;
  readonly stride: number;
  readonly shortSide: number;
  readonly longSide: number;
  readonly maxPixels: number;
  readonly maxWindows: number;
}

/**
 * The windows of an image.
 *
 * @param size (height, width) of the image.
 * @throws ScclipError ImageError: too large, or too many windows.
 */
export function tilingOf(size: Size, options: TilingOptions): Tiling {
  const { grid, patch, window, stride, shortSide, longSide, maxPixels } = options;
  const [height, width] = size;
  if (height * width > maxPixels) {
    const millions = (pixels: number): string => (pixels / 1e6).toFixed(1);
    throw new ScclipError(
      "ImageError",
      `the image is ${width}×${height}, ${millions(height * width)} million pixels; the limit is ` +
        `${millions(maxPixels)} million. Shrink it, or raise the limit (maxPixels)`,
      "maxPixels",
    );
  }
  if (grid.kind === "window") {
    const shape = resizeShape(size, shortSide, longSide, window);
    checkWindows(shape, options);
    const [rows, columns] = shape.map((side) => windowStarts(side, window, stride)) as [number[], number[]];
    return { size: shape, rows, columns, window: [window, window] };
  }
  const whole: Size =
    grid.rows !== undefined && grid.columns !== undefined
      ? [grid.rows * patch, grid.columns * patch]
      : wholeImageShape(size, patch, shortSide, longSide);
  const patches = (whole[0] / patch) * (whole[1] / patch);
  if (grid.kind === "dynamic" && patches > MAX_WHOLE_PATCHES) {
    throw new ScclipError(
      "ImageError",
      `the image would be ${patches} patches at ${whole[1]}×${whole[0]}, encoded whole; the limit is ` +
        `${MAX_WHOLE_PATCHES}. Lower the short side, or use windows`,
      "image",
    );
  }
  return { size: whole, rows: [0], columns: [0], window: whole };
}

function checkWindows(shape: Size, { window, stride, maxWindows }: TilingOptions): void {
  const count = shape.reduce((product, side) => product * (Math.ceil(Math.max(side - window, 0) / stride) + 1), 1);
  if (count > maxWindows) {
    throw new ScclipError(
      "ImageError",
      `the image needs ${count} windows at ${shape[1]}×${shape[0]}; the limit is ${maxWindows}. It is very elongated or ` +
        "the short side is very large: crop it, lower the short side, or raise the limit (maxWindows)",
      "maxWindows",
    );
  }
}

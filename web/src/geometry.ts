/** Sizes: how an image is resized and cut into windows (docs/method.md, §1), or taken whole (§7). */

import { ScclipError } from "./errors.js";

const MIN_PATCHES = 6;
/** Of a window that the encoder pads, pixels. */
const LEAST_SIDE = 2;
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
  /** What the patches' logits are stretched over. */
  readonly window: Size;
  /** The part of a window, from its top left corner, that the encoder gets. */
  readonly input: Size;
  /** What the encoder adds to a window before it has patches: above and below, left and right. */
  readonly padding: readonly [Ends, Ends];
}

/** Before and after. */
export type Ends = readonly [number, number];

const NO_PADDING = [[0, 0], [0, 0]] as const;

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

/** What decides about windows: lengths in pixels; `padding` and `wholeImage` as in docs/bundle.md, "Format 2". */
export interface TilingOptions {
  readonly grid: { readonly kind: "window" | "fixed" | "dynamic"; readonly rows?: number; readonly columns?: number };
  readonly patch: number;
  readonly window: number;
  readonly stride: number;
  readonly shortSide: number;
  readonly longSide: number;
  readonly maxPixels: number;
  readonly maxWindows: number;
  readonly padding: "none" | "patch";
  readonly wholeImage: "nearest" | "floor";
}

/** Rows and columns of patches in each window. */
export function gridOf({ window, input }: Tiling, { patch, padding }: Pick<TilingOptions, "patch" | "padding">): Size {
  const patches = (axis: 0 | 1): number => (padding === "patch" ? Math.ceil(window[axis] / patch) : Math.floor(input[axis] / patch));
  return [patches(0), patches(1)];
}

/**
 * The windows of an image.
 *
 * @param size (height, width) of the image.
 * @throws ScclipError ImageError: too large, or too many windows.
 */
export function tilingOf(size: Size, options: TilingOptions): Tiling {
  checkPixels(size, options.maxPixels);
  const { grid, patch, window, stride, shortSide, longSide, padding } = options;
  const pads = padding === "patch";
  if (grid.kind === "window") {
    const shape = resizeShape(size, shortSide, longSide, pads ? LEAST_SIDE : window);
    const sides: Size = [Math.min(shape[0], window), Math.min(shape[1], window)];
    checkWindows(shape, sides, options);
    const [rows, columns] = shape.map((side, axis) => windowStarts(side, sides[axis], stride)) as [number[], number[]];
    return { size: shape, rows, columns, window: sides, input: sides, padding: pads ? paddingOf(sides, patch) : NO_PADDING };
  }
  if (grid.rows !== undefined && grid.columns !== undefined) return oneWindow([grid.rows * patch, grid.columns * patch]);
  const tiling = wholeImage(size, options);
  const [rows, columns] = gridOf(tiling, options);
  if (rows * columns > MAX_WHOLE_PATCHES) {
    throw new ScclipError(
      "ImageError",
      `the image would be ${rows * columns} patches at ${tiling.size[1]}×${tiling.size[0]}, encoded whole; the limit is ` +
        `${MAX_WHOLE_PATCHES}. Lower the short side, or use windows`,
      "image",
    );
  }
  return tiling;
}

function oneWindow(size: Size): Tiling {
  return { size, rows: [0], columns: [0], window: size, input: size, padding: NO_PADDING };
}

/** One window that is the whole image, of a size that the encoder takes (docs/bundle.md, "Whole images"). */
function wholeImage(size: Size, { patch, shortSide, longSide, padding, wholeImage: rule }: TilingOptions): Tiling {
  const pads = padding === "patch";
  if (!pads && rule === "nearest") return oneWindow(wholeImageShape(size, patch, shortSide, longSide));
  const shape = resizeShape(size, shortSide, longSide, pads ? LEAST_SIDE : MIN_PATCHES * patch);
  if (pads) return { ...oneWindow(shape), padding: paddingOf(shape, patch) };
  return { ...oneWindow(shape), input: [Math.floor(shape[0] / patch) * patch, Math.floor(shape[1] / patch) * patch] };
}

/** What is missing to whole patches, the smaller half before. */
function paddingOf(window: Size, patch: number): readonly [Ends, Ends] {
  const ends = (side: number): Ends => {
    const missing = Math.ceil(side / patch) * patch - side;
    return [Math.floor(missing / 2), missing - Math.floor(missing / 2)];
  };
  return [ends(window[0]), ends(window[1])];
}

/**
 * Refuse an image of too many pixels.
 *
 * @throws ScclipError ImageError.
 */
export function checkPixels([height, width]: Size, maxPixels: number): void {
  if (height * width <= maxPixels) return;
  const millions = (pixels: number): string => (pixels / 1e6).toFixed(1);
  throw new ScclipError(
    "ImageError",
    `the image is ${width}×${height}, ${millions(height * width)} million pixels; the limit is ` +
      `${millions(maxPixels)} million. Shrink it, or raise the limit (maxPixels)`,
    "maxPixels",
  );
}

function checkWindows(shape: Size, window: Size, { stride, maxWindows }: TilingOptions): void {
  const count = shape.reduce((product, side, axis) => product * (Math.ceil(Math.max(side - window[axis], 0) / stride) + 1), 1);
  if (count > maxWindows) {
    throw new ScclipError(
      "ImageError",
      `the image needs ${count} windows at ${shape[1]}×${shape[0]}; the limit is ${maxWindows}. It is very elongated or ` +
        "the short side is very large: crop it, lower the short side, or raise the limit (maxWindows)",
      "maxWindows",
    );
  }
}

/** Colours for classes, and painting them over a picture, as scclip_rt/overlay.py does. */

import { channelsOf, roundEven, type Pixels } from "./resize.js";
import type { Segmentation } from "./segmenter.js";

export type Colour = readonly [number, number, number];

// Okabe and Ito's and Paul Tol's colour-blind-safe sets, interleaved so that neighbours in a class list differ.
const DISTINCT: readonly Colour[] = [
  [0, 114, 178], [230, 159, 0], [0, 158, 115], [204, 121, 167], [240, 228, 66],
  [213, 94, 0], [86, 180, 233], [136, 34, 85], [153, 153, 51], [51, 34, 136],
  [221, 204, 119], [68, 170, 153], [204, 102, 119], [17, 119, 51], [170, 68, 153],
  [136, 204, 238], [187, 204, 51], [238, 136, 102], [119, 170, 221], [255, 170, 187],
];
const GOLDEN = 0.6180339887498949;
const TONES = [[0.5, 0.75], [0.35, 0.65], [0.68, 0.7]] as const;
const BACKGROUND: Colour = [128, 128, 128];
const UNLABELLED: Colour = [24, 24, 24];
/** The smallest side of a picture that gets borders between classes. */
const BORDER_SIDE = 48;

/** The colour of a label; a class has the same one in every picture. */
export function colourOf(label: number, { background, unlabelled }: Pick<Segmentation, "background" | "unlabelled">): Colour {
  if (label === unlabelled) return UNLABELLED;
  if (label === background) return BACKGROUND;
  if (label < DISTINCT.length) return DISTINCT[label];
  const step = label - DISTINCT.length;
  const [light, strong] = TONES[step % 3];
  return fromHls((0.11 + step * GOLDEN) % 1, light, strong);
}

function fromHls(hue: number, light: number, strong: number): Colour {
  const high = light <= 0.5 ? light * (1 + strong) : light + strong - light * strong;
  const low = 2 * light - high;
  const channel = (shift: number): number => {
    const place = (hue + shift + 1) % 1;
    const value =
      place < 1 / 6 ? low + (high - low) * place * 6
      : place < 0.5 ? high
      : place < 2 / 3 ? low + (high - low) * (2 / 3 - place) * 6
      : low;
    return roundEven(value * 255);
  };
  return [channel(1 / 3), channel(0), channel(-1 / 3)];
}

/** Whether a pixel lies on a border: another label above it or to its left. */
export function onBorder(labels: ArrayLike<number>, width: number, at: number): boolean {
  return (at >= width && labels[at] !== labels[at - width]) || (at % width !== 0 && labels[at] !== labels[at - 1]);
}

/**
 * Mix each pixel with its class's colour, and draw the borders between classes.
 *
 * @param alpha Weight of the colours, 0 … 1.
 * @returns RGB.
 */
export function paint(image: Pixels, result: Segmentation, alpha = 0.55): Pixels {
  const { labels, width, height } = result;
  const channels = channelsOf(image);
  const keep = Uint8Array.from({ length: 256 }, (_, value) => roundEven(value * (1 - alpha)));
  const colours = new Map<number, Colour>();
  for (const label of new Set(labels)) {
    const [red, green, blue] = colourOf(label, result);
    colours.set(label, [roundEven(red * alpha), roundEven(green * alpha), roundEven(blue * alpha)]);
  }
  const borders = Math.min(width, height) >= BORDER_SIDE && alpha > 0;
  const data = new Uint8Array(width * height * 3);
  for (let at = 0; at < labels.length; at++) {
    const colour = colours.get(labels[at]) as Colour;
    const edge = borders && onBorder(labels, width, at);
    for (let c = 0; c < 3; c++) {
      const mixed = Math.min(255, keep[image.data[at * channels + c]] + colour[c]);
      data[at * 3 + c] = edge ? Math.floor((mixed + 2 * 255) / 3) : mixed;
    }
  }
  return { data, width, height };
}

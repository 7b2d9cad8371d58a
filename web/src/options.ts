/** The range of every numeric option: scclip_rt/limits.py says the same. */

import { ScclipError } from "./errors.js";

interface Range {
  readonly least: number;
  readonly most: number;
  readonly whole: boolean;
}

const whole = (least: number, most: number): Range => ({ least, most, whole: true });
const real = (least: number, most: number): Range => ({ least, most, whole: false });

export const LIMITS = {
  threads: whole(1, 1024),
  batch: whole(1, 65536),
  shortSide: whole(1, 1 << 16),
  stride: whole(1, 1 << 16),
  maxPixels: whole(1, 2 ** 40),
  maxWindows: whole(1, 1 << 20),
  logitScale: real(1e-6, 1e4),
  probThreshold: real(0, 1),
  areaThreshold: real(0, 1),
  classThreshold: real(0, 1),
} satisfies Record<string, Range>;

export type NumericOption = keyof typeof LIMITS;

/**
 * The value, if the table allows it.
 *
 * @throws ScclipError OptionError: outside the range, or not a number; `field` is the option.
 */
export function inRange(name: NumericOption, value: number): number {
  const { least, most, whole: integer } = LIMITS[name];
  if (typeof value !== "number" || !(value >= least && value <= most) || (integer && !Number.isInteger(value))) {
    const kind = integer ? "a whole number" : "a number";
    throw new ScclipError("OptionError", `${name} must be ${kind} from ${least} to ${most}; got ${value}`, name);
  }
  return value;
}

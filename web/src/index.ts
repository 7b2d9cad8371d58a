/** scclip-web: SC-CLIP bundles in the browser and in Node. */

export { Bundle, type BundleSource, type OnProgress, type Progress } from "./bundle.js";
export { parseClasses, type Classes, type ClassSource } from "./classes.js";
export type { Encoded, Labels } from "./decode.js";
export { ScclipError, type ErrorCode } from "./errors.js";
export { fetchBundle } from "./fetch_bundle.js";
export { colourOf, paint, type Colour } from "./overlay.js";
export { labelsPng, rgbPng } from "./png.js";
export type { Pixels } from "./resize.js";
export type { OrtModule, RuntimeOptions } from "./runtime.js";
export {
  Segmenter, sharesOf, type DecodeOptions, type OnStep, type Segmentation, type SegmenterOptions, type Share,
} from "./segmenter.js";
export { TEMPLATE_SETS } from "./templates.js";
export type { Vocabulary } from "./vocabulary.js";

/** Prompts around a class name: the sets of scclip_rt/vocabulary/templates.py. */

import { ScclipError, shorten } from "./errors.js";

/** The 80 that CLIP's authors used for ImageNet. */
const IMAGENET = [
  "a bad photo of a {}.",
  "a photo of many {}.",
  "a sculpture of a {}.",
  "a photo of the hard to see {}.",
  "a low resolution photo of the {}.",
  "a rendering of a {}.",
  "graffiti of a {}.",
  "a bad photo of the {}.",
  "a cropped photo of the {}.",
  "a tattoo of a {}.",
  "the embroidered {}.",
  "a photo of a hard to see {}.",
  "a bright photo of a {}.",
  "a photo of a clean {}.",
  "a photo of a dirty {}.",
  "a dark photo of the {}.",
  "a drawing of a {}.",
  "a photo of my {}.",
  "the plastic {}.",
  "a photo of the cool {}.",
  "a close-up photo of a {}.",
  "a black and white photo of the {}.",
  "a painting of the {}.",
  "a painting of a {}.",
  "a pixelated photo of the {}.",
  "a sculpture of the {}.",
  "a bright photo of the {}.",
  "a cropped photo of a {}.",
  "a plastic {}.",
  "a photo of the dirty {}.",
  "a jpeg corrupted photo of a {}.",
  "a blurry photo of the {}.",
  "a photo of the {}.",
  "a good photo of the {}.",
  "a rendering of the {}.",
  "a {} in a video game.",
  "a photo of one {}.",
  "a doodle of a {}.",
  "a close-up photo of the {}.",
  "a photo of a {}.",
  "the origami {}.",
  "the {} in a video game.",
  "a sketch of a {}.",
  "a doodle of the {}.",
  "a origami {}.",
  "a low resolution photo of a {}.",
  "the toy {}.",
  "a rendition of the {}.",
  "a photo of the clean {}.",
  "a photo of a large {}.",
  "a rendition of a {}.",
  "a photo of a nice {}.",
  "a photo of a weird {}.",
  "a blurry photo of a {}.",
  "a cartoon {}.",
  "art of a {}.",
  "a sketch of the {}.",
  "a embroidered {}.",
  "a pixelated photo of a {}.",
  "itap of the {}.",
  "a jpeg corrupted photo of the {}.",
  "a good photo of a {}.",
  "a plushie {}.",
  "a photo of the nice {}.",
  "a photo of the small {}.",
  "a photo of the weird {}.",
  "the cartoon {}.",
  "art of the {}.",
  "a drawing of the {}.",
  "a photo of the large {}.",
  "a black and white photo of a {}.",
  "the plushie {}.",
  "a dark photo of a {}.",
  "itap of a {}.",
  "graffiti of the {}.",
  "a toy {}.",
  "itap of my {}.",
  "a photo of a cool {}.",
  "a photo of a small {}.",
  "a tattoo of the {}.",
] as const;

export const TEMPLATE_SETS: Readonly<Record<string, readonly string[]>> = {
  imagenet: IMAGENET,
  surgery: [
    ...IMAGENET,
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
  ],
  photo: ["a photo of a {}."],
  none: ["{}"],
};

/**
 * A template set by name, or one's own patterns, each with one `{}`.
 *
 * @throws ScclipError VocabularyError: an unknown name, no pattern, or one without exactly one `{}`.
 */
export function loadTemplates(spec: string | readonly string[]): readonly string[] {
  const patterns = typeof spec === "string" ? (Object.hasOwn(TEMPLATE_SETS, spec) ? TEMPLATE_SETS[spec] : []) : spec;
  if (patterns.length === 0) {
    const known = Object.keys(TEMPLATE_SETS).join(", ");
    throw new ScclipError("VocabularyError", `unknown templates '${shorten(String(spec))}': known are ${known}`, "templates");
  }
  for (const pattern of patterns) {
    if (pattern.split("{}").length !== 2) {
      throw new ScclipError(
        "VocabularyError",
        `a template must hold {} exactly once, where the class name goes; got '${shorten(pattern)}'`,
        "templates",
      );
    }
  }
  return patterns;
}

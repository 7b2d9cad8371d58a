/** Prompts around a class name: the sets of scclip_rt/vocabulary/templates.json, which the build puts in here. */

import { ScclipError, shorten } from "./errors.js";
import sets from "../../scclip_rt/vocabulary/templates.json";

export const TEMPLATE_SETS: Readonly<Record<string, readonly string[]>> = {
  ...sets,
  surgery: [...sets.imagenet, ...sets.surgery], // the file has what CLIP Surgery adds
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

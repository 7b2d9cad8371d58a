/** Class lists: from text or a list to names with synonyms (scclip_rt/vocabulary/classes.py). */

import { decodeHTML } from "entities";
import { clean, strip } from "./clean.js";
import { ScclipError, shorten } from "./errors.js";
import type { Vocabulary } from "./vocabulary.js";

/** For each class its names; the first one is the class's. */
export type Classes = readonly (readonly string[])[];

/** Names in text (`cat; dog, puppy`, or a line per class), or a list of such entries or of lists of names. */
export type ClassSource = string | readonly (string | readonly string[])[];

const MAX_NAME = 1000;

function fail(message: string, field = "classes"): never {
  throw new ScclipError("VocabularyError", message, field);
}

/**
 * Read a class list. Spellings that CLIP can't tell apart are one name.
 *
 * @throws ScclipError VocabularyError: empty, an empty name, or a name that two classes claim.
 */
export function parseClasses(source: ClassSource): Classes {
  const classes: string[][] = [];
  const owners = new Map<string, [number, string]>();
  for (const [place, entry] of entriesOf(source)) {
    const unique = new Map<string, string>();
    for (const name of namesOf(entry, place)) {
      const key = clean(name);
      if (!unique.has(key)) unique.set(key, name);
    }
    for (const [key, name] of unique) {
      const [index, where] = owners.get(key) ?? [classes.length, place];
      owners.set(key, [index, where]);
      if (index !== classes.length) {
        fail(`'${shorten(name)}' is in two classes: ${where} and ${place}. Remove it from one of them`);
      }
    }
    classes.push([...unique.values()]);
  }
  if (classes.length === 0) fail("no classes; give a line per class, synonyms after commas");
  return classes;
}

/**
 * Which class is the background: the one that is named, none for "none", else the one called "background", if any.
 *
 * @param classes First names.
 * @throws ScclipError VocabularyError: no class has that name.
 */
export function findBackground(classes: readonly string[], background?: string): number | null {
  const keys = classes.map(clean);
  const wanted = background === undefined ? "background" : clean(background);
  const index = keys.indexOf(wanted);
  if (index >= 0) return index;
  if (background === undefined || wanted === "none") return null;
  return fail(
    `no class is called '${shorten(background)}'. Give a class's first name, or none for no background`, "background");
}

/** The text of a class file without its comments: lines that start with `#`. */
export function withoutComments(text: string): string {
  return text.split(/\r\n|\r|\n/).filter((line) => !strip(line).startsWith("#")).join("\n");
}

function entriesOf(source: ClassSource): [string, string | readonly string[]][] {
  if (typeof source !== "string") return source.map((entry, index) => [`class ${index + 1}`, entry]);
  const parts = source.split("\n").flatMap((line) => unescapeTwice(line).split(";").map(strip).filter((part) => part !== ""));
  return parts.map((part, index) => [`class ${index + 1}`, part]);
}

/** Before the text is split, as entities end in semicolons. */
function unescapeTwice(text: string): string {
  return decodeHTML(decodeHTML(text));
}

function namesOf(entry: string | readonly string[], place: string): string[] {
  const names = (typeof entry === "string" ? unescapeTwice(entry).split(",") : entry).map(strip);
  if (typeof entry === "string" && names.length > 1 && names[names.length - 1] === "") names.pop(); // a trailing comma
  if (names.length === 0 || names.includes("")) fail(`${place} has an empty name: '${shorten(String(entry))}'`);
  for (const name of names) {
    const { length } = [...name];
    if (length > MAX_NAME) {
      fail(`${place}: the class name '${shorten(name)}' is too long: ${length} characters, the limit is ${MAX_NAME}`);
    }
  }
  return names;
}

/** The warning for a vocabulary of one class, which every pixel gets, whatever the picture shows; null for others. */
export function onlyClass({ classes, queries, background }: Pick<Vocabulary, "classes" | "queries" | "background">): string | null {
  if (classes.length !== 1 || background !== null) return null;
  const [name, ...synonyms] = queries.map((query) => shorten(query));
  return synonyms.length === 0
    ? `one class, '${name}', and no background: every pixel will be '${name}'. Name what else there is: "${name}; background"`
    : `one class, '${name}', with ${synonyms.length} synonyms: commas separate synonyms, semicolons or lines separate classes. ` +
        `Every pixel will be '${name}'`;
}

#!/usr/bin/env node
/** The command `scclip-web`: segment pictures with a bundle, in Node. */

import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { existsSync } from "node:fs";
import { basename, extname, join } from "node:path";
import { parseArgs } from "node:util";
import { onlyClass, withoutComments } from "./classes.js";
import { ScclipError, reasonOf } from "./errors.js";
import { loadImage, openSegmenter } from "./node.js";
import type { NumericOption } from "./options.js";
import { paint } from "./overlay.js";
import { labelsPng, rgbPng } from "./png.js";
import { sharesOf, type Segmenter, type DecodeOptions, type Segmentation } from "./segmenter.js";

const USAGE = `Usage: scclip-web BUNDLE IMAGE... [options]

Writes NAME.labels.png (pixel values are class indices) and NAME.overlay.png for each image.

  BUNDLE                    a bundle's folder, or demo
  --classes TEXT            "sky; grass, lawn; dog": semicolons separate classes, commas synonyms
  --classes-file FILE       a line per class instead
  --background NAME         the class that takes what no class claims; none for no such class
  --templates NAME          imagenet, surgery, photo or none; default: the bundle's
  --precision NAME          fp32 (default) or int8
  --whole-image             encode each image in one pass
  --preset NAME             a benchmark of the bundle, whose settings hold where none are given
  --refine NAME             pamr or none; default: the bundle's
  --short-side N  --stride N  --logit-scale X  --prob-threshold X  --area-threshold X  --class-threshold X
  --threads N               default: every CPU
  --output DIR              default: scclip-output
  --force                   write over files that exist
  --json                    print a line of JSON per image`;

const OPTIONS = {
  classes: { type: "string" }, "classes-file": { type: "string" }, background: { type: "string" },
  templates: { type: "string" }, precision: { type: "string" }, "whole-image": { type: "boolean" },
  preset: { type: "string" }, refine: { type: "string" },
  "short-side": { type: "string" }, stride: { type: "string" }, "logit-scale": { type: "string" },
  "prob-threshold": { type: "string" }, "area-threshold": { type: "string" }, "class-threshold": { type: "string" },
  threads: { type: "string" }, output: { type: "string" }, force: { type: "boolean" }, json: { type: "boolean" },
  help: { type: "boolean", short: "h" },
} as const;

type Values = ReturnType<typeof parse>["values"];

function parse(args: string[]) {
  try {
    return parseArgs({ args, options: OPTIONS, allowPositionals: true });
  } catch (error) {
    throw new ScclipError("OptionError", `${reasonOf(error)}; see --help`);
  }
}

/** The numbers among the options, under their names in the library. */
function numbers<Name extends NumericOption>(values: Values, names: readonly Name[]): Partial<Record<Name, number>> {
  const found: Partial<Record<Name, number>> = {};
  for (const name of names) {
    const flag = name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`) as keyof Values;
    const text = values[flag];
    if (text === undefined) continue;
    if (typeof text !== "string" || !/^[-+]?[0-9.]+(e[-+]?[0-9]+)?$/i.test(text)) {
      throw new ScclipError("OptionError", `--${flag} must be a number; got '${text}'`, name);
    }
    found[name] = Number(text);
  }
  return found;
}

async function classesOf(values: Values): Promise<string | undefined> {
  const file = values["classes-file"];
  if (file === undefined) return values.classes;
  if (values.classes !== undefined) {
    throw new ScclipError("OptionError", "give either --classes or --classes-file, and not both", "classes");
  }
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await readFile(file));
    return withoutComments(text);
  } catch (error) {
    throw new ScclipError("VocabularyError", `can't read the class list ${file}: ${reasonOf(error)}`, "classes");
  }
}

/** Write files completely or not at all, and none over another one unless `force`. */
async function write(files: ReadonlyMap<string, Uint8Array>, force: boolean): Promise<void> {
  const existing = [...files.keys()].find((path) => existsSync(path));
  if (existing && !force) throw new ScclipError("OutputError", `${existing} exists; use --force or another --output`, "output");
  for (const [path, bytes] of files) {
    const temporary = `${path}.${process.pid}.part`;
    try {
      await writeFile(temporary, bytes);
      await rename(temporary, path);
    } catch (error) {
      await rm(temporary, { force: true });
      throw new ScclipError("OutputError", `can't write ${path}: ${reasonOf(error)}`, "output");
    }
  }
}

function report(image: string, result: Segmentation, json: boolean): string {
  const shares = sharesOf(result);
  if (json) {
    const { width, height } = result;
    return JSON.stringify({ image, width, height, shares: Object.fromEntries(shares.map(({ name, share }) => [name, share])) });
  }
  return `${image}: ${shares.map(({ name, share }) => `${name} ${(100 * share).toFixed(1)} %`).join(", ")}`;
}

async function segmentOne(segmenter: Segmenter, image: string, values: Values, options: DecodeOptions): Promise<void> {
  const folder = values.output ?? "scclip-output";
  const pixels = await loadImage(image);
  const result = await segmenter.segment(pixels, options);
  await mkdir(folder, { recursive: true });
  const stem = join(folder, basename(image, extname(image)));
  const files = new Map([
    [`${stem}.labels.png`, await labelsPng(result)],
    [`${stem}.overlay.png`, await rgbPng(paint(pixels, result))],
  ]);
  await write(files, values.force ?? false);
  process.stdout.write(`${report(image, result, values.json ?? false)}\n`);
}

async function run(args: string[]): Promise<number> {
  const { values, positionals: [bundle, ...images] } = parse(args);
  if (values.help) {
    process.stdout.write(`${USAGE}\n`);
    return 0;
  }
  if (bundle === undefined || images.length === 0) throw new ScclipError("OptionError", "name a bundle and an image; see --help");
  if (values.background !== undefined && values.classes === undefined && values["classes-file"] === undefined) {
    throw new ScclipError("OptionError", "--background goes with --classes or --classes-file", "background");
  }
  const options: DecodeOptions = {
    ...numbers(values, ["logitScale", "probThreshold", "areaThreshold", "classThreshold"]),
    ...(values.refine === undefined ? {} : { refine: values.refine as "pamr" | "none" }), // it is checked there
  };
  const classes = await classesOf(values);
  const segmenter = await openSegmenter(bundle, {
    ...numbers(values, ["shortSide", "stride", "threads"]),
    ...(values["whole-image"] === undefined ? {} : { wholeImage: values["whole-image"] }),
    ...(values.preset === undefined ? {} : { preset: values.preset }),
    ...(values.precision === undefined ? {} : { precision: values.precision }),
    ...(values.templates === undefined ? {} : { templates: values.templates }),
  });
  if (classes !== undefined) await segmenter.setClasses(classes, values.background);
  const warning = onlyClass(segmenter.vocabulary);
  if (warning) process.stderr.write(`scclip-web: warning: ${warning}\n`);
  let failed = false;
  for (const image of images) {
    try {
      await segmentOne(segmenter, image, values, options);
    } catch (error) {
      tell(error);
      failed = true;
    }
  }
  return failed ? 2 : 0;
}

/** Say what was wrong in one line; what is no error of input is a fault of ours and thrown on. */
function tell(error: unknown): void {
  if (!(error instanceof ScclipError)) throw error;
  process.stderr.write(`scclip-web: ${error.message}\n`);
}

try {
  process.exitCode = await run(process.argv.slice(2));
} catch (error) {
  tell(error);
  process.exitCode = 2;
}

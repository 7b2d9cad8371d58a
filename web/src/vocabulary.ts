/** A vocabulary: classes, and a unit vector for each of their names; from a bundle's file, or embedded here. */

import { findBackground, type Classes } from "./classes.js";
import { ScclipError, shorten } from "./errors.js";
import type { EncodePrompts, Prompt } from "./prompts.js";
import type { Tokenizer } from "./tokenizer.js";

const FORMAT = "scclip-vocabulary/1";
const UNIT_TOLERANCE = 1e-3;
/** Prompts sorted by length together: enough for full batches, and a unit of progress. */
const GROUP_PROMPTS = 512;

export interface Vocabulary {
  /** Queries × width, row by row, unit rows. */
  readonly embeddings: Float32Array;
  /** The first name of each class. */
  readonly classes: readonly string[];
  /** The name that each row embeds. */
  readonly queries: readonly string[];
  readonly queryClass: readonly number[];
  readonly background: number | null;
}

function unsound(name: string, problem: string, field: string): never {
  throw new ScclipError("VocabularyError", `${name}: ${problem}`, field);
}

/**
 * Read a vocabulary file (docs/bundle.md, "Vocabularies").
 *
 * @param name What to call it in messages.
 * @throws ScclipError VocabularyError: damaged, or made by another text model.
 */
export function parseVocabulary(bytes: Uint8Array, textModelSha256: string, width: number, name: string): Vocabulary {
  const [header, start] = safetensorsHeader(bytes, name);
  const metadata = (header["__metadata__"] ?? {}) as Record<string, string>;
  if (metadata["format"] !== FORMAT) unsound(name, `not a vocabulary of format ${FORMAT}`, "format");
  if (metadata["text_model_sha256"] !== textModelSha256) {
    unsound(name, "made by another text model than this bundle's. Make it again with 'scclip embed'", "text_model_sha256");
  }
  const tensor = header["embeddings"] as { dtype: string; shape: number[]; data_offsets: [number, number] } | undefined;
  const rows = tensor?.shape[0] ?? 0;
  const [from, to] = tensor?.data_offsets ?? [0, 0];
  if (tensor?.dtype !== "F32" || tensor.shape.length !== 2 || tensor.shape[1] !== width || to - from !== rows * width * 4) {
    unsound(name, `its embeddings must be float32 of width ${width}`, "embeddings");
  }
  // Copied: the place in the file need not be a multiple of four bytes.
  const embeddings = new Float32Array(new Uint8Array(bytes.subarray(start + from, start + to)).buffer);
  const list = (key: string): unknown[] => {
    try {
      return JSON.parse(metadata[key] ?? "") as unknown[];
    } catch {
      return unsound(name, `its metadata entry '${key}' is not JSON`, key);
    }
  };
  const vocabulary: Vocabulary = {
    embeddings,
    classes: list("classes") as string[],
    queries: list("queries") as string[],
    queryClass: list("query_class") as number[],
    background: JSON.parse(metadata["background"] ?? "null") as number | null,
  };
  checkVocabulary(vocabulary, rows, name);
  return vocabulary;
}

function safetensorsHeader(bytes: Uint8Array, name: string): [Record<string, unknown>, number] {
  try {
    const length = Number(new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true));
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(8, 8 + length));
    return [JSON.parse(text) as Record<string, unknown>, 8 + length];
  } catch {
    return unsound(name, "no safetensors file", "vocabulary");
  }
}

function checkVocabulary({ embeddings, classes, queries, queryClass, background }: Vocabulary, rows: number, name: string): void {
  const strings = [classes, queries].every((items) => Array.isArray(items) && items.every((item) => typeof item === "string"));
  if (!strings || rows < 1 || queries.length !== rows || queryClass.length !== rows) {
    unsound(name, `${rows} embeddings don't fit its queries and classes`, "queries");
  }
  const named = new Set(queryClass);
  if (named.size !== classes.length || ![...named].every((index) => Number.isInteger(index) && index >= 0 && index < classes.length)) {
    unsound(name, "query_class must name each of the classes at least once and no other", "query_class");
  }
  if (background !== null && !(Number.isInteger(background) && background >= 0 && background < classes.length)) {
    unsound(name, `background is class ${background} of ${classes.length}`, "background");
  }
  const width = embeddings.length / rows;
  for (let row = 0; row < rows; row++) {
    const norm = Math.hypot(...embeddings.subarray(row * width, (row + 1) * width));
    if (!(Math.abs(norm - 1) <= UNIT_TOLERANCE)) {
      unsound(name, `the embedding of '${shorten(queries[row])}' isn't a unit vector`, "embeddings");
    }
  }
}

/** What embeds names: rows that were made before are kept. */
export class Embedder {
  private readonly rows = new Map<string, Float32Array>();
  /** The tokens of each template up to the name, without the end token. */
  private readonly heads: readonly (readonly number[])[];

  constructor(
    private readonly encode: EncodePrompts, private readonly tokenizer: Tokenizer,
    private readonly templates: readonly string[], private readonly contextLength: number,
  ) {
    this.heads = templates.map((pattern) => tokenizer.encode(pattern.slice(0, pattern.indexOf("{}"))).slice(0, -1));
  }

  /**
   * Embed a class list: every name in every template, averaged (docs/method.md, §3).
   *
   * @param onName Called with the number of names that are done, and of all that have to be made.
   * @throws ScclipError VocabularyError: a name has no tokens or too many.
   */
  async embed(classes: Classes, background?: string, onName?: (done: number, total: number) => void | Promise<void>): Promise<Vocabulary> {
    const first = classes.map((names) => names[0]);
    const index = findBackground(first, background);
    const queries = classes.flat();
    const missing = [...new Set(queries)].filter((name) => !this.rows.has(name));
    const made = missing.map((name) => ({ name, prompts: this.prompts(name) }));
    const size = Math.max(1, Math.floor(GROUP_PROMPTS / this.templates.length));
    for (let from = 0; from < made.length; from += size) {
      const group = made.slice(from, from + size);
      const vectors = await this.encode(group.flatMap(({ prompts }) => prompts));
      group.forEach(({ name, prompts }, at) =>
        this.rows.set(name, meanOf(name, vectors.slice(at * prompts.length, (at + 1) * prompts.length))));
      await onName?.(from + group.length, made.length);
    }
    const rows = queries.map((name) => this.rows.get(name) as Float32Array);
    const width = rows[0].length;
    const embeddings = new Float32Array(rows.length * width);
    rows.forEach((row, query) => embeddings.set(row, query * width));
    const queryClass = classes.flatMap((names, owner) => names.map(() => owner));
    return { embeddings, classes: first, queries, queryClass, background: index };
  }

  /** One class beside the empty text, called "background": what CLIP Surgery compares a single class with. */
  async alone(names: readonly string[], onName?: (done: number, total: number) => void | Promise<void>): Promise<Vocabulary> {
    const embedded = await this.embed([names, [""]], "none", onName);
    return { ...embedded, classes: [names[0], "background"], background: 1 };
  }

  private prompts(name: string): Prompt[] {
    if (name !== "" && this.tokenizer.encode(name).length <= 2) {
      throw new ScclipError(
        "VocabularyError", `the class name '${shorten(name)}' has nothing that CLIP's tokenizer knows`, "classes");
    }
    const rows = this.templates.map((pattern) => this.tokenizer.encode(pattern.split("{}").join(name)));
    const longest = Math.max(...rows.map((row) => row.length));
    if (longest > this.contextLength) {
      throw new ScclipError(
        "VocabularyError",
        `the class name '${shorten(name)}' is too long: ${longest} tokens in its longest prompt, start and end included; ` +
          `the model takes ${this.contextLength}. Shorten the name`,
        "classes",
      );
    }
    // A name may join with what stands before it, so each prompt is compared with its template's beginning.
    return rows.map((ids, template) => ({ ids, beginning: common(ids, this.heads[template]) }));
  }
}

/** How many leading ids are the same. */
function common(first: readonly number[], second: readonly number[]): number {
  let count = 0;
  while (count < second.length && first[count] === second[count]) count++;
  return count;
}

/** The unit mean of unit vectors. */
function meanOf(name: string, vectors: readonly Float32Array[]): Float32Array {
  const total = new Float64Array(vectors[0].length);
  for (const vector of vectors) {
    const norm = Math.hypot(...vector);
    vector.forEach((value, at) => (total[at] += value / norm));
  }
  const norm = Math.hypot(...total);
  const row = Float32Array.from(total, (value) => value / norm);
  if (row.every(Number.isFinite)) return row;
  throw new ScclipError(
    "VocabularyError", `the text encoder returned NaN or infinity for '${shorten(name)}'; export the bundle again`);
}

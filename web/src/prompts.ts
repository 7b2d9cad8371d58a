/**
 * Prompts to vectors: in batches of like length, and what they begin with only once (scclip_rt/vocabulary/prompts.py).
 *
 * The text tower is causal, so the keys and values of a template's words before the class name are the same for every
 * name. They are computed once and kept; then a prompt costs its name, what follows it and the end token.
 */

import type { Tensor } from "onnxruntime-common";
import type { GraphSpec } from "./manifest.js";
import type { Session } from "./runtime.js";

/** Token ids, start and end included, of which the first `beginning` are the same for other names. */
export interface Prompt {
  readonly ids: readonly number[];
  readonly beginning: number;
}

/** Prompts to a vector each, in their order. */
export type EncodePrompts = (prompts: readonly Prompt[]) => Promise<Float32Array[]>;

/** Tokens (rows, length) to embeddings (rows, width). */
export type EncodeText = (tokens: BigInt64Array, rows: number, length: number) => Promise<Float32Array>;

const WHOLE_BATCH = 64;
/** Prompts that are resumed together, and the most beginnings that are kept. */
const BATCH = 128;
/** Tokens that may be added to a batch to fill it up; more cost more than another batch does. */
const PADDING = 64;
/** Tokens of a beginning that are kept; what is longer is computed again, which is as exact. */
const LONGEST_BEGINNING = 16;

/** Encode prompts from their first to their last token. */
export function wholePrompts(encode: EncodeText): EncodePrompts {
  return (prompts) =>
    inBatches(prompts, WHOLE_BATCH, ({ ids }) => ids.length, (part) => {
      const [tokens, length] = padded(part.map(({ ids }) => ids));
      return encode(tokens, part.length, length);
    });
}

async function inBatches(
  prompts: readonly Prompt[], batch: number, length: (prompt: Prompt) => number, encode: (part: Prompt[]) => Promise<Float32Array>,
): Promise<Float32Array[]> {
  const order = prompts.map((_, index) => index).sort((a, b) => length(prompts[a]) - length(prompts[b]) || a - b);
  const vectors: Float32Array[] = new Array(prompts.length);
  for (let from = 0, to = 0; from < order.length; from = to) {
    const shortest = length(prompts[order[from]]);
    while (to < order.length && to - from < batch && (to - from) * (length(prompts[order[to]]) - shortest) <= PADDING) to++;
    const part = order.slice(from, to);
    const rows = await encode(part.map((index) => prompts[index]));
    const width = rows.length / part.length;
    part.forEach((index, row) => (vectors[index] = rows.slice(row * width, (row + 1) * width)));
  }
  return vectors;
}

/** Token rows, zeros behind, and their length. */
function padded(rows: readonly (readonly number[])[]): [BigInt64Array, number] {
  const length = Math.max(...rows.map((ids) => ids.length));
  const tokens = new BigInt64Array(rows.length * length);
  rows.forEach((ids, row) => ids.forEach((id, place) => (tokens[row * length + place] = BigInt(id))));
  return [tokens, length];
}

/** How many tokens of a prompt are taken from its beginning; the last one is always computed. */
function knownOf({ ids, beginning }: Prompt): number {
  return Math.min(beginning, LONGEST_BEGINNING, ids.length - 1);
}

/** Keys and values of beginnings: (layers · 2, beginnings, heads, tokens, width), padded to the longest. */
interface Known {
  readonly values: Float32Array;
  readonly lengths: readonly number[];
  readonly tokens: number;
}

/** Encode prompts by the graph that goes on from known beginnings (docs/bundle.md, "Resumed text encoder"). */
export function resumedPrompts(session: Session, spec: GraphSpec): EncodePrompts {
  const beginnings = new Beginnings(session, spec);
  return (prompts) => inBatches(prompts, BATCH, (prompt) => prompt.ids.length - knownOf(prompt), (part) => beginnings.resume(part));
}

class Beginnings {
  private readonly layers: number;
  private readonly heads: number;
  private readonly width: number;
  private readonly place = new Map<string, number>();
  private known: Known = { values: new Float32Array(0), lengths: [], tokens: 0 };

  constructor(private readonly session: Session, { inputs }: GraphSpec) {
    const shape = inputs.find((tensor) => tensor.name === "past")?.shape ?? [];
    [this.layers, this.heads, this.width] = [shape[0], shape[3], shape[5]].map(Number);
  }

  async resume(prompts: readonly Prompt[]): Promise<Float32Array> {
    const beginnings = prompts.map((prompt) => prompt.ids.slice(0, knownOf(prompt)));
    await this.learn(beginnings);
    const [tokens, length] = padded(prompts.map((prompt) => prompt.ids.slice(knownOf(prompt))));
    const places = beginnings.map((ids) => BigInt(this.place.get(ids.join()) as number));
    const inputs = this.inputs(tokens, prompts.length, length, this.known, BigInt64Array.from(places));
    return this.session.run(inputs, "embeddings");
  }

  /** Compute what is not known yet; where it would be too much, what is known is forgotten first. */
  private async learn(beginnings: readonly (readonly number[])[]): Promise<void> {
    const unknown = (): number[][] =>
      [...new Map(beginnings.map((ids) => [ids.join(), [...ids]])).values()].filter((ids) => !this.place.has(ids.join()));
    let added = unknown();
    if (added.length === 0) return;
    if (this.place.size + added.length > BATCH) {
      this.place.clear();
      this.known = { values: new Float32Array(0), lengths: [], tokens: 0 };
      added = unknown();
    }
    const [tokens, length] = padded(added);
    const nothing: Known = { values: new Float32Array(this.size(1, 1)), lengths: [0], tokens: 1 };
    const names = Array.from({ length: this.layers }, (_, layer) => [`present.${layer}.key`, `present.${layer}.value`]).flat();
    const parts = await this.session.runFor(this.inputs(tokens, added.length, length, nothing, new BigInt64Array(added.length)), names);
    const values = new Float32Array(this.size(added.length, length));
    parts.forEach((part, index) => values.set(part, index * part.length));
    this.known = this.joined(this.known, { values, lengths: added.map((ids) => ids.length), tokens: length });
    for (const ids of added) this.place.set(ids.join(), this.place.size);
  }

  private joined(first: Known, second: Known): Known {
    const tokens = Math.max(first.tokens, second.tokens);
    const lengths = [...first.lengths, ...second.lengths];
    const values = new Float32Array(this.size(lengths.length, tokens));
    let to = 0;
    for (let part = 0; part < 2 * this.layers; part++) {
      for (const known of [first, second]) {
        const run = known.tokens * this.width;
        for (let head = 0; head < known.lengths.length * this.heads; head++, to += tokens * this.width) {
          const from = (part * known.lengths.length * this.heads + head) * run;
          values.set(known.values.subarray(from, from + run), to);
        }
      }
    }
    return { values, lengths, tokens };
  }

  private size(beginnings: number, tokens: number): number {
    return 2 * this.layers * beginnings * this.heads * tokens * this.width;
  }

  private inputs(tokens: BigInt64Array, rows: number, length: number, known: Known, places: BigInt64Array): Record<string, Tensor> {
    const { session, layers, heads, width } = this;
    const count = known.lengths.length;
    return {
      tokens: session.tensor("int64", tokens, [rows, length]),
      past: session.tensor("float32", known.values, [layers, 2, count, heads, known.tokens, width]),
      past_lengths: session.tensor("int64", BigInt64Array.from(known.lengths, BigInt), [count]),
      beginnings: session.tensor("int64", places, [rows]),
    };
  }
}

/** CLIP's byte-pair tokenizer, read from a bundle's tokenizer.json: from text to token ids, as open_clip makes them. */

import { clean } from "./clean.js";
import { ScclipError, reasonOf, shorten } from "./errors.js";

const START = "<start_of_text>";
const END = "<end_of_text>";
const SUFFIX = "</w>";
/** The exporter's pattern; WORDS cuts clean text as it does. */
const PATTERN = "<start_of_text>|<end_of_text>|(?i:'s|'t|'re|'ve|'m|'ll|'d)|\\p{L}+|\\p{N}|[^\\s\\p{L}\\p{N}]+";
const WORDS = /'[sſtmd]|'re|'ve|'ll|\p{L}+|\p{N}|[^ \p{L}\p{N}]+/gu;

/** The characters that stand for bytes in the vocabulary: printable Latin-1 for itself, the others from U+0100. */
const BYTE_NAMES: readonly string[] = (() => {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const plain = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    return String.fromCodePoint(plain ? byte : next++);
  });
})();

interface TokenizerFile {
  readonly pre_tokenizer: { readonly pretokenizers: readonly { readonly type: string; readonly pattern?: { readonly Regex: string } }[] };
  readonly model: {
    readonly type: string;
    readonly end_of_word_suffix: string;
    readonly vocab: Readonly<Record<string, number>>;
    readonly merges: readonly (string | readonly [string, string])[];
  };
}

export class Tokenizer {
  private readonly utf8 = new TextEncoder();
  private readonly words = new Map<string, readonly number[]>();

  private constructor(private readonly ids: ReadonlyMap<string, number>, private readonly ranks: ReadonlyMap<string, number>) {}

  /**
   * @param json The contents of tokenizer.json.
   * @throws ScclipError BundleError: it isn't CLIP's tokenizer.
   */
  static parse(json: string): Tokenizer {
    try {
      const { model, pre_tokenizer: cutting } = JSON.parse(json) as TokenizerFile;
      const [split, bytes] = cutting.pretokenizers;
      if (
        model.type !== "BPE" || model.end_of_word_suffix !== SUFFIX ||
        split?.pattern?.Regex !== PATTERN || bytes?.type !== "ByteLevel"
      ) {
        throw new Error("it is not CLIP's");
      }
      const ids = new Map(Object.entries(model.vocab));
      const ranks = new Map(model.merges.map((pair, rank) => [typeof pair === "string" ? pair : pair.join(" "), rank]));
      const needed = [START, END, ...BYTE_NAMES, ...BYTE_NAMES.map((name) => name + SUFFIX)];
      if (!needed.every((name) => Number.isSafeInteger(ids.get(name)))) {
        throw new Error("its vocabulary lacks bytes, or the start or the end of a text");
      }
      return new Tokenizer(ids, ranks);
    } catch (error) {
      throw new ScclipError(
        "BundleError", `the tokenizer can't be used: ${reasonOf(error)}; export the bundle again`, "tokenizer.json");
    }
  }

  /** Token ids of a text, start and end included, of any length. */
  encode(text: string): number[] {
    const cleaned = clean(text);
    if (cleaned.includes(START) || cleaned.includes(END)) {
      throw new ScclipError(
        "VocabularyError", `the name '${shorten(text)}' holds a mark of the tokenizer's own`, "classes");
    }
    return [this.id(START), ...(cleaned.match(WORDS) ?? []).flatMap((word) => this.word(word)), this.id(END)];
  }

  private id(token: string): number {
    const found = this.ids.get(token);
    if (found !== undefined) return found;
    throw new ScclipError("BundleError", "the tokenizer makes a token that its vocabulary lacks", "tokenizer.json");
  }

  private word(word: string): readonly number[] {
    const known = this.words.get(word);
    if (known) return known;
    const parts = Array.from(this.utf8.encode(word), (byte) => BYTE_NAMES[byte]);
    parts[parts.length - 1] += SUFFIX;
    while (parts.length > 1) {
      let best = Infinity;
      let at = 0;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
        if (rank < best) [best, at] = [rank, i];
      }
      if (best === Infinity) break;
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
    const ids = parts.map((part) => this.id(part));
    this.words.set(word, ids);
    return ids;
  }
}

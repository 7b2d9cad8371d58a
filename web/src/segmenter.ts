/** `Segmenter`: a bundle and a vocabulary, ready to turn pictures into label maps. */

import { Bundle, type BundleSource, type Graph, type OnProgress } from "./bundle.js";
import { findBackground, parseClasses, type ClassSource } from "./classes.js";
import { decode, type Decoded, type Encoded } from "./decode.js";
import { ScclipError } from "./errors.js";
import { MAX_PIXELS, MAX_WINDOWS, tilingOf, type Size, type TilingOptions } from "./geometry.js";
import type { EncoderSpec } from "./manifest.js";
import { inRange, type NumericOption } from "./options.js";
import { cutWindows, resize, type Pixels } from "./resize.js";
import { Session, type RuntimeOptions } from "./runtime.js";
import { loadTemplates } from "./templates.js";
import { Tokenizer } from "./tokenizer.js";
import { Embedder, parseVocabulary, type Vocabulary } from "./vocabulary.js";

/** Windows encoded at once, in patches: as the Python runtime on a CPU. */
const BATCH_PATCHES = 8 * 196;

/** Between the features of a window on a GPU and on the processor. */
const LEAST_COSINE = 0.999;
/** Others need a GPU, or are slower than fp32 on a CPU. */
const RUNS_HERE: readonly string[] = ["fp32", "int8"];

export interface SegmenterOptions extends RuntimeOptions {
  /** `fp32` or `int8`. */
  readonly precision?: string;
  /** Encode the image in one pass instead of windows, with an encoder exported for that. */
  readonly wholeImage?: boolean;
  /** The short side images are resized to, pixels; default: the bundle's. */
  readonly shortSide?: number;
  /** Distance between windows, pixels; default: the bundle's. */
  readonly stride?: number;
  readonly maxPixels?: number;
  readonly maxWindows?: number;
  /** Prompt templates: `imagenet`, `surgery`, `photo`, `none`, or one's own patterns. */
  readonly templates?: string | readonly string[];
  /** Called while files of the bundle come. */
  readonly onProgress?: OnProgress;
}

export interface DecodeOptions {
  readonly logitScale?: number;
  readonly probThreshold?: number;
  readonly areaThreshold?: number;
  readonly classThreshold?: number;
  /** Also give each pixel's probability. */
  readonly confidence?: boolean;
}

/** A label map and what its numbers mean. */
export interface Segmentation extends Decoded {
  readonly width: number;
  readonly height: number;
  /** Names; `labels` holds indices into them. */
  readonly classes: readonly string[];
  readonly background: number | null;
}

/** Called with the number of windows, or names, that are done, and of all. */
export type OnStep = (done: number, total: number) => void;

/** A class and its part of a picture; `label` may be the value of unlabelled pixels. */
export interface Share {
  readonly label: number;
  readonly name: string;
  readonly share: number;
}

/** The share of all pixels of each class that is present, largest first. */
export function sharesOf({ labels, classes }: Segmentation): Share[] {
  const counts = new Map<number, number>();
  for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  return [...counts]
    .sort((a, b) => b[1] - a[1] || a[0] - b[0])
    .map(([label, count]) => ({ label, name: classes[label] ?? "(unlabelled)", share: count / labels.length }));
}

/**
 * Open-vocabulary segmentation with one bundle.
 *
 * @example
 * const segmenter = await Segmenter.open(fetchBundle("demo.scclip/"), { ort, provider: "wasm" });
 * await segmenter.setClasses("sky; grass, lawn; dog, puppy");
 * const result = await segmenter.segment(imageData);
 */
export class Segmenter {
  private chosen: Vocabulary | null = null;
  private embedder: Embedder | null = null;
  private textEncoder: Session | null = null;

  private constructor(
    readonly bundle: Bundle, private readonly spec: EncoderSpec, private readonly encoder: Session,
    private readonly geometry: TilingOptions, private readonly options: SegmenterOptions,
  ) {}

  /**
   * Open a bundle, load its encoder, and take its ready vocabulary if it carries one.
   *
   * @throws ScclipError What is wrong with the bundle or an option.
   */
  static async open(source: BundleSource, options: SegmenterOptions): Promise<Segmenter> {
    const bundle = await Bundle.open(source, options.onProgress);
    const spec = chooseEncoder(bundle, options.precision ?? "fp32", options.wholeImage ?? false);
    const geometry = tilingOptions(bundle, spec, options);
    const templates = loadTemplates(options.templates ?? "imagenet");
    const graph = await bundle.graph(spec.file);
    const encoder = await Session.load(graph, spec, options);
    if (options.provider === "webgpu") await compareWithProcessor(encoder, graph, spec, geometry, options);
    const segmenter = new Segmenter(bundle, spec, encoder, geometry, { ...options, templates });
    const [ready] = bundle.manifest.vocabularies;
    if (ready !== undefined) segmenter.vocabulary = segmenter.readVocabulary(await bundle.read(ready), ready);
    return segmenter;
  }

  /** Whether there are classes: the bundle's own, or those that were set. */
  get hasVocabulary(): boolean {
    return this.chosen !== null;
  }

  /**
   * The vocabulary in use.
   *
   * @throws ScclipError VocabularyError: none was given yet.
   */
  get vocabulary(): Vocabulary {
    if (this.chosen) return this.chosen;
    throw new ScclipError("VocabularyError", "no classes yet; call setClasses first", "classes");
  }

  set vocabulary(vocabulary: Vocabulary) {
    this.chosen = vocabulary;
  }

  /** The precision of the encoder in use. */
  get precision(): string {
    return this.spec.precision;
  }

  /**
   * Look for these classes from now on; names that were embedded before cost nothing.
   *
   * @param background Name of the class that takes what no class claims, `none` for no such class.
   * @throws ScclipError VocabularyError: empty, ambiguous, or no such background class.
   */
  async setClasses(classes: ClassSource, background?: string, onName?: OnStep): Promise<void> {
    const parsed = parseClasses(classes);
    findBackground(parsed.map((names) => names[0]), background); // a misspelt name shows before the text encoder loads
    this.embedder ??= await this.openEmbedder();
    this.chosen = await this.embedder.embed(parsed, background, onName);
  }

  /**
   * A vocabulary from a file that `scclip embed` wrote, to be assigned to `vocabulary`.
   *
   * @throws ScclipError VocabularyError: damaged, or of another model.
   */
  readVocabulary(bytes: Uint8Array, name: string): Vocabulary {
    const { textEncoder, embedDim } = this.bundle.manifest;
    return parseVocabulary(bytes, textEncoder.modelSha256, embedDim, name);
  }

  /**
   * Segment one picture.
   *
   * @param image RGB, or RGBA whose alpha is not looked at; a browser's `ImageData` is one.
   * @throws ScclipError ImageError: too large.
   */
  async segment(image: Pixels, options: DecodeOptions = {}, onWindow?: OnStep): Promise<Segmentation> {
    // The graph's own products with the vocabulary are faster than any here.
    return this.decode(await this.run(image, "logits", this.vocabulary, onWindow), options);
  }

  /** Dense features of a picture, for `decode` with any number of vocabularies. */
  async encode(image: Pixels, onWindow?: OnStep): Promise<Encoded> {
    return this.run(image, "features", { embeddings: new Float32Array(this.bundle.manifest.embedDim), queries: [""] }, onWindow);
  }

  private async run(
    image: Pixels, output: "features" | "logits", { embeddings, queries }: Pick<Vocabulary, "embeddings" | "queries">, onWindow?: OnStep,
  ): Promise<Encoded> {
    const shape: Size = [image.height, image.width];
    const tiling = tilingOf(shape, this.geometry);
    const resized = resize(image, tiling.size);
    const starts = tiling.rows.flatMap((top) => tiling.columns.map((left) => [top, left] as const));
    const { patchSize, embedDim } = this.bundle.manifest;
    const grid: Size = [tiling.window[0] / patchSize, tiling.window[1] / patchSize];
    const [kind, width] = output === "features" ? (["features", embedDim] as const) : (["cosines", queries.length] as const);
    const length = grid[0] * grid[1] * width;
    const values = new Float32Array(starts.length * length);
    const batch = Math.max(1, Math.floor(BATCH_PATCHES / (grid[0] * grid[1])));
    const text = this.encoder.tensor("float32", embeddings, [queries.length, embedDim]);
    for (let from = 0; from < starts.length; from += batch) {
      const part = starts.slice(from, from + batch);
      const pixels = cutWindows(resized, part, tiling.window);
      const windows = this.encoder.tensor("uint8", pixels, [part.length, ...tiling.window, 3]);
      values.set(await this.encoder.run({ windows, text }, output), from * length);
      onWindow?.(from + part.length, starts.length);
    }
    return { kind, values, width, grid, tiling, shape };
  }

  /** Label an encoded picture with the vocabulary in use. */
  decode(encoded: Encoded, options: DecodeOptions = {}): Segmentation {
    const { embeddings, classes, queryClass, background } = this.vocabulary;
    const defaults = this.bundle.manifest.decoding;
    const number = (name: NumericOption, given: number | undefined, fallback: number): number =>
      given === undefined ? fallback : inRange(name, given);
    const decoded = decode(encoded, embeddings, {
      queryClass,
      numClasses: classes.length,
      logitScale: number("logitScale", options.logitScale, defaults.logitScale),
      probThreshold: number("probThreshold", options.probThreshold, defaults.probThreshold),
      areaThreshold: number("areaThreshold", options.areaThreshold, defaults.areaThreshold),
      classThreshold: number("classThreshold", options.classThreshold, 0),
      background,
      confidence: options.confidence ?? false,
    });
    return { ...decoded, height: encoded.shape[0], width: encoded.shape[1], classes, background };
  }

  /** Give the memory of both encoders back; `decode` alone still works. */
  async close(): Promise<void> {
    await this.encoder.release();
    await this.textEncoder?.release();
    this.textEncoder = this.embedder = null;
  }

  private async openEmbedder(): Promise<Embedder> {
    const { textEncoder, tokenizer } = this.bundle.manifest;
    const words = Tokenizer.parse(new TextDecoder().decode(await this.bundle.read(tokenizer)));
    // Not on a GPU: prompts are short, and int64 is not for all of its kernels.
    const runtime = this.options.provider === "webgpu" ? { ...this.options, provider: "wasm" as const } : this.options;
    const session = await Session.load(await this.bundle.graph(textEncoder.file), textEncoder, runtime);
    this.textEncoder = session;
    return new Embedder(
      (tokens, rows, length) => session.run({ tokens: session.tensor("int64", tokens, [rows, length]) }, "embeddings"),
      words, this.options.templates as readonly string[], textEncoder.contextLength,
    );
  }
}

/**
 * Run one window on the GPU and on the processor: drivers and kernels differ, and a wrong map looks like a map.
 *
 * @throws ScclipError BackendError: they don't agree.
 */
async function compareWithProcessor(
  encoder: Session, graph: Graph, spec: EncoderSpec, { window, patch }: TilingOptions, options: SegmenterOptions,
): Promise<void> {
  const width = spec.inputs.find((tensor) => tensor.name === "text")?.shape[1] as number;
  const side = spec.grid.kind === "dynamic" ? Math.ceil(window / patch) * patch : window;
  const [rows, columns] = spec.grid.kind === "fixed" ? [spec.grid.rows * patch, spec.grid.columns * patch] : [side, side];
  const pixels = Uint8Array.from({ length: rows * columns * 3 }, (_, at) => 128 + 90 * Math.sin(at / 7) + 30 * Math.sin(at / 997));
  const features = (session: Session): Promise<Float32Array> =>
    session.run({
      windows: session.tensor("uint8", pixels, [1, rows, columns, 3]),
      text: session.tensor("float32", new Float32Array(width), [1, width]),
    }, "features");
  const processor = await Session.load(graph, spec, { ...options, provider: "wasm" });
  const [found, wanted] = [await features(encoder), await features(processor)];
  await processor.release();
  const product = (a: Float32Array, b: Float32Array): number => a.reduce((sum, value, at) => sum + value * b[at], 0);
  const cosine = product(found, wanted) / Math.sqrt(product(found, found) * product(wanted, wanted));
  if (!(cosine >= LEAST_COSINE)) {
    throw new ScclipError(
      "BackendError",
      `this GPU gives other features than the processor (cosine ${cosine.toFixed(4)}): let the model run on the processor`,
      "provider",
    );
  }
}

function chooseEncoder(bundle: Bundle, precision: string, whole: boolean): EncoderSpec {
  const ofGrid = bundle.manifest.encoders.filter(
    ({ grid, runsOn }) => (grid.kind !== "window") === whole && runsOn.includes("cpu"));
  const known = ofGrid.map((encoder) => encoder.precision).filter((name) => RUNS_HERE.includes(name));
  const found = ofGrid.find((encoder) => encoder.precision === precision && known.includes(precision));
  if (found) return found;
  const what = whole ? "encoder for whole images" : "encoder for windows";
  throw new ScclipError(
    "BackendError",
    `${bundle.source.name} has no ${what} in precision '${precision}' that runs here; it has: ${known.join(", ") || "none"}`,
    "precision",
  );
}

function tilingOptions(bundle: Bundle, spec: EncoderSpec, options: SegmenterOptions): TilingOptions {
  const { preprocessing, patchSize } = bundle.manifest;
  const geometry: TilingOptions = {
    grid: spec.grid,
    patch: patchSize,
    window: preprocessing.window,
    longSide: preprocessing.longSide,
    stride: options.stride === undefined ? preprocessing.stride : inRange("stride", options.stride),
    shortSide: options.shortSide === undefined ? preprocessing.shortSide : inRange("shortSide", options.shortSide),
    maxPixels: options.maxPixels === undefined ? MAX_PIXELS : inRange("maxPixels", options.maxPixels),
    maxWindows: options.maxWindows === undefined ? MAX_WINDOWS : inRange("maxWindows", options.maxWindows),
  };
  if (geometry.stride > geometry.window) {
    throw new ScclipError(
      "OptionError",
      `a stride of ${geometry.stride} leaves gaps between windows of ${geometry.window} pixels; use ${geometry.window} or less`,
      "stride",
    );
  }
  return geometry;
}

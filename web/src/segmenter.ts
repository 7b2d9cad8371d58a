/** `Segmenter`: a bundle and a vocabulary, ready to turn pictures into label maps. */

import { Bundle, type BundleSource, type Graph, type OnProgress } from "./bundle.js";
import { findBackground, parseClasses, type ClassSource } from "./classes.js";
import { decode, type Decoded, type Encoded } from "./decode.js";
import { loadEncoder, type Encoder, type Windows, type Workers } from "./encoder.js";
import { closedError, ScclipError } from "./errors.js";
import { gridOf, MAX_PIXELS, MAX_WINDOWS, tilingOf, type Size, type Tiling, type TilingOptions } from "./geometry.js";
import type { BenchmarkSpec, EncoderSpec } from "./manifest.js";
import { inRange, type NumericOption } from "./options.js";
import { pixelWeights } from "./pamr.js";
import { resumedPrompts, wholePrompts } from "./prompts.js";
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
  /** Name of a benchmark of the bundle, whose settings hold where none are given. */
  readonly preset?: string;
  /** The short side images are resized to, pixels; default: the bundle's. */
  readonly shortSide?: number;
  /** Distance between windows, pixels; default: the bundle's. */
  readonly stride?: number;
  readonly maxPixels?: number;
  readonly maxWindows?: number;
  /** Prompt templates: `imagenet`, `surgery`, `photo`, `none`, or one's own patterns; default: the bundle's. */
  readonly templates?: string | readonly string[];
  /** Encode windows in these, each on a thread of its own, where the weights are small enough to be held by each (`openSegmenter` of Node). */
  readonly workers?: Workers;
  /** Called while files of the bundle come. */
  readonly onProgress?: OnProgress;
}

export interface DecodeOptions {
  readonly logitScale?: number;
  readonly probThreshold?: number;
  readonly areaThreshold?: number;
  readonly classThreshold?: number;
  /** `pamr` follows the image's edges more closely, at some cost; default: the bundle's. */
  readonly refine?: "pamr" | "none";
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

/** Called with the number of windows, or names, that are done, and of all; what it throws ends the work. */
export type OnStep = (done: number, total: number) => void | Promise<void>;

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
  /** Loaded when the first names come. */
  private text: Promise<{ readonly embedder: Embedder; readonly session: Session }> | null = null;
  /** For windows of another size than the bundle's, where the method pads; loaded when one comes. */
  private anySize: Promise<Encoder> | null = null;
  private closing: Promise<void> | null = null;

  private constructor(
    readonly bundle: Bundle, private readonly spec: EncoderSpec, private readonly encoder: Encoder,
    private readonly geometry: TilingOptions, private readonly options: SegmenterOptions, private readonly preset: BenchmarkSpec,
  ) {}

  /**
   * Open a bundle, load its encoder, and take its ready vocabulary if it carries one.
   *
   * @throws ScclipError What is wrong with the bundle or an option.
   */
  static async open(source: BundleSource, options: SegmenterOptions): Promise<Segmenter> {
    const bundle = await Bundle.open(source, options.onProgress);
    const preset = presetOf(bundle, options.preset);
    const whole = options.wholeImage ?? preset.wholeImage ?? false;
    if (whole && options.stride !== undefined) {
      throw new ScclipError(
        "OptionError", "a stride goes with windows: the image is encoded in one pass; leave one of them out", "stride",
      );
    }
    const spec = chooseEncoder(bundle, options.precision ?? "fp32", whole);
    const geometry = tilingOptions(bundle, spec, { ...preset, ...given(options) });
    const templates = loadTemplates(options.templates ?? bundle.manifest.decoding.templates);
    const graph = await bundle.graph(spec.file);
    const encoder = await loadEncoder(graph, spec, options, spec.grid.kind === "window" ? options.workers : undefined);
    if (options.provider === "webgpu") await compareWithProcessor(encoder, graph, spec, geometry, options);
    const segmenter = new Segmenter(bundle, spec, encoder, geometry, { ...options, templates }, preset);
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
   * @throws ScclipError VocabularyError: empty, ambiguous, or no such background class; BackendError: closed.
   */
  async setClasses(classes: ClassSource, background?: string, onName?: OnStep): Promise<void> {
    this.checkOpen();
    const parsed = parseClasses(classes);
    // A misspelt name shows before the text encoder loads.
    const index = findBackground(parsed.map((names) => names[0]), background);
    this.text ??= this.openEmbedder();
    const { embedder } = await this.text.catch((error: unknown) => {
      this.text = null; // a lost connection may come back
      throw error;
    });
    if (parsed.length === 1 && index === null && background === undefined && this.bundle.manifest.decoding.classWeighting === "surgery") {
      this.chosen = await embedder.alone(parsed[0], onName);
    } else {
      this.chosen = await embedder.embed(parsed, background, onName);
    }
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
   * @throws ScclipError ImageError: too large; BackendError: closed, also while it runs.
   */
  async segment(image: Pixels, options: DecodeOptions = {}, onWindow?: OnStep): Promise<Segmentation> {
    // The graph's own products with the vocabulary are faster than any here; class weights need the features.
    const output = this.bundle.manifest.decoding.classWeighting === "none" ? "logits" : "features";
    return this.decode(await this.run(image, output, this.vocabulary, onWindow), options);
  }

  /** Dense features of a picture, for `decode` with any number of vocabularies. */
  async encode(image: Pixels, onWindow?: OnStep): Promise<Encoded> {
    return this.run(image, "features", { embeddings: new Float32Array(this.bundle.manifest.embedDim), queries: [""] }, onWindow);
  }

  private async run(
    image: Pixels, output: "features" | "logits", { embeddings, queries }: Pick<Vocabulary, "embeddings" | "queries">, onWindow?: OnStep,
  ): Promise<Encoded> {
    this.checkOpen();
    const shape: Size = [image.height, image.width];
    const tiling = tilingOf(shape, this.geometry);
    const grid = gridOf(tiling, this.geometry);
    const encoder = await this.encoderFor(tiling);
    const resized = resize(image, tiling.size);
    const starts = tiling.rows.flatMap((top) => tiling.columns.map((left) => [top, left] as const));
    const { embedDim, decoding } = this.bundle.manifest;
    const [kind, width] = output === "features" ? (["features", embedDim] as const) : (["cosines", queries.length] as const);
    const length = grid[0] * grid[1] * width;
    const classLength = decoding.classWeighting === "none" ? 0 : width; // a row before those of the patches
    const values = new Float32Array(starts.length * length);
    const classFeatures = new Float32Array(starts.length * classLength);
    const batch = Math.max(1, Math.floor(BATCH_PATCHES / (grid[0] * grid[1])));
    const encode = async (first: number, end: number): Promise<void> => {
      const part = starts.slice(first, end);
      const pixels = cutWindows(resized, part, tiling.input);
      const rows = await encoder.encode({ pixels, shape: [part.length, ...tiling.input], text: embeddings, queries: queries.length, output });
      part.forEach((_, index) => {
        const start = index * (classLength + length);
        classFeatures.set(rows.subarray(start, start + classLength), (first + index) * classLength);
        values.set(rows.subarray(start + classLength, start + classLength + length), (first + index) * length);
      });
    };
    for (let from = 0; from < starts.length; from += batch) {
      const count = Math.min(batch, starts.length - from);
      const parts = Math.min(encoder.parts, count);
      const edge = (part: number): number => from + Math.floor((count * part) / parts);
      await Promise.all(Array.from({ length: parts }, (_, part) => encode(edge(part), edge(part + 1))));
      await onWindow?.(from + count, starts.length);
    }
    return { kind, values, width, grid, tiling, shape, resized, classFeatures: classLength > 0 ? classFeatures : null };
  }

  /** The encoder that takes a tiling's windows: of the bundle's size, or where the method pads any smaller one. */
  private async encoderFor({ input: [height, width] }: Tiling): Promise<Encoder> {
    const { grid, padding, window } = this.geometry;
    if (grid.kind !== "window" || padding === "none" || (height === window && width === window)) return this.encoder;
    this.anySize ??= (async () => {
      const spec = chooseEncoder(this.bundle, this.spec.precision, true);
      return loadEncoder(await this.bundle.graph(spec.file), spec, this.options, undefined);
    })();
    return this.anySize.catch((error: unknown) => {
      this.anySize = null; // a lost connection may come back
      throw error;
    });
  }

  /** Label an encoded picture with the vocabulary in use. */
  decode(encoded: Encoded, options: DecodeOptions = {}): Segmentation {
    const { embeddings, queries, classes, queryClass, background } = this.vocabulary;
    const { preprocessing, decoding } = this.bundle.manifest;
    const { classFeatures } = encoded;
    const number = (name: NumericOption & keyof DecodeOptions, fallback: number): number => {
      const value = options[name];
      return value === undefined ? fallback : inRange(name, value);
    };
    const refine = options.refine ?? decoding.refine ?? "none";
    checkRefinement(refine, decoding.maps);
    const rest = this.preset.restClass ?? decoding.restClass;
    // The empty text stands for what a single class is compared with, without weights.
    const weights = classFeatures && !queries.includes("") ? classWeights(classFeatures, embeddings, encoded.width) : null;
    const decoded = decode(encoded, weights ? embeddings.map((value, at) => value * weights[Math.floor(at / encoded.width)]) : embeddings, {
      queryClass,
      numClasses: classes.length,
      logitScale: number("logitScale", this.preset.logitScale ?? decoding.logitScale),
      probThreshold: number("probThreshold", this.preset.probThreshold ?? decoding.probThreshold),
      areaThreshold: number("areaThreshold", this.preset.areaThreshold ?? decoding.areaThreshold),
      classThreshold: number("classThreshold", 0),
      background: background ?? (rest !== null && rest < classes.length ? rest : null),
      confidence: options.confidence ?? false,
      maps: decoding.maps,
      refine: refine === "pamr" ? pixelWeights(encoded.resized, encoded.shape, preprocessing.mean, preprocessing.std) : null,
    });
    return { ...decoded, height: encoded.shape[0], width: encoded.shape[1], classes, background };
  }

  /** Give the memory of the encoders back; `decode` alone still works. What is under way is refused. */
  close(): Promise<void> {
    this.closing ??= this.release();
    return this.closing;
  }

  private async release(): Promise<void> {
    await Promise.all([
      this.encoder.release(),
      this.anySize?.then((encoder) => encoder.release(), () => {}), // one that failed to load holds nothing
      this.text?.then(({ session }) => session.release(), () => {}),
    ]);
  }

  private checkOpen(): void {
    if (this.closing) throw closedError();
  }

  private async openEmbedder(): Promise<{ embedder: Embedder; session: Session }> {
    const { textEncoder, tokenizer } = this.bundle.manifest;
    const words = Tokenizer.parse(new TextDecoder().decode(await this.bundle.read(tokenizer)));
    // Not on a GPU: prompts are short, and int64 is not for all of its kernels.
    const runtime = this.options.provider === "webgpu" ? { ...this.options, provider: "wasm" as const } : this.options;
    const graph = textEncoder.resumed ?? textEncoder;
    const session = await Session.load(await this.bundle.graph(graph.file), graph, runtime);
    const encode = textEncoder.resumed
      ? resumedPrompts(session, textEncoder.resumed)
      : wholePrompts((tokens, rows, length) => session.run({ tokens: session.tensor("int64", tokens, [rows, length]) }, "embeddings"));
    return { embedder: new Embedder(encode, words, this.options.templates as readonly string[], textEncoder.contextLength), session };
  }
}

/**
 * Run one window on the GPU and on the processor: drivers and kernels differ, and a wrong map looks like a map.
 *
 * @throws ScclipError BackendError: they don't agree.
 */
async function compareWithProcessor(
  encoder: Encoder, graph: Graph, spec: EncoderSpec, { window, patch }: TilingOptions, options: SegmenterOptions,
): Promise<void> {
  const width = spec.inputs.find((tensor) => tensor.name === "text")?.shape[1] as number;
  const side = spec.grid.kind === "dynamic" ? Math.ceil(window / patch) * patch : window;
  const [rows, columns] = spec.grid.kind === "fixed" ? [spec.grid.rows * patch, spec.grid.columns * patch] : [side, side];
  const pixels = Uint8Array.from({ length: rows * columns * 3 }, (_, at) => 128 + 90 * Math.sin(at / 7) + 30 * Math.sin(at / 997));
  const probe = (): Windows => ({ pixels: pixels.slice(), shape: [1, rows, columns], text: new Float32Array(width), queries: 1, output: "features" });
  const processor = await loadEncoder(graph, spec, { ...options, provider: "wasm" }, undefined);
  const [found, wanted] = [await encoder.encode(probe()), await processor.encode(probe())];
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

function checkRefinement(refine: string, maps: string): void {
  if (refine !== "pamr" && refine !== "none") {
    throw new ScclipError("OptionError", `unknown refinement '${refine}'; known: pamr, none`, "refine");
  }
  if (refine === "pamr" && maps !== "cosine") {
    throw new ScclipError("OptionError", "PAMR and stretched maps exclude each other; use refine 'none'", "refine");
  }
}

/**
 * CLIP Surgery's weight of each query: softmax over queries of 2 c·t, divided by its mean.
 *
 * @param classFeatures Windows × width; c is their mean, made a unit vector.
 */
function classWeights(classFeatures: Float32Array, text: Float32Array, width: number): Float64Array {
  const mean = new Float64Array(width);
  classFeatures.forEach((value, at) => (mean[at % width] += value));
  const norm = Math.max(Math.hypot(...mean), 1e-12);
  const scores = Float64Array.from({ length: text.length / width }, (_, query) =>
    (2 / norm) * mean.reduce((sum, value, at) => sum + value * text[query * width + at], 0));
  const most = scores.reduce((a, b) => Math.max(a, b));
  const powers = scores.map((score) => Math.exp(score - most));
  const average = powers.reduce((a, b) => a + b) / powers.length;
  return powers.map((power) => power / average);
}

function presetOf(bundle: Bundle, name: string | undefined): BenchmarkSpec {
  if (name === undefined) return {};
  const { benchmarks } = bundle.manifest;
  const found = benchmarks.get(name);
  if (found) return found;
  const offered = [...benchmarks.keys()].sort().join(", ") || "none: its method has no settings of its own";
  throw new ScclipError("OptionError", `no preset '${name}' in ${bundle.source.name}; there are ${offered}`, "preset");
}

/** The options that have a value. */
function given<Options extends object>(options: Options): Options {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Options;
}

function chooseEncoder(bundle: Bundle, precision: string, whole: boolean): EncoderSpec {
  const ofGrid = bundle.manifest.encoders.filter(
    ({ grid, runsOn }) => (grid.kind !== "window") === whole && runsOn.includes("cpu"));
  const known = ofGrid.map((encoder) => encoder.precision).filter((name) => RUNS_HERE.includes(name));
  const fitting = ofGrid.filter((encoder) => encoder.precision === precision && known.includes(precision));
  // A dynamic grid keeps the image's ratio, so it goes before a fixed one.
  const found = fitting.find(({ grid }) => grid.kind === "dynamic") ?? fitting[0];
  if (found) return found;
  const what = whole ? "encoder for whole images" : "encoder for windows";
  throw new ScclipError(
    "BackendError",
    `${bundle.source.name} has no ${what} in precision '${precision}' that runs here; it has: ${known.join(", ") || "none"}`,
    "precision",
  );
}

function tilingOptions(
  bundle: Bundle, spec: EncoderSpec, options: Pick<SegmenterOptions, "stride" | "shortSide" | "maxPixels" | "maxWindows">,
): TilingOptions {
  const { preprocessing, patchSize } = bundle.manifest;
  const geometry: TilingOptions = {
    grid: spec.grid,
    patch: patchSize,
    window: preprocessing.window,
    padding: preprocessing.padding,
    wholeImage: preprocessing.wholeImage,
    longSide: preprocessing.longSide,
    stride: options.stride === undefined ? preprocessing.stride : inRange("stride", options.stride),
    shortSide: options.shortSide === undefined ? preprocessing.shortSide : inRange("shortSide", options.shortSide),
    maxPixels: options.maxPixels === undefined ? MAX_PIXELS : inRange("maxPixels", options.maxPixels),
    maxWindows: options.maxWindows === undefined ? MAX_WINDOWS : inRange("maxWindows", options.maxWindows),
  };
  if (geometry.shortSide > geometry.longSide) {
    throw new ScclipError(
      "OptionError",
      `a short side of ${geometry.shortSide} is above ${geometry.longSide}, to which the bundle limits the long side; ` +
        `use ${geometry.longSide} or less`,
      "shortSide",
    );
  }
  if (geometry.stride > geometry.window) {
    throw new ScclipError(
      "OptionError",
      `a stride of ${geometry.stride} leaves gaps between windows of ${geometry.window} pixels; use ${geometry.window} or less`,
      "stride",
    );
  }
  return geometry;
}

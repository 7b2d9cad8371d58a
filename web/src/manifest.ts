/** bundle.json as typed values: what docs/bundle.md says of versions 1 and 2, as far as this runtime reads it. */

import { ScclipError } from "./errors.js";

export interface TensorSpec {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly (number | string)[];
}

export type GridSpec =
  | { readonly kind: "window" | "fixed"; readonly rows: number; readonly columns: number }
  | { readonly kind: "dynamic" };

export interface GraphSpec {
  readonly file: string;
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
}

export interface EncoderSpec extends GraphSpec {
  readonly precision: string;
  readonly grid: GridSpec;
  readonly runsOn: readonly string[];
}

export interface TextEncoderSpec extends GraphSpec {
  readonly contextLength: number;
  readonly modelSha256: string;
  /** The same tower from where a text with the same beginning left it; older bundles lack it. */
  readonly resumed: GraphSpec | null;
}

export interface FileSpec {
  readonly sha256: string;
  readonly bytes: number;
}

type Colour = readonly [number, number, number];

/** Lengths in pixels, mean and std in 0 … 255. `padding` and `wholeImage`: docs/bundle.md, "Format 2". */
export interface PreprocessingSpec {
  readonly shortSide: number;
  readonly longSide: number;
  readonly window: number;
  readonly stride: number;
  readonly mean: Colour;
  readonly std: Colour;
  readonly padding: "none" | "patch";
  readonly wholeImage: "nearest" | "floor";
}

/** The defaults from logits to labels. From `restClass` on: docs/bundle.md, "Format 2". */
export interface DecodingSpec {
  readonly logitScale: number;
  readonly probThreshold: number;
  readonly areaThreshold: number;
  readonly restClass: number | null;
  readonly maps: "cosine" | "minmax";
  readonly classWeighting: "none" | "surgery";
  readonly refine: "pamr" | null;
  readonly templates: string;
}

/** What differs on a benchmark. */
export interface BenchmarkSpec {
  readonly shortSide?: number;
  readonly stride?: number;
  readonly logitScale?: number;
  readonly probThreshold?: number;
  readonly areaThreshold?: number;
  readonly restClass?: number;
  readonly wholeImage?: boolean;
}

export interface Manifest {
  readonly name: string;
  readonly patchSize: number;
  readonly embedDim: number;
  readonly preprocessing: PreprocessingSpec;
  readonly decoding: DecodingSpec;
  /** By the name of the benchmark. */
  readonly benchmarks: ReadonlyMap<string, BenchmarkSpec>;
  readonly encoders: readonly EncoderSpec[];
  readonly textEncoder: TextEncoderSpec;
  readonly tokenizer: string;
  readonly vocabularies: readonly string[];
  readonly files: ReadonlyMap<string, FileSpec>;
}

/** Calibrations that version 1 knows. */
const VERSION_1_METHODS: readonly unknown[] = ["scclip", "maskclip", "none"];

/** A value of the document and its place in it: each reader checks the kind and names the place. */
class Place {
  constructor(readonly value: unknown, readonly path: string) {}

  fail(wanted: string): never {
    const found = this.value === undefined ? "nothing" : JSON.stringify(this.value).slice(0, 60);
    throw new ScclipError(
      "BundleError",
      `bundle.json, ${this.path || "the document"}: expected ${wanted}, found ${found}; copy or export the bundle again`,
      this.path || "bundle.json",
    );
  }

  private record(): Record<string, unknown> {
    if (typeof this.value !== "object" || this.value === null || Array.isArray(this.value)) this.fail("an object");
    return this.value as Record<string, unknown>;
  }

  member(name: string): Place {
    return new Place(this.record()[name], this.path ? `${this.path}.${name}` : name);
  }

  entries(): [string, Place][] {
    return Object.entries(this.record()).map(([key, value]) => [key, new Place(value, `${this.path}[${key}]`)]);
  }

  list(): Place[] {
    if (!Array.isArray(this.value)) this.fail("a list");
    return this.value.map((value, index) => new Place(value, `${this.path}[${index}]`));
  }

  text(): string {
    return typeof this.value === "string" && this.value ? this.value : this.fail("text");
  }

  whole(least: number): number {
    return typeof this.value === "number" && Number.isSafeInteger(this.value) && this.value >= least
      ? this.value
      : this.fail(`a whole number from ${least}`);
  }

  number(least: number, most: number): number {
    return typeof this.value === "number" && this.value >= least && this.value <= most
      ? this.value
      : this.fail(`a number from ${least} to ${most}`);
  }

  sha256(): string {
    const text = this.text();
    return /^[0-9a-f]{64}$/.test(text) ? text : this.fail("a SHA-256");
  }

  truth(): boolean {
    return typeof this.value === "boolean" ? this.value : this.fail("true or false");
  }

  oneOf<Word extends string>(...words: readonly Word[]): Word {
    return words.find((word) => word === this.value) ?? this.fail(words.join(" or "));
  }

  /** What `read` makes of this place, or `instead` where there is nothing or null. */
  or<Value, Other>(instead: Other, read: (place: Place) => Value): Value | Other {
    return this.value === undefined || this.value === null ? instead : read(this);
  }
}

/**
 * Check the text of a bundle.json.
 *
 * @throws ScclipError BundleError: not JSON, another format version, or a value out of place.
 */
export function parseManifest(text: string): Manifest {
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch (error) {
    throw new ScclipError(
      "BundleError",
      `bundle.json is not JSON (${(error as Error).message}); copy or export the bundle again`,
      "bundle.json",
    );
  }
  const root = new Place(document, "");
  checkVersion(root);
  const manifest = readManifest(root);
  checkMembers(root, manifest);
  for (const encoder of manifest.encoders) checkEncoder(encoder, manifest);
  checkTensor(manifest.textEncoder, "inputs", "tokens", "int64", [null, null]);
  checkTensor(manifest.textEncoder, "outputs", "embeddings", "float32", [null, manifest.embedDim]);
  if (manifest.textEncoder.resumed) checkResumed(manifest.textEncoder.resumed, manifest.embedDim);
  return manifest;
}

function checkVersion(root: Place): void {
  const version = root.member("format_version").value;
  if (version === 1 || version === 2) return;
  throw new ScclipError(
    "BundleError",
    `bundle.json has format version ${JSON.stringify(version)}; this runtime reads 1 and 2. Upgrade scclip-web or export the bundle again`,
    "format_version",
  );
}

/** Version 1 has nothing of version 2: an older runtime would pass over it and give other labels. */
function checkMembers(root: Place, { preprocessing, decoding, benchmarks }: Manifest): void {
  if (root.member("format_version").value !== 1) return;
  const method = root.member("calibration").member("method").value;
  const used = [
    ["preprocessing.padding", preprocessing.padding !== "none"],
    ["preprocessing.whole_image", preprocessing.wholeImage !== "nearest"],
    ["decoding.rest_class", decoding.restClass !== null],
    ["decoding.maps", decoding.maps !== "cosine"],
    ["decoding.class_weighting", decoding.classWeighting !== "none"],
    ["decoding.refine", decoding.refine !== null],
    ["decoding.templates", decoding.templates !== "imagenet"],
    ["benchmarks", benchmarks.size > 0],
    ["calibration", !VERSION_1_METHODS.includes(method) || root.member("calibration").member("residual").value !== undefined],
  ].flatMap(([name, is]) => (is ? [name as string] : []));
  if (used.length > 0) {
    throw new ScclipError(
      "BundleError", `bundle.json has ${used.join(", ")}, which format version 1 doesn't know; export the bundle again`, used[0]);
  }
}

function readManifest(root: Place): Manifest {
  const model = root.member("model");
  const preprocessing = root.member("preprocessing");
  const decoding = root.member("decoding");
  const text = root.member("text_encoder");
  preprocessing.member("color").oneOf("RGB");
  preprocessing.member("interpolation").oneOf("opencv-linear-u8");
  return {
    name: root.member("name").text(),
    patchSize: model.member("patch_size").whole(1),
    embedDim: model.member("embed_dim").whole(1),
    preprocessing: {
      shortSide: preprocessing.member("short_side").whole(1),
      longSide: preprocessing.member("long_side").whole(1),
      window: preprocessing.member("window").whole(1),
      stride: preprocessing.member("stride").whole(1),
      mean: readColour(preprocessing.member("mean")),
      std: readColour(preprocessing.member("std")),
      padding: preprocessing.member("padding").or("none", (place) => place.oneOf("none", "patch")),
      wholeImage: preprocessing.member("whole_image").or("nearest", (place) => place.oneOf("nearest", "floor")),
    },
    decoding: {
      logitScale: decoding.member("logit_scale").number(Number.MIN_VALUE, Number.MAX_VALUE),
      probThreshold: decoding.member("prob_threshold").number(0, 1),
      areaThreshold: decoding.member("area_threshold").or(0, (place) => place.number(0, 1)),
      restClass: decoding.member("rest_class").or(null, (place) => place.whole(0)),
      maps: decoding.member("maps").or("cosine", (place) => place.oneOf("cosine", "minmax")),
      classWeighting: decoding.member("class_weighting").or("none", (place) => place.oneOf("none", "surgery")),
      refine: decoding.member("refine").or(null, (place) => place.oneOf("pamr")),
      templates: decoding.member("templates").or("imagenet", (place) => place.text()),
    },
    benchmarks: new Map(
      root.member("benchmarks").or([], (place) => place.entries().map(([name, item]) => [name, readBenchmark(item)] as const))),
    encoders: root.member("encoders").list().map(readEncoder),
    textEncoder: {
      ...readGraph(text),
      contextLength: text.member("context_length").whole(2),
      modelSha256: text.member("model_sha256").sha256(),
      resumed: text.member("resumed").or(null, readGraph),
    },
    tokenizer: root.member("tokenizer").text(),
    vocabularies: root.member("vocabularies").list().map((item) => item.text()),
    files: new Map(
      root.member("files").entries().map(([name, item]) => [
        name,
        { sha256: item.member("sha256").sha256(), bytes: item.member("bytes").whole(0) },
      ]),
    ),
  };
}

function readColour(place: Place): Colour {
  const [red, green, blue, ...more] = place.list().map((item) => item.number(-Number.MAX_VALUE, Number.MAX_VALUE));
  return blue === undefined || more.length > 0 ? place.fail("three numbers") : [red, green, blue];
}

function readBenchmark(place: Place): BenchmarkSpec {
  const least = Number.MIN_VALUE;
  const found = {
    shortSide: place.member("short_side").or(undefined, (item) => item.whole(1)),
    stride: place.member("stride").or(undefined, (item) => item.whole(1)),
    logitScale: place.member("logit_scale").or(undefined, (item) => item.number(least, Number.MAX_VALUE)),
    probThreshold: place.member("prob_threshold").or(undefined, (item) => item.number(0, 1)),
    areaThreshold: place.member("area_threshold").or(undefined, (item) => item.number(0, 1)),
    restClass: place.member("rest_class").or(undefined, (item) => item.whole(0)),
    wholeImage: place.member("whole_image").or(undefined, (item) => item.truth()),
  };
  return Object.fromEntries(Object.entries(found).filter(([, value]) => value !== undefined));
}

function readTensors(place: Place): TensorSpec[] {
  return place.list().map((item) => ({
    name: item.member("name").text(),
    dtype: item.member("dtype").oneOf("uint8", "int64", "float32"),
    shape: item.member("shape").list().map((side) => (typeof side.value === "string" ? side.text() : side.whole(0))),
  }));
}

function readGraph(place: Place): GraphSpec {
  return {
    file: place.member("file").text(),
    inputs: readTensors(place.member("inputs")),
    outputs: readTensors(place.member("outputs")),
  };
}

function readEncoder(place: Place): EncoderSpec {
  const grid = place.member("grid");
  const kind = grid.member("kind").oneOf("window", "fixed", "dynamic");
  return {
    ...readGraph(place),
    precision: place.member("precision").text(),
    grid:
      kind === "dynamic"
        ? { kind }
        : { kind, rows: grid.member("rows").whole(1), columns: grid.member("columns").whole(1) },
    runsOn: place.member("runs_on").list().map((item) => item.text()),
  };
}

/** Compare a tensor with the contract; null stands for an axis that may be named. */
function checkTensor(
  graph: GraphSpec, side: "inputs" | "outputs", name: string, dtype: string, wanted: readonly (number | null)[],
): void {
  const found = graph[side].find((tensor) => tensor.name === name);
  const fits =
    found?.dtype === dtype &&
    found.shape.length === wanted.length &&
    wanted.every((length, axis) => length === null || length === found.shape[axis]);
  if (!fits) {
    const shown = found ? `${found.dtype} (${found.shape.join(", ")})` : "nothing";
    const shape = wanted.map((length) => length ?? "*").join(", ");
    throw new ScclipError(
      "BundleError",
      `${graph.file}: ${side} need ${name}: ${dtype} (${shape}), and bundle.json gives ${shown}. Export the bundle again`,
      graph.file,
    );
  }
}

function checkEncoder(encoder: EncoderSpec, manifest: Manifest): void {
  const { grid } = encoder;
  const [rows, columns] = grid.kind === "dynamic" ? [null, null] : [grid.rows, grid.columns];
  const { window, padding } = manifest.preprocessing;
  const classRow = manifest.decoding.classWeighting === "surgery" ? 1 : 0;
  const patches = rows === null || columns === null ? null : rows * columns + classRow;
  /** Of a window that the graph itself pads to whole patches: its own pixels. */
  const padded = padding === "patch" && grid.kind === "window" ? Math.ceil(window / manifest.patchSize) * manifest.patchSize : null;
  const side = (cells: number | null): number | null => {
    const pixels = cells === null ? null : cells * manifest.patchSize;
    return pixels !== null && pixels === padded ? window : pixels;
  };
  const [height, width] = [side(rows), side(columns)];
  if (grid.kind === "window" && (height !== window || width !== window)) {
    throw new ScclipError(
      "BundleError",
      `${encoder.file}: a grid of ${rows}×${columns} patches of ${manifest.patchSize} pixels is not the window of ` +
        `${window} pixels that bundle.json names. Export the bundle again`,
      encoder.file,
    );
  }
  checkTensor(encoder, "inputs", "windows", "uint8", [null, height, width, 3]);
  checkTensor(encoder, "inputs", "text", "float32", [null, manifest.embedDim]);
  checkTensor(encoder, "outputs", "features", "float32", [null, patches, manifest.embedDim]);
  checkTensor(encoder, "outputs", "logits", "float32", [null, patches, null]);
}

/** The text encoder that goes on from known beginnings: what it takes is shaped as what it gives. */
function checkResumed(graph: GraphSpec, embedDim: number): void {
  const past = graph.inputs.find((tensor) => tensor.name === "past")?.shape ?? [];
  const [layers, heads, width] = [past[0], past[3], past[5]].map((side) => (typeof side === "number" ? side : 0));
  checkTensor(graph, "inputs", "past", "float32", [layers, 2, null, heads, null, width]);
  for (let layer = 0; layer < layers; layer++) {
    for (const part of ["key", "value"]) checkTensor(graph, "outputs", `present.${layer}.${part}`, "float32", [null, heads, null, width]);
  }
  checkTensor(graph, "inputs", "tokens", "int64", [null, null]);
  checkTensor(graph, "inputs", "past_lengths", "int64", [null]);
  checkTensor(graph, "inputs", "beginnings", "int64", [null]);
  checkTensor(graph, "outputs", "embeddings", "float32", [null, embedDim]);
}

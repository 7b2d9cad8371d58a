/** bundle.json as typed values: what docs/bundle.md says of version 1, as far as this runtime reads it. */

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
}

export interface FileSpec {
  readonly sha256: string;
  readonly bytes: number;
}

/** Lengths in pixels. */
export interface PreprocessingSpec {
  readonly shortSide: number;
  readonly longSide: number;
  readonly window: number;
  readonly stride: number;
}

export interface DecodingSpec {
  readonly logitScale: number;
  readonly probThreshold: number;
  readonly areaThreshold: number;
}

export interface Manifest {
  readonly name: string;
  readonly patchSize: number;
  readonly embedDim: number;
  readonly preprocessing: PreprocessingSpec;
  readonly decoding: DecodingSpec;
  readonly encoders: readonly EncoderSpec[];
  readonly textEncoder: TextEncoderSpec;
  readonly tokenizer: string;
  readonly vocabularies: readonly string[];
  readonly files: ReadonlyMap<string, FileSpec>;
}

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

  oneOf<Word extends string>(...words: readonly Word[]): Word {
    return words.find((word) => word === this.value) ?? this.fail(words.join(" or "));
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
  for (const encoder of manifest.encoders) checkEncoder(encoder, manifest);
  checkTensor(manifest.textEncoder, "inputs", "tokens", "int64", [null, null]);
  checkTensor(manifest.textEncoder, "outputs", "embeddings", "float32", [null, manifest.embedDim]);
  return manifest;
}

function checkVersion(root: Place): void {
  const version = root.member("format_version").value;
  if (version === 1) return;
  const method = root.member("calibration").member("method").value;
  const why =
    version === 2
      ? `has format version 2 (method ${String(method)}), which this runtime does not read: it runs SC-CLIP, plain CLIP ` +
        "and MaskCLIP. Use the Python runtime, or export with --calibration scclip"
      : `has format version ${JSON.stringify(version)}; this runtime reads 1. Upgrade scclip-web or export the bundle again`;
  throw new ScclipError("BundleError", `bundle.json ${why}`, "format_version");
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
    },
    decoding: {
      logitScale: decoding.member("logit_scale").number(Number.MIN_VALUE, Number.MAX_VALUE),
      probThreshold: decoding.member("prob_threshold").number(0, 1),
      areaThreshold: decoding.member("area_threshold").value === null ? 0 : decoding.member("area_threshold").number(0, 1),
    },
    encoders: root.member("encoders").list().map(readEncoder),
    textEncoder: {
      ...readGraph(text),
      contextLength: text.member("context_length").whole(2),
      modelSha256: text.member("model_sha256").sha256(),
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
  const patches = rows === null || columns === null ? null : rows * columns;
  const height = rows === null ? null : rows * manifest.patchSize;
  const width = columns === null ? null : columns * manifest.patchSize;
  const { window } = manifest.preprocessing;
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

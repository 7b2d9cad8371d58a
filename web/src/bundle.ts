/** Opening a bundle: docs/bundle.md's rules of reading, over whatever the files come from. */

import { ScclipError, reasonOf } from "./errors.js";
import { parseManifest, type FileSpec, type Manifest } from "./manifest.js";
import { externalLocations } from "./onnx_weights.js";

const MANIFEST_FILE = "bundle.json";
const MAX_MANIFEST_BYTES = 16 << 20;

/** Called with the bytes of a file that have come so far. */
export type OnBytes = (bytes: number) => void;

/** Where the files of a bundle come from: a folder, a web server. */
export interface BundleSource {
  /** What to call it in messages. */
  readonly name: string;
  /**
   * Read one file.
   *
   * @param file Its name in the bundle.
   * @param spec Its size and hash, where they are known: sources may use them as key of a cache.
   */
  read(file: string, spec?: FileSpec, onBytes?: OnBytes): Promise<Uint8Array>;
  /** The same past all caches, where there are any: what they keep may be damaged. */
  readAgain?(file: string, spec: FileSpec, onBytes?: OnBytes): Promise<Uint8Array>;
  /** The path of a file, where there is one that native libraries can open. */
  path?(file: string): string;
}

/** An ONNX graph and the files that hold its weights, by the names the graph has for them. */
export interface Graph {
  readonly file: string;
  readonly model: Uint8Array;
  readonly weights: ReadonlyMap<string, Uint8Array>;
  readonly path?: string;
}

/** How far the download of a bundle's files is: bytes of those asked for so far. */
export interface Progress {
  readonly file: string;
  readonly loaded: number;
  readonly total: number;
}

export type OnProgress = (progress: Progress) => void;

/** A bundle whose manifest has been checked; files are checked as they are read. */
export class Bundle {
  private loaded = new Map<string, number>();
  private total = 0;

  private constructor(readonly source: BundleSource, readonly manifest: Manifest, private onProgress?: OnProgress) {}

  /**
   * Read and check a bundle's manifest.
   *
   * @throws ScclipError BundleError: whatever docs/bundle.md refuses, in one line.
   */
  static async open(source: BundleSource, onProgress?: OnProgress): Promise<Bundle> {
    const bytes = await source.read(MANIFEST_FILE);
    if (bytes.length > MAX_MANIFEST_BYTES) {
      throw new ScclipError("BundleError", `${source.name}: ${MANIFEST_FILE} is too large for a manifest`, MANIFEST_FILE);
    }
    try {
      const manifest = parseManifest(new TextDecoder("utf-8").decode(bytes));
      checkNames(manifest);
      return new Bundle(source, manifest, onProgress);
    } catch (error) {
      if (!(error instanceof ScclipError)) throw error;
      throw new ScclipError(error.code, `${source.name}: ${error.message}`, error.field);
    }
  }

  /**
   * A listed file whose content has its SHA-256.
   *
   * @throws ScclipError BundleError: not listed, gone, or another content.
   */
  async read(name: string): Promise<Uint8Array> {
    const spec = this.manifest.files.get(name);
    if (!spec) throw new ScclipError("BundleError", `${this.source.name}: '${name}' is not listed in bundle.json`, name);
    if (!this.loaded.has(name)) this.total += spec.bytes;
    const onBytes = (count: number): void => this.advance(name, count);
    let bytes = await this.source.read(name, spec, onBytes);
    let problem = await problemOf(bytes, spec);
    if (problem && this.source.readAgain) {
      bytes = await this.source.readAgain(name, spec, onBytes);
      problem = await problemOf(bytes, spec);
    }
    if (problem) {
      const found = problem.replace("{}", name);
      throw new ScclipError("BundleError", `${this.source.name}: ${found}; copy or export the bundle again`, name);
    }
    this.advance(name, bytes.length);
    return bytes;
  }

  /**
   * An ONNX file with the weights it refers to, all checked.
   *
   * @throws ScclipError BundleError: as `read`, or weights outside of the bundle or not listed in it.
   */
  async graph(name: string): Promise<Graph> {
    const model = await this.read(name);
    const weights = new Map<string, Uint8Array>();
    for (const location of this.locations(name, model)) {
      const folder = name.includes("/") ? name.slice(0, name.lastIndexOf("/") + 1) : "";
      weights.set(location, await this.read(folder + location.replace(/^(\.\/)+/, "")));
    }
    const path = this.source.path?.(name);
    return path === undefined ? { file: name, model, weights } : { file: name, model, weights, path };
  }

  private locations(name: string, model: Uint8Array): string[] {
    let found: string[];
    try {
      found = [...externalLocations(model)].sort();
    } catch (error) {
      throw new ScclipError(
        "BundleError", `${this.source.name}: ${name} is no ONNX file (${reasonOf(error)}); export the bundle again`, name);
    }
    for (const location of found) checkInside(location, name);
    return found;
  }

  private advance(file: string, bytes: number): void {
    this.loaded.set(file, bytes);
    const loaded = [...this.loaded.values()].reduce((sum, count) => sum + count, 0);
    this.onProgress?.({ file, loaded, total: this.total });
  }
}

/** What is wrong with a file's content, with `{}` for its name; null: nothing. */
async function problemOf(bytes: Uint8Array, spec: FileSpec): Promise<string | null> {
  if (bytes.length !== spec.bytes) return `{} has ${bytes.length} bytes, bundle.json says ${spec.bytes}: truncated or changed`;
  const found = await sha256(bytes);
  if (found === spec.sha256) return null;
  return `SHA-256 of {} is ${found.slice(0, 12)}…, bundle.json says ${spec.sha256.slice(0, 12)}…: the file was changed or damaged`;
}

function checkNames(manifest: Manifest): void {
  for (const name of manifest.files.keys()) checkInside(name, name);
  const { encoders, textEncoder } = manifest;
  const graphs = [...encoders, textEncoder, ...(textEncoder.resumed ? [textEncoder.resumed] : [])].map((graph) => graph.file);
  for (const name of [...graphs, manifest.tokenizer, ...manifest.vocabularies]) {
    checkInside(name, name);
    if (!manifest.files.has(name)) {
      throw new ScclipError(
        "BundleError", `bundle.json names '${name}' but does not list it in \`files\`; export it again`, name);
    }
  }
}

function checkInside(path: string, field: string): void {
  if (!path || path.startsWith("/") || path.split("/").includes("..") || /[\\\0?#%]|^[a-z]+:/i.test(path)) {
    throw new ScclipError("BundleError", `path '${path}' leaves the bundle; refused`, field);
  }
}

/** Hexadecimal SHA-256. */
export async function sha256(bytes: Uint8Array): Promise<string> {
  // Pages over plain HTTP (but for localhost) have no cryptography.
  if (!globalThis.crypto?.subtle) {
    throw new ScclipError(
      "BackendError", "hashes of files can't be checked here: serve the page over https (or from localhost)", "bundle");
  }
  const digest = await crypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>);
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Bundle, type BundleSource, type Progress } from "../../src/bundle.js";
import { fetchBundle } from "../../src/fetch_bundle.js";
import { parseManifest } from "../../src/manifest.js";
import { externalLocations } from "../../src/onnx_weights.js";
import { DEMO } from "../fixtures.js";

type Json = Record<string, never>;
const TEXT = readFileSync(`${DEMO}/bundle.json`, "utf8");

/** The demo bundle with a change: of its manifest, or of a file's bytes. */
function source(change: (manifest: Json) => void = () => {}, files: Record<string, Uint8Array> = {}): BundleSource {
  const manifest = JSON.parse(TEXT) as Json;
  change(manifest);
  return {
    name: "demo",
    read: async (file) =>
      file === "bundle.json"
        ? new TextEncoder().encode(JSON.stringify(manifest))
        : files[file] ?? new Uint8Array(readFileSync(`${DEMO}/${file}`)),
  };
}

const REFUSED: readonly (readonly [string, string, (manifest: any) => void])[] = [
  ["a later format", "format_version", (manifest) => { manifest.format_version = 3; }],
  ["no format", "format_version", (manifest) => { delete manifest.format_version; }],
  ["a method of format 2 in format 1", "calibration", (manifest) => { manifest.calibration = { method: "gem" }; }],
  ["an unknown rule of format 2", "decoding.maps", (manifest) => { manifest.decoding.maps = "sigmoid"; }],
  ["two numbers for a colour", "preprocessing.mean", (manifest) => { manifest.preprocessing.mean.pop(); }],
  ["a missing member", "preprocessing.stride", (manifest) => { delete manifest.preprocessing.stride; }],
  ["a fraction for a whole number", "model.patch_size", (manifest) => { manifest.model.patch_size = 16.5; }],
  ["another resize rule", "preprocessing.interpolation", (manifest) => { manifest.preprocessing.interpolation = "cubic"; }],
  ["a grid that isn't the window", "encoder.fp32.onnx", (manifest) => { manifest.encoders[0].grid.rows = 13; }],
  ["a tensor of another width", "encoder.fp32.onnx", (manifest) => { manifest.encoders[0].outputs[0].shape[2] = 7; }],
  ["a tensor that is missing", "text_encoder.onnx", (manifest) => { manifest.text_encoder.inputs = []; }],
  ["a path that climbs out", "../x", (manifest) => { manifest.files["../x"] = { sha256: "0".repeat(64), bytes: 1 }; }],
  ["a file that isn't listed", "tokenizer.json", (manifest) => { delete manifest.files["tokenizer.json"]; }],
];

for (const [what, field, change] of REFUSED) {
  test(`refused in one line: ${what}`, async () => {
    await assert.rejects(Bundle.open(source(change)), (error: any) => {
      assert.equal(error.code, "BundleError");
      assert.equal(error.field, field);
      assert.ok(error.message.startsWith("demo: ") && !error.message.includes("\n"), error.message);
      return true;
    });
  });
}

test("an int8 text encoder is passed over", async () => {
  const { manifest } = await Bundle.open(source((json: any) => {
    json.text_encoder.int8 = { ...json.text_encoder, file: "text_encoder.int8.onnx" };
  }));
  assert.equal(manifest.textEncoder.file, "text_encoder.onnx");
});

test("what only format 2 knows is read there, and refused in format 1", async () => {
  const add = (version: number) => (manifest: any): void => {
    manifest.format_version = version;
    manifest.decoding.maps = "minmax";
    manifest.benchmarks = { voc21: { short_side: 448, whole_image: true, area_threshold: null } };
  };
  const { manifest } = await Bundle.open(source(add(2)));
  assert.equal(manifest.decoding.maps, "minmax");
  assert.deepEqual(manifest.benchmarks.get("voc21"), { shortSide: 448, wholeImage: true });
  await assert.rejects(Bundle.open(source(add(1))), (error: any) =>
    error.field === "decoding.maps" && /decoding\.maps, benchmarks, which format version 1 doesn't know/.test(error.message));
});

test("what is not JSON is refused", () => {
  assert.throws(() => parseManifest("<html>"), { code: "BundleError", field: "bundle.json" });
});

test("a changed or truncated file is refused, with its name", async () => {
  const bytes = new Uint8Array(readFileSync(`${DEMO}/text_encoder.onnx`));
  const changed = bytes.slice();
  changed[100] ^= 1;
  const file = "text_encoder.onnx";
  for (const [content, words] of [[changed, /SHA-256/], [bytes.subarray(0, 500), /500 bytes/]] as const) {
    const bundle = await Bundle.open(source(() => {}, { [file]: content }));
    await assert.rejects(bundle.graph(file), (error: any) => error.field === file && words.test(error.message));
  }
});

test("a graph comes with the weights it refers to, and progress is told", async () => {
  const seen: Progress[] = [];
  const bundle = await Bundle.open(source(), (progress) => seen.push(progress));
  const graph = await bundle.graph("text_encoder.onnx");
  assert.deepEqual([...graph.weights.keys()], ["text_encoder.onnx.data"]);
  const last = seen[seen.length - 1];
  assert.equal(last.loaded, last.total);
  const { files } = JSON.parse(TEXT);
  assert.equal(last.total, files["text_encoder.onnx"].bytes + files["text_encoder.onnx.data"].bytes);
});

test("weights outside of the bundle are refused", async () => {
  const model = readFileSync(`${DEMO}/text_encoder.onnx`);
  const moved = Buffer.from(model.toString("latin1").replaceAll("text_encoder.onnx.data", "../t_encoder.onnx.data"), "latin1");
  assert.deepEqual([...externalLocations(moved)], ["../t_encoder.onnx.data"]);
  const { createHash } = await import("node:crypto");
  const change = (manifest: any): void => {
    manifest.files["text_encoder.onnx"].sha256 = createHash("sha256").update(moved).digest("hex");
  };
  const bundle = await Bundle.open(source(change, { "text_encoder.onnx": new Uint8Array(moved) }));
  await assert.rejects(bundle.graph("text_encoder.onnx"), /leaves the bundle/);
});

test("bytes that are no graph are told from one", () => {
  for (const bytes of [[0xff, 0xff], [0x3a, 0x7f, 0x00], [0x00, 0x01], new Array<number>(12).fill(0xff)]) {
    assert.throws(() => externalLocations(Uint8Array.from(bytes)));
  }
});

test("a download of which nothing more comes is given up", async ({ mock }) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  let body!: ReadableStreamDefaultController<Uint8Array>;
  mock.method(globalThis, "fetch", async (_: URL, { signal }: { signal: AbortSignal }) => {
    const stream = new ReadableStream<Uint8Array>({ start: (controller) => void (body = controller) });
    signal.addEventListener("abort", () => body.error(signal.reason));
    return new Response(stream);
  });
  const download = (): { read: Promise<Uint8Array>; piece: () => Promise<void> } => {
    let heard = (): void => {};
    const spec = { bytes: 6, sha256: "0".repeat(64) };
    const read = fetchBundle("https://example.org/x.scclip/").read("a.onnx", spec, () => heard());
    const piece = async (): Promise<void> => {
      await new Promise((settle) => setImmediate(settle)); // the body is there
      const came = new Promise<void>((settle) => void (heard = settle));
      body.enqueue(new Uint8Array(3));
      await came;
      mock.timers.tick(59_000);
    };
    return { read, piece };
  };
  const whole = download();
  await whole.piece();
  await whole.piece(); // each piece is waited for anew
  body.close();
  assert.equal((await whole.read).length, 6);
  const cut = download();
  const refused = assert.rejects(cut.read, { code: "BundleError", field: "a.onnx", message: /nothing came for 60 seconds/ });
  await cut.piece();
  mock.timers.tick(1_000);
  await refused;
});

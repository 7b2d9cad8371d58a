/** The page's worker: holds the model, and segments one picture at a time. The latest request wins. */

import type { Encoded } from "../src/decode.js";
import { ScclipError, reasonOf } from "../src/errors.js";
import { fetchBundle } from "../src/fetch_bundle.js";
import { MAX_PIXELS } from "../src/geometry.js";
import { labelsPng } from "../src/png.js";
import type { Pixels } from "../src/resize.js";
import { Segmenter } from "../src/segmenter.js";
import type { Vocabulary } from "../src/vocabulary.js";
import { loadOrt } from "./ort.js";
import type { Reply, Request, Setup } from "./protocol.js";

/** Certainty costs time that grows with the picture, and is shown for points of it only. */
const MAX_CERTAIN_PIXELS = 2_000_000;

interface Model {
  readonly setup: Setup;
  readonly segmenter: Segmenter;
  readonly own: Vocabulary | null;
  readonly threads: number;
}

let model: Model | null = null;
let seen: { readonly model: Model; readonly image: Blob; readonly encoded: Encoded } | null = null;
let waiting: Request | null = null;
let busy = false;

const say = (reply: Reply, transfer: Transferable[] = []): void => self.postMessage(reply, { transfer });

async function open(id: number, setup: Setup): Promise<Model> {
  if (model && JSON.stringify(model.setup) === JSON.stringify(setup)) return model;
  const old = model;
  model = seen = null;
  await old?.segmenter.close(); // else its weights stay in WebAssembly's memory
  const [ort, threads] = await loadOrt(setup.provider);
  let told = 0;
  const segmenter = await Segmenter.open(fetchBundle(setup.bundle), {
    ort, provider: setup.provider, precision: setup.precision,
    onProgress: ({ loaded, total }) => {
      if (loaded - told < total / 100 && loaded < total) return;
      told = loaded;
      say({ id, kind: "progress", stage: "download", done: loaded, total });
    },
  });
  const own = segmenter.hasVocabulary ? segmenter.vocabulary : null;
  model = { setup, segmenter, own, threads };
  return model;
}

/** A vocabulary as a class list: a line per class, synonyms after commas. */
function listOf({ classes, queries, queryClass }: Vocabulary): string {
  return classes.map((_, owner) => queries.filter((_, query) => queryClass[query] === owner).join(", ")).join("\n");
}

async function pixelsOf(image: Blob): Promise<Pixels> {
  let bitmap: ImageBitmap;
  try {
    // Upright, and colours as they are stored: what the Python runtime takes.
    bitmap = await createImageBitmap(image, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new ScclipError("ImageError", "this file is no picture that the browser can show", "image");
  }
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) throw new ScclipError("ImageError", `the picture of ${width}×${height} pixels is too large`, "image");
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (!context) throw new ScclipError("BackendError", "this browser can't read the pixels of a picture here", "image");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

async function encode(id: number, current: Model, image: Blob): Promise<Encoded> {
  // Every request carries the picture again, and a copy of a blob is another object: its parts tell.
  if (seen?.model === current && seen.image.size === image.size && (await sameBytes(seen.image, image))) return seen.encoded;
  const encoded = await current.segmenter.encode(await pixelsOf(image), (done, total) =>
    say({ id, kind: "progress", stage: "windows", done, total }));
  seen = { model: current, image, encoded };
  return encoded;
}

async function sameBytes(a: Blob, b: Blob): Promise<boolean> {
  const [x, y] = (await Promise.all([a.arrayBuffer(), b.arrayBuffer()])).map((bytes) => new Uint8Array(bytes));
  return x.every((byte, at) => byte === y[at]);
}

async function answer({ id, setup, image, classes }: Request): Promise<void> {
  const current = await open(id, setup);
  const { segmenter, own, threads } = current;
  say({ id, kind: "opened", classes: own ? listOf(own) : "", threads });
  if (!image) return;
  if (classes === null && own) segmenter.vocabulary = own;
  else await segmenter.setClasses(classes ?? "", undefined, (done, total) => say({ id, kind: "progress", stage: "names", done, total }));
  const encoded = await encode(id, current, image);
  const confidence = encoded.shape[0] * encoded.shape[1] <= MAX_CERTAIN_PIXELS;
  const result = segmenter.decode(encoded, { confidence });
  const png = await labelsPng(result);
  const buffers = [result.labels.buffer, png.buffer, ...(result.confidence ? [result.confidence.buffer] : [])];
  say({ id, kind: "done", result, png }, buffers as ArrayBuffer[]);
}

async function work(): Promise<void> {
  if (busy) return;
  busy = true;
  for (let request = waiting; request; request = waiting) {
    waiting = null;
    try {
      await answer(request);
    } catch (error) {
      const code = error instanceof ScclipError ? error.code : "Error";
      say({ id: request.id, kind: "failed", code, message: error instanceof ScclipError ? error.message : reasonOf(error) });
    }
  }
  busy = false;
}

self.addEventListener("message", ({ data }: MessageEvent<Request>) => {
  waiting = data;
  void work();
});

/** The page's worker: holds the model, and segments one picture at a time. The latest request wins. */

import { onlyClass } from "../src/classes.js";
import type { Encoded } from "../src/decode.js";
import { ScclipError, reasonOf } from "../src/errors.js";
import { fetchBundle } from "../src/fetch_bundle.js";
import { checkPixels, MAX_PIXELS } from "../src/geometry.js";
import { labelsPng } from "../src/png.js";
import type { Pixels } from "../src/resize.js";
import { Segmenter, type OnStep } from "../src/segmenter.js";
import type { Vocabulary } from "../src/vocabulary.js";
import { loadOrt } from "./ort.js";
import type { Reply, Request, Setup } from "./protocol.js";

/** Certainty costs time that grows with the picture, and is shown for points of it only. */
const MAX_CERTAIN_PIXELS = 2_000_000;
/** Most pixels of a canvas: phones have a limit. */
const MAX_CANVAS_PIXELS = 4_000_000;

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

/** A newer request is there: what is under way is given up. */
class Superseded extends Error {}

/** Tell how far a step is, and hear what has come meanwhile. */
function stepOf({ id, setup, image }: Request, stage: "names" | "windows"): OnStep {
  return async (done, total) => {
    say({ id, kind: "progress", stage, done, total });
    await new Promise((settle) => setTimeout(settle)); // else messages wait until all is done
    // Names that were embedded are kept; windows only if the next request has the same picture.
    const useful = stage === "windows" && waiting?.image?.size === image?.size && same(waiting?.setup, setup);
    if (waiting && !useful) throw new Superseded();
  };
}

const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);
const say = (reply: Reply, transfer: Transferable[] = []): void => self.postMessage(reply, { transfer });

async function open(id: number, setup: Setup): Promise<Model> {
  if (model && same(model.setup, setup)) return model;
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
  checkPixels([height, width], MAX_PIXELS);
  const data = new Uint8Array(width * height * 4);
  const rows = Math.max(1, Math.min(height, Math.floor(MAX_CANVAS_PIXELS / width)));
  const context = new OffscreenCanvas(width, rows).getContext("2d", { willReadFrequently: true });
  if (!context) throw new ScclipError("BackendError", "this browser can't read the pixels of a picture here", "image");
  context.fillStyle = "#fff";
  for (let top = 0; top < height; top += rows) {
    context.fillRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, -top);
    data.set(context.getImageData(0, 0, width, Math.min(rows, height - top)).data, top * width * 4);
  }
  bitmap.close();
  return { data, width, height };
}

async function encode(request: Request, current: Model, image: Blob): Promise<Encoded> {
  // Every request carries the picture again, and a copy of a blob is another object: its parts tell.
  if (seen?.model === current && seen.image.size === image.size && (await sameBytes(seen.image, image))) return seen.encoded;
  const encoded = await current.segmenter.encode(await pixelsOf(image), stepOf(request, "windows"));
  seen = { model: current, image, encoded };
  return encoded;
}

async function sameBytes(a: Blob, b: Blob): Promise<boolean> {
  const [x, y] = (await Promise.all([a.arrayBuffer(), b.arrayBuffer()])).map((bytes) => new Uint8Array(bytes));
  return x.every((byte, at) => byte === y[at]);
}

async function answer(request: Request): Promise<void> {
  const { id, setup, image, classes } = request;
  const current = await open(id, setup);
  const { segmenter, own, threads } = current;
  say({ id, kind: "opened", classes: own ? listOf(own) : "", threads });
  if (!image) return;
  if (classes === null && own) segmenter.vocabulary = own;
  else await segmenter.setClasses(classes ?? "", undefined, stepOf(request, "names"));
  const encoded = await encode(request, current, image);
  const confidence = encoded.shape[0] * encoded.shape[1] <= MAX_CERTAIN_PIXELS;
  const result = segmenter.decode(encoded, { confidence });
  const png = await labelsPng(result);
  const buffers = [result.labels.buffer, png.buffer, ...(result.confidence ? [result.confidence.buffer] : [])];
  say({ id, kind: "done", result, png, warning: onlyClass(segmenter.vocabulary) }, buffers as ArrayBuffer[]);
}

async function work(): Promise<void> {
  if (busy) return;
  busy = true;
  for (let request = waiting; request; request = waiting) {
    waiting = null;
    try {
      await answer(request);
    } catch (error) {
      if (error instanceof Superseded) continue;
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

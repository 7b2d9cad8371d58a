/** Bundles and pictures in Node: folders, onnxruntime-node and sharp. */

import { availableParallelism } from "node:os";
import { readFile } from "node:fs/promises";
import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import type { BundleSource } from "./bundle.js";
import type { Reply, Workers } from "./encoder.js";
import { ScclipError, reasonOf } from "./errors.js";
import { MAX_PIXELS } from "./geometry.js";
import type { Pixels } from "./resize.js";
import { Segmenter, type SegmenterOptions } from "./segmenter.js";

/** A bundle in a folder; `demo` is the one that comes with this package. */
export function folderBundle(folder: string): BundleSource {
  const root = folder === "demo" ? demoFolder() : resolve(folder);
  return {
    name: basename(root),
    path: (file) => join(root, file),
    read: async (file) => {
      try {
        return await readFile(join(root, file));
      } catch (error) {
        throw new ScclipError("BundleError", `can't read ${join(root, file)}: ${reasonOf(error)}. Is this a bundle?`, file);
      }
    },
  };
}

function demoFolder(): string {
  const packaged = fileURLToPath(new URL("../site/demo.scclip", import.meta.url));
  if (existsSync(packaged)) return packaged;
  throw new ScclipError("BundleError", "this installation ships no demo bundle; name a bundle's folder", "bundle");
}

/** A dependency that only Node needs, and the user installs. */
async function optional<Module>(name: string, load: () => Promise<Module>): Promise<Module> {
  try {
    return await load();
  } catch (error) {
    throw new ScclipError("BackendError", `${name} can't be loaded (${reasonOf(error)}); install it: npm install ${name}`);
  }
}

/** Threads that encode windows, each in a worker: in Node a session holds up the thread that calls it. */
function nodeWorkers(count: number): Workers {
  return {
    count,
    start: () => {
      const worker = new Worker(new URL("./node_worker.js", import.meta.url));
      worker.unref(); // an open segmenter does not keep the process, an answer that is waited for does
      return {
        post: (order, transfer) => {
          worker.ref();
          worker.postMessage(order, transfer);
        },
        listen: (heard, failed) => {
          worker.on("error", failed).on("messageerror", failed).on("exit", () => failed("it ended"));
          worker.on("message", (reply: Reply) => {
            worker.unref();
            heard(reply);
          });
        },
        end: () => void worker.terminate(),
      };
    },
  };
}

/** Open a bundle with onnxruntime-node, on every CPU unless `threads` says otherwise. */
export async function openSegmenter(
  bundle: string, options: Omit<SegmenterOptions, "ort" | "provider" | "workers"> = {},
): Promise<Segmenter> {
  const ort = await optional("onnxruntime-node", () => import("onnxruntime-node"));
  const threads = options.threads ?? availableParallelism();
  return Segmenter.open(folderBundle(bundle), { ...options, ort, provider: "cpu", threads, workers: nodeWorkers(threads) });
}

/**
 * Read a picture with sharp: EXIF orientation applied, transparency over white, colours as they are stored.
 *
 * @throws ScclipError ImageError: unreadable or too large; names the file.
 */
export async function loadImage(file: string, maxPixels = MAX_PIXELS): Promise<Pixels> {
  const { default: sharp } = await optional("sharp", () => import("sharp"));
  try {
    const picture = sharp(await readFile(file), { limitInputPixels: maxPixels, ignoreIcc: true });
    const { data, info } = await picture
      .autoOrient()
      .flatten({ background: "#ffffff" })
      .toColourspace("srgb")
      .raw()
      .toBuffer({ resolveWithObject: true });
    if (info.channels !== 3) throw new Error(`it has ${info.channels} channels`);
    return { data, width: info.width, height: info.height };
  } catch (error) {
    throw new ScclipError("ImageError", `can't read the image ${file}: ${reasonOf(error)}`, "image");
  }
}

/** Bundles and pictures in Node: folders, onnxruntime-node and sharp. */

import { availableParallelism } from "node:os";
import { readFile } from "node:fs/promises";
import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import type { BundleSource } from "./bundle.js";
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

/** Open a bundle with onnxruntime-node, on every CPU unless `threads` says otherwise. */
export async function openSegmenter(
  bundle: string, options: Omit<SegmenterOptions, "ort" | "provider"> = {},
): Promise<Segmenter> {
  const ort = await optional("onnxruntime-node", () => import("onnxruntime-node"));
  const threads = options.threads ?? availableParallelism();
  return Segmenter.open(folderBundle(bundle), { ...options, ort, provider: "cpu", threads });
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

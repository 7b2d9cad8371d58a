/** A bundle on a web server: any host of static files. */

import type { BundleSource, OnBytes } from "./bundle.js";
import { ScclipError, reasonOf } from "./errors.js";
import type { FileSpec } from "./manifest.js";

/** A download of which nothing comes for so long is given up, milliseconds. */
const PATIENCE = 60_000;

/**
 * A bundle under a web address.
 *
 * Listed files are asked for with the first 16 digits of their SHA-256 as query, so that a cache may keep each for ever.
 *
 * @param address Of the bundle's folder, absolute or relative to the page (or worker).
 */
export function fetchBundle(address: string | URL): BundleSource {
  const text = String(address);
  const base = new URL(text.endsWith("/") ? text : `${text}/`, globalThis.location?.href);
  return {
    name: decodeURIComponent(base.pathname.split("/").filter(Boolean).pop() ?? base.host),
    read: (file, spec, onBytes) => download(base, file, "default", spec, onBytes),
    readAgain: (file, spec, onBytes) => download(base, file, "reload", spec, onBytes),
  };
}

async function download(
  base: URL, file: string, cache: RequestCache, spec?: FileSpec, onBytes?: OnBytes,
): Promise<Uint8Array> {
  const address = new URL(file, base);
  if (spec) address.search = spec.sha256.slice(0, 16);
  const stalled = new AbortController();
  const wait = (): ReturnType<typeof setTimeout> =>
    setTimeout(() => stalled.abort(new Error(`nothing came for ${PATIENCE / 1000} seconds`)), PATIENCE);
  let timer = wait();
  let response: Response;
  try {
    response = await fetch(address, { cache, signal: stalled.signal });
    if (response.ok && response.body) {
      return await collect(response.body, spec?.bytes ?? 0, (bytes) => {
        clearTimeout(timer);
        timer = wait();
        onBytes?.(bytes);
      });
    }
  } catch (error) {
    throw new ScclipError("BundleError", `can't get ${address.href}: ${reasonOf(error)}. Is there a connection?`, file);
  } finally {
    clearTimeout(timer);
  }
  throw new ScclipError(
    "BundleError", `can't get ${address.href}: the server answered ${response.status}. Is this the address of a bundle?`, file);
}

async function collect(body: ReadableStream<Uint8Array>, expected: number, onBytes: OnBytes): Promise<Uint8Array> {
  let out = new Uint8Array(expected);
  let length = 0;
  const reader = body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (length + part.value.length > out.length) {
      const larger = new Uint8Array(Math.max(2 * out.length, length + part.value.length));
      larger.set(out.subarray(0, length));
      out = larger;
    }
    out.set(part.value, length);
    length += part.value.length;
    onBytes(length);
  }
  return out.subarray(0, length);
}

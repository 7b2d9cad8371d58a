/** A static file server on this machine, for tests and pictures: with the headers of cross-origin isolation or without. */

import { createReadStream, existsSync, statSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";

const TYPES: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css",
  ".json": "application/json", ".svg": "image/svg+xml", ".png": "image/png", ".wasm": "application/wasm",
};

export interface Served {
  /** Address of the folder, with a slash at the end. */
  readonly url: string;
  close(): Promise<void>;
}

/**
 * Serve a folder (or several, the first that has a file) on a free port of this machine.
 *
 * @param cut Whether the connection is to break in the middle of a file.
 */
export function serve(
  folder: string | readonly string[], headers: Readonly<Record<string, string>> = {}, cut: (name: string) => boolean = () => false,
): Promise<Served> {
  const server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url ?? "/", "http://host").pathname);
    const name = normalize(path.endsWith("/") ? `${path}index.html` : path);
    const file = [folder].flat().map((root) => join(root, name)).find((found) => existsSync(found));
    if (file === undefined) {
      response.writeHead(404).end();
      return;
    }
    const { size } = statSync(file);
    response.writeHead(200, { "Content-Type": TYPES[extname(file)] ?? "application/octet-stream", "Content-Length": size, ...headers });
    if (cut(name)) {
      createReadStream(file, { end: Math.floor(size / 2) }).on("end", () => response.destroy()).pipe(response, { end: false });
    } else {
      createReadStream(file).pipe(response);
    }
  });
  return new Promise((settle) => {
    server.listen(0, "127.0.0.1", () => {
      settle({
        url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
        close: () => new Promise<void>((done) => {
          server.closeAllConnections();
          server.close(() => done());
        }),
      });
    });
  });
}

/** The headers that the built site asks for. */
export const ISOLATED: Readonly<Record<string, string>> = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

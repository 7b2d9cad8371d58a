/** Chromium of the system, without a window. */

import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { chromium, type Browser } from "playwright-core";

/** As root there is no sandbox to be had; the pages are our own. */
export const SANDBOX = "--no-sandbox";

/** The path of the first of some programs that is installed, or null. */
export function findProgram(...names: readonly string[]): string | null {
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  const paths = names.flatMap((name) => folders.map((folder) => join(folder, name)));
  return paths.find((path) => existsSync(path)) ?? null;
}

/** The path of a Chromium, or null. */
export function findChromium(): string | null {
  return findProgram("chromium", "chromium-browser", "google-chrome");
}

export function launch(executablePath: string, args: readonly string[] = []): Promise<Browser> {
  return chromium.launch({ executablePath, args: [SANDBOX, ...args] });
}

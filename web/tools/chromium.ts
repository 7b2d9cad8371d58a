/** Chromium of the system, without a window. */

import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { chromium, type Browser } from "playwright-core";

/** As root there is no sandbox to be had; the pages are our own. */
export const SANDBOX = "--no-sandbox";
const NAMES = ["chromium", "chromium-browser", "google-chrome"];

/** The path of a Chromium, or null. */
export function findChromium(): string | null {
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  const paths = NAMES.flatMap((name) => folders.map((folder) => join(folder, name)));
  return paths.find((path) => existsSync(path)) ?? null;
}

export function launch(executablePath: string, args: readonly string[] = []): Promise<Browser> {
  return chromium.launch({ executablePath, args: [SANDBOX, ...args] });
}

/**
 * The other side of benchmarks/cpu/web.py: `bench.js node|wasm|wasm-int8|webgpu` segments the pictures named on standard input, a
 * path a line, and answers each with a line of JSON: seconds from pixels to labels, and the labels.
 * `bench.js first` tells the processor time of a whole Chromium from opening the page to the first overlay.
 * `bench.js names ROUNDS BUNDLE BUNDLE` embeds new names with both bundles in turn, for benchmarks/cpu/web_names.py.
 */

import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium, type Page } from "playwright-core";
import { loadImage, openSegmenter } from "../src/node.js";
import type { Pixels } from "../src/resize.js";
import { findChromium, launch, SANDBOX } from "./chromium.js";
import { ISOLATED, serve } from "./serve.js";

const SWIFTSHADER = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan", "--use-vulkan=swiftshader"];
const TICKS = 100; // of /proc, a second

interface Answer {
  readonly seconds: number;
  readonly labels: string;
}

type Segment = (image: Pixels) => Promise<Answer>;

const say = (document: object): void => void process.stdout.write(`${JSON.stringify(document)}\n`);
const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");

function requireChromium(): string {
  const path = findChromium();
  if (!path) throw new Error("no Chromium here");
  return path;
}

async function inNode(): Promise<[Segment, () => Promise<void>]> {
  const segmenter = await openSegmenter("dist/site/demo.scclip", { threads: Number(process.env["THREADS"] ?? 2) });
  const segment: Segment = async (image) => {
    const start = performance.now();
    const { labels } = await segmenter.segment(image);
    return { seconds: (performance.now() - start) / 1000, labels: base64(Uint8Array.from(labels)) };
  };
  return [segment, async () => {}];
}

async function inBrowser(mode: string): Promise<[Segment, () => Promise<void>]> {
  const browser = await launch(requireChromium(), mode === "webgpu" ? SWIFTSHADER : []);
  const served = await serve(["dist/site", "build/bench"], ISOLATED);
  const context = await browser.newContext({ serviceWorkers: "block" });
  const page = await context.newPage();
  await page.goto(`${served.url}favicon.svg`); // nothing else runs beside the worker
  await page.evaluate(async (name) => {
    const worker = new Worker("bench_worker.js", { type: "module", name });
    const heard = (): Promise<any> => new Promise((settle) => worker.addEventListener("message", ({ data }) => settle(data), { once: true }));
    const { threads } = await heard();
    Object.assign(globalThis, { worker, heard, threads });
  }, mode);
  const segment: Segment = ({ data, width, height }) =>
    page.evaluate(async ([text, columns, rows]) => {
      const { worker, heard } = globalThis as any;
      const pixels = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
      worker.postMessage({ data: pixels, width: columns, height: rows });
      const { seconds, labels } = await heard();
      return { seconds, labels: btoa(Array.from(labels as Uint8Array, (label) => String.fromCharCode(label)).join("")) };
    }, [base64(new Uint8Array(data)), width, height] as const);
  return [segment, async () => {
    await browser.close();
    await served.close();
  }];
}

/** Processor seconds of this process's descendants so far. */
function spent(): number {
  const children = new Map<string, string[]>();
  const seconds = new Map<string, number>();
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const text = readFileSync(`/proc/${pid}/stat`, "utf8");
      const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
      children.set(fields[1], [...(children.get(fields[1]) ?? []), pid]);
      seconds.set(pid, (Number(fields[11]) + Number(fields[12])) / TICKS);
    } catch {
      continue; // it ended meanwhile
    }
  }
  const tree = [...(children.get(String(process.pid)) ?? [])];
  for (const pid of tree) tree.push(...(children.get(pid) ?? []));
  return tree.reduce((sum, pid) => sum + (seconds.get(pid) ?? 0), 0);
}

async function visit(page: Page, url: string): Promise<void> {
  await page.goto(url);
  await page.locator("#status", { hasText: "Ready" }).waitFor({ timeout: 300_000 });
  await page.getByRole("button", { name: "Use the sample" }).click();
  await page.locator("#status", { hasText: /classes found/ }).waitFor({ timeout: 300_000 });
}

/** The second and later visits: the first one fills the cache. */
async function first(visits: number): Promise<void> {
  const profile = mkdtempSync(join(tmpdir(), "scclip-web-"));
  const served = await serve("dist/site", ISOLATED);
  const context = await chromium.launchPersistentContext(profile, { executablePath: requireChromium(), args: [SANDBOX] });
  try {
    const page = context.pages()[0] ?? (await context.newPage());
    await visit(page, served.url);
    for (let count = 0; count < visits; count++) {
      const [before, start] = [spent(), performance.now()];
      await visit(page, served.url);
      say({ processor_seconds: spent() - before, seconds: (performance.now() - start) / 1000 });
    }
  } finally {
    await context.close();
    await served.close();
    rmSync(profile, { recursive: true, force: true });
  }
}

const NAMES = ["sky", "grass", "dog", "night stand", "traffic light", "brick wall", "wooden floor", "cat"];

/** Processor seconds of a round's names by each bundle, and the largest difference of their embeddings. */
async function names(rounds: number, bundles: readonly string[]): Promise<void> {
  const segmenters = await Promise.all(bundles.map((bundle) => openSegmenter(bundle, { threads: Number(process.env["THREADS"] ?? 2) })));
  for (const segmenter of segmenters) await segmenter.setClasses("a lamp post"); // what is loaded once, is
  for (let round = 0; round < rounds; round++) {
    const processor: number[] = [];
    for (const segmenter of segmenters) {
      const start = process.cpuUsage();
      await segmenter.setClasses(NAMES.map((name) => `${name} ${round}`));
      const { user, system } = process.cpuUsage(start);
      processor.push((user + system) / 1e6);
    }
    const [first, second] = segmenters.map((segmenter) => segmenter.vocabulary.embeddings);
    say({ processor_seconds: processor, difference: first.reduce((most, value, at) => Math.max(most, Math.abs(value - second[at])), 0) });
  }
}

const [mode = "", count = "5", ...bundles] = process.argv.slice(2);
if (mode === "first") {
  await first(Number(count));
} else if (mode === "names") {
  await names(Number(count), bundles);
} else {
  const [segment, close] = mode === "node" ? await inNode() : await inBrowser(mode);
  say({ ready: mode });
  for await (const line of createInterface({ input: process.stdin })) say(await segment(await loadImage(line)));
  await close();
}

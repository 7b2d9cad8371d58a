import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import sharp from "sharp";
import { folderBundle, loadImage, openSegmenter } from "../../src/node.js";
import type { OrtModule } from "../../src/runtime.js";
import { Segmenter, type SegmenterOptions } from "../../src/segmenter.js";
import { agreement, bytesOf, crop, DEMO, fixtures, floatsOf, SCENE, vectors } from "../fixtures.js";

const folder = mkdtempSync(join(tmpdir(), "scclip-web-"));
after(() => rmSync(folder, { recursive: true }));

const scene = await loadImage(SCENE);
const segmenter = await openSegmenter(DEMO);

for (const [number, wanted] of fixtures.scenes.entries()) {
  const { part, labels, ...options } = wanted;
  test(`labels of the scene are Python's: ${JSON.stringify({ part, ...options })}`, async () => {
    const opening: Omit<SegmenterOptions, "ort" | "provider"> = {
      wholeImage: options.whole_image ?? false,
      ...(options.precision ? { precision: options.precision } : {}),
      ...(options.short_side ? { shortSide: options.short_side } : {}),
      ...(options.stride ? { stride: options.stride } : {}),
    };
    const own: Segmenter = number < 4 ? segmenter : await openSegmenter(DEMO, opening);
    if (options.classes) await own.setClasses(options.classes);
    const result = await own.segment(crop(scene, part), {
      ...(options.prob_threshold ? { probThreshold: options.prob_threshold } : {}),
      ...(options.area_threshold ? { areaThreshold: options.area_threshold } : {}),
    });
    // Int8 products saturate on processors without VNNI, so that Python's own labels differ between them.
    const least = options.precision === "int8" ? 0.95 : 0.999;
    assert.ok(agreement(result.labels, bytesOf(labels)) >= least, `${agreement(result.labels, bytesOf(labels))}`);
  });
}

test("embeddings of names are Python's", async () => {
  for (const { classes, templates, rows } of fixtures.embeddings) {
    const own = await openSegmenter(DEMO, { templates });
    await own.setClasses(classes);
    const wanted = floatsOf(rows);
    const worst = own.vocabulary.embeddings.reduce((most, value, at) => Math.max(most, Math.abs(value - wanted[at])), 0);
    assert.ok(worst < 1e-5, `${worst}`);
  }
});

test("another vocabulary needs no second encoding", async () => {
  const encoded = await segmenter.encode(scene);
  const before = segmenter.decode(encoded).labels;
  assert.ok(agreement((await segmenter.segment(scene)).labels, before) >= 0.999);
  const own = await openSegmenter(DEMO);
  await own.setClasses(["brick", "wood"]);
  const after = own.decode(encoded);
  assert.deepEqual(after.classes, ["brick", "wood"]);
  await own.close();
  assert.deepEqual(segmenter.decode(encoded).labels, before);
});

test("a closed segmenter refuses what is under way and what comes, and still decodes", async () => {
  const closed = { code: "BackendError", message: /closed/ };
  for (const threads of [1, 2]) {
    const own = await openSegmenter(DEMO, { threads });
    const encoded = await own.encode(scene);
    const refused = [assert.rejects(own.segment(scene), closed), assert.rejects(own.setClasses("zebra; sand"), closed)];
    await Promise.all([own.close(), own.close(), ...refused]);
    await assert.rejects(own.encode(scene), closed);
    await assert.rejects(own.setClasses("zebra; sand"), closed);
    assert.equal(own.decode(encoded).labels.length, scene.width * scene.height);
  }
});

test("the text encoder is loaded once, also for two lists at a time", async () => {
  const { read, ...source } = folderBundle(DEMO);
  const files: string[] = [];
  const counted = { ...source, read: (file: string) => (files.push(file), read(file)) };
  const own = await Segmenter.open(counted, { ort: await import("onnxruntime-node") as unknown as OrtModule, provider: "cpu" });
  await Promise.all([own.setClasses("zebra"), own.setClasses("sand")]);
  const { file: whole, resumed } = own.bundle.manifest.textEncoder;
  assert.deepEqual(files.filter((file) => file === whole || file === resumed?.file), ["text_encoder.resumed.onnx"]);
  await own.close();
});

test("windows and names are told as they are done", async () => {
  const seen: number[][] = [];
  await segmenter.encode(scene, (done, total) => void seen.push([done, total]));
  assert.deepEqual(seen[seen.length - 1], [6, 6]);
});

test("options outside their range and precisions that the bundle lacks are refused", async () => {
  const refused = (options: object, field: string): Promise<void> =>
    assert.rejects(openSegmenter(DEMO, options), (error: any) => error.field === field && !error.message.includes("\n"));
  await refused({ precision: "fp16" }, "precision");
  await refused({ stride: 225 }, "stride");
  await refused({ stride: 0 }, "stride");
  await refused({ stride: 112, wholeImage: true }, "stride");
  await refused({ shortSide: 2049 }, "shortSide");
  await refused({ shortSide: 1.5 }, "shortSide");
  await refused({ templates: "x" }, "templates");
  assert.throws(() => segmenter.decode({} as never, { probThreshold: 2 }), { code: "OptionError", field: "probThreshold" });
  await assert.rejects(openSegmenter("no/such.scclip"), { code: "BundleError" });
});

test("pictures come upright, over white, and are refused by name", async () => {
  const file = join(folder, "turned.png");
  const raw = { width: 3, height: 2, channels: 4 as const };
  const pixels = Buffer.from(Array.from({ length: 6 }, (_, at) => [at * 20, 0, 0, at === 5 ? 0 : 255]).flat());
  await sharp(pixels, { raw }).withMetadata({ orientation: 6 }).png().toFile(file);
  const image = await loadImage(file);
  assert.deepEqual([image.width, image.height], [2, 3]);
  assert.deepEqual([...image.data.subarray(0, 3)], [60, 0, 0]); // the lower left one is up now
  assert.deepEqual([...image.data.subarray(12, 15)], [255, 255, 255]);
  writeFileSync(join(folder, "no.png"), "text");
  await assert.rejects(loadImage(join(folder, "no.png")), /can't read the image .*no\.png/);
  await assert.rejects(loadImage(SCENE, 1000), { code: "ImageError" });
});

function command(...args: string[]) {
  return spawnSync(process.execPath, ["dist/lib/cli.js", ...args], { encoding: "utf8" });
}

test("the command writes labels and an overlay, and keeps files that exist", async () => {
  const out = join(folder, "out");
  const first = command(DEMO, SCENE, "--output", out, "--json");
  assert.equal(first.status, 0, first.stderr);
  assert.deepEqual(readdirSync(out).sort(), ["scene.labels.png", "scene.overlay.png"]);
  const report = JSON.parse(first.stdout) as { shares: Record<string, number> };
  assert.ok(Math.abs(Object.values(report.shares).reduce((sum, share) => sum + share, 0) - 1) < 1e-9);
  const second = command(DEMO, SCENE, "--output", out);
  assert.equal(second.status, 2);
  assert.match(second.stderr, /^scclip-web: .*scene\.labels\.png exists; use --force or another --output\n$/);
  assert.equal(command(DEMO, SCENE, "--output", out, "--force").status, 0);
});

test("the command refuses bad input in one line, and goes on after a bad image", () => {
  for (const args of [[], [DEMO], ["nowhere", SCENE], [DEMO, SCENE, "--stride", "x"], [DEMO, SCENE, "--colour"],
    [DEMO, SCENE, "--classes", "a", "--classes-file", "b"], [DEMO, SCENE, "--background", "a"]]) {
    const { status, stderr } = command(...args);
    assert.equal(status, 2, args.join(" "));
    assert.match(stderr, /^scclip-web: [^\n]+\n$/, args.join(" "));
  }
  const { status, stdout } = command(DEMO, "missing.png", SCENE, "--classes", "zebra; sand", "--output", join(folder, "more"));
  assert.equal(status, 2);
  assert.match(stdout, /scene\.png: (zebra|sand) /);
});

/** ONNX Runtime whose GPU gives the processor's features, or others. */
function withGpu(differs: boolean): { ort: OrtModule; released: () => number } {
  let released = 0;
  const create = async (_: unknown, { executionProviders: [provider] }: { executionProviders: string[] }) => ({
    inputNames: ["windows", "text"], outputNames: ["features", "logits"],
    run: async () => ({ features: { data: vectors(provider === "webgpu" && differs ? 2 : 1, 196, 192) } }),
    release: async () => void released++,
  });
  class Tensor {}
  return { ort: { InferenceSession: { create }, Tensor } as unknown as OrtModule, released: () => released };
}

test("a GPU whose features are not the processor's is refused", async () => {
  const good = withGpu(false);
  const own = await Segmenter.open(folderBundle(DEMO), { ort: good.ort, provider: "webgpu" });
  assert.equal(good.released(), 1);
  await own.close();
  assert.equal(good.released(), 2);
  await assert.rejects(Segmenter.open(folderBundle(DEMO), { ort: withGpu(true).ort, provider: "webgpu" }),
    (error: any) => error.code === "BackendError" && error.field === "provider" && /cosine/.test(error.message));
});

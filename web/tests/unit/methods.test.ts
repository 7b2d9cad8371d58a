import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import * as web from "onnxruntime-web/wasm";
import { folderBundle, loadImage, openSegmenter } from "../../src/node.js";
import { Segmenter, type DecodeOptions, type SegmenterOptions } from "../../src/segmenter.js";
import { agreement, bytesOf, crop, DEMO, floatsOf, SCENE } from "../fixtures.js";
import { methods, methodVocabulary, writeMethodBundle, type DemoCase, type MethodCase } from "../methods.js";

const folder = mkdtempSync(join(tmpdir(), "scclip-web-"));
after(() => rmSync(folder, { recursive: true }));

const scene = await loadImage(SCENE);
web.env.wasm.numThreads = 1;

function openingOf(wanted: MethodCase | DemoCase): Omit<SegmenterOptions, "ort" | "provider"> {
  return {
    ...(wanted.whole_image === undefined ? {} : { wholeImage: wanted.whole_image }),
    ...(wanted.preset === undefined ? {} : { preset: wanted.preset }),
  };
}

function decodingOf(wanted: MethodCase | DemoCase): DecodeOptions {
  return {
    ...(wanted.refine === undefined ? {} : { refine: wanted.refine }),
    ...(wanted.prob_threshold === undefined ? {} : { probThreshold: wanted.prob_threshold }),
    ...(wanted.area_threshold === undefined ? {} : { areaThreshold: wanted.area_threshold }),
  };
}

/** As a browser opens a bundle: on WebAssembly, with the files as bytes. */
async function openOnWeb(bundle: string, options: Omit<SegmenterOptions, "ort" | "provider">): Promise<Segmenter> {
  const { name, read } = folderBundle(bundle);
  return Segmenter.open({ name, read }, { ...options, ort: web, provider: "wasm" });
}

for (const method of Object.keys(methods.bundles)) {
  test(`on WebAssembly labels of ${method} are Python's: windows, smaller ones, whole images`, async () => {
    const bundle = writeMethodBundle(folder, method, "web");
    for (const wanted of methods.cases.filter((one) => one.method === method).slice(0, 4)) {
      const segmenter = await openOnWeb(bundle, openingOf(wanted));
      segmenter.vocabulary = methodVocabulary(method);
      const { labels } = await segmenter.segment(crop(scene, wanted.part), decodingOf(wanted));
      assert.ok(agreement(labels, bytesOf(wanted.labels)) >= 0.999, `${agreement(labels, bytesOf(wanted.labels))}`);
      await segmenter.close();
    }
  });

  test(`labels of ${method} are Python's: windows, smaller ones, whole images, settings of a benchmark`, async () => {
    const bundle = writeMethodBundle(folder, method);
    for (const wanted of methods.cases.filter((one) => one.method === method)) {
      const what = JSON.stringify({ ...wanted, labels: undefined, confidence: undefined, rows: undefined });
      const segmenter = await openSegmenter(bundle, openingOf(wanted));
      if (wanted.classes === undefined) segmenter.vocabulary = methodVocabulary(method, wanted.last);
      else await segmenter.setClasses(wanted.classes);
      if (wanted.rows) {
        const rows = floatsOf(wanted.rows);
        segmenter.vocabulary.embeddings.forEach((value, at) => assert.ok(Math.abs(value - rows[at]) < 1e-5, what));
      }
      const result = await segmenter.segment(crop(scene, wanted.part), { ...decodingOf(wanted), confidence: true });
      assert.deepEqual(result.classes, wanted.names, what);
      const labels = bytesOf(wanted.labels);
      assert.ok(agreement(result.labels, labels) >= 0.999, `${what}: ${agreement(result.labels, labels)}`);
      const confidence = floatsOf(wanted.confidence);
      let at = 0;
      for (let y = 0; y < result.height; y += 13) {
        for (let x = 0; x < result.width; x += 13, at++) {
          assert.ok(Math.abs((result.confidence?.[y * result.width + x] ?? NaN) - confidence[at]) < 1e-3, `${what}: ${y}, ${x}`);
        }
      }
      await segmenter.close();
    }
  });
}

test("names are embedded alike from where their templates' beginnings end, and as a whole", async () => {
  const bundle = join(folder, "scclip.scclip");
  const manifest = JSON.parse(readFileSync(join(bundle, "bundle.json"), "utf8"));
  assert.ok(manifest.text_encoder.resumed);
  delete manifest.text_encoder.resumed;
  const whole = join(folder, "whole.scclip");
  cpSync(bundle, whole, { recursive: true });
  writeFileSync(join(whole, "bundle.json"), JSON.stringify(manifest));
  // More templates than beginnings are kept, and some of them longer than what is.
  const more = Array.from({ length: 140 }, (_, index) => `${"very ".repeat(index % 20)}${index} {}`);
  for (const templates of ["imagenet", "none", more]) {
    const [resumed, expected] = await Promise.all([bundle, whole].map(async (path) => {
      const segmenter = await openSegmenter(path, { templates });
      await segmenter.setClasses("dog; night sky"); // twice: some beginnings are known by then
      await segmenter.setClasses("dog; a red brick wall, wall; Zürich");
      const { embeddings } = segmenter.vocabulary;
      await segmenter.close();
      return embeddings;
    }));
    const worst = resumed.reduce((most, value, at) => Math.max(most, Math.abs(value - expected[at])), 0);
    assert.ok(worst < 1e-5, `${worst}`);
  }
});

for (const [number, wanted] of methods.demo.entries()) {
  const { part, labels, change, ...options } = wanted;
  test(`labels of the demo with a manifest of format 2 are Python's: ${JSON.stringify({ ...change, ...options })}`, async () => {
    const bundle = join(folder, `demo${number}.scclip`);
    cpSync(DEMO, bundle, { recursive: true });
    const manifest = JSON.parse(readFileSync(join(bundle, "bundle.json"), "utf8"));
    Object.assign(manifest, { format_version: 2, calibration: { method: "changed" } });
    for (const [name, members] of Object.entries(change)) manifest[name] = { ...manifest[name], ...members };
    writeFileSync(join(bundle, "bundle.json"), JSON.stringify(manifest));
    const segmenter = await openSegmenter(bundle, openingOf(wanted));
    if (wanted.classes !== undefined) await segmenter.setClasses(wanted.classes);
    const result = await segmenter.segment(crop(scene, part), decodingOf(wanted));
    assert.ok(agreement(result.labels, bytesOf(labels)) >= 0.999, `${agreement(result.labels, bytesOf(labels))}`);
  });
}

test("presets and refinements that there aren't, or that exclude each other, are refused", async () => {
  const refused = (field: string) => ({ code: "OptionError", field });
  await assert.rejects(openSegmenter(DEMO, { preset: "voc21" }), refused("preset"));
  const segmenter = await openSegmenter(join(folder, "gem.scclip"));
  segmenter.vocabulary = methodVocabulary("gem");
  const encoded = await segmenter.encode(crop(scene, [0, 0, 120, 120]));
  assert.throws(() => segmenter.decode(encoded, { refine: "pamr" }), refused("refine"));
  assert.throws(() => segmenter.decode(encoded, { refine: "crf" as "pamr" }), refused("refine"));
  await assert.rejects(openSegmenter(join(folder, "segearth.scclip"), { preset: "potsdamm" }), /there are .*potsdam/);
});

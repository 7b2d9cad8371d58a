import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { findBackground, parseClasses, withoutComments } from "../../src/classes.js";
import { wholePrompts } from "../../src/prompts.js";
import { loadTemplates, TEMPLATE_SETS } from "../../src/templates.js";
import { Tokenizer } from "../../src/tokenizer.js";
import { Embedder, parseVocabulary } from "../../src/vocabulary.js";
import { DEMO, fixtures } from "../fixtures.js";

const tokenizer = Tokenizer.parse(readFileSync(`${DEMO}/tokenizer.json`, "utf8"));

test("token ids are those of Python", () => {
  for (const { text, ids } of fixtures.tokens) assert.deepEqual(tokenizer.encode(text), ids, text);
});

test("text that can't be repaired without a guess is refused", () => {
  for (const text of ["cafÃ©", "don\u0092t", "<start_of_text>"]) {
    assert.throws(() => tokenizer.encode(text), { code: "VocabularyError", field: "classes" }, text);
  }
});

test("another tokenizer is refused", () => {
  const file = JSON.parse(readFileSync(`${DEMO}/tokenizer.json`, "utf8")) as { model: { type: string } };
  file.model.type = "WordPiece";
  assert.throws(() => Tokenizer.parse(JSON.stringify(file)), { code: "BundleError" });
  assert.throws(() => Tokenizer.parse("{}"), { code: "BundleError" });
});

test("class lists are read as in Python", () => {
  for (const { source, classes, background, refused } of fixtures.classes) {
    if (refused) {
      assert.throws(() => parseClasses(source), { code: "VocabularyError" }, JSON.stringify(source));
      continue;
    }
    assert.deepEqual(parseClasses(source), classes);
    assert.equal(findBackground(parseClasses(source).map((names) => names[0])), background);
  }
});

test("a background is named, left out or misspelt", () => {
  assert.equal(findBackground(["a", "Background", "c"], "C"), 2);
  assert.equal(findBackground(["a", "background"], "none"), null);
  assert.throws(() => findBackground(["a", "b"], "sky"), { code: "VocabularyError", field: "background" });
});

test("comments of class files are left out", () => {
  assert.deepEqual(parseClasses(withoutComments("# all\r\ncat\n  # more\ndog, puppy\n")), [["cat"], ["dog", "puppy"]]);
});

test("template sets are those of Python, and one's own are checked", () => {
  const found = Object.fromEntries(Object.entries(TEMPLATE_SETS).map(([name, patterns]) => [name, patterns.join("\n")]));
  assert.deepEqual(found, fixtures.templates);
  assert.deepEqual(loadTemplates(["a {}"]), ["a {}"]);
  for (const wrong of ["imagenett", ["none"], ["{} {}"], []]) {
    assert.throws(() => loadTemplates(wrong), { code: "VocabularyError", field: "templates" });
  }
});

test("a name is embedded once, as the mean of its prompts", async () => {
  let rows = 0;
  const encode = async (tokens: BigInt64Array, count: number, length: number): Promise<Float32Array> => {
    rows += count;
    return Float32Array.from({ length: count * 2 }, (_, at) =>
      at % 2 === 0 ? Number(tokens[Math.floor(at / 2) * length + 1]) : 1e5);
  };
  const embedder = new Embedder(wholePrompts(encode), tokenizer, ["a {}", "the {}"], 77);
  const first = await embedder.embed([["dog"], ["cat", "kitten"]]);
  assert.equal(rows, 6);
  assert.deepEqual(first.queryClass, [0, 1, 1]);
  const second = await embedder.embed([["kitten"], ["dog"], ["background"]]);
  assert.equal(rows, 8);
  assert.equal(second.background, 2);
  assert.deepEqual(second.embeddings.subarray(2, 4), first.embeddings.subarray(0, 2));
  await assert.rejects(embedder.embed([["dog ".repeat(100)]]), /too long/);
});

test("a vocabulary of another model, or a damaged one, is refused", () => {
  const bytes = new Uint8Array(readFileSync(`${DEMO}/vocabularies/classes.safetensors`));
  const manifest = JSON.parse(readFileSync(`${DEMO}/bundle.json`, "utf8")) as { text_encoder: { model_sha256: string } };
  const model = manifest.text_encoder.model_sha256;
  const vocabulary = parseVocabulary(bytes, model, 192, "classes");
  assert.equal(vocabulary.classes.length, 24);
  assert.equal(vocabulary.embeddings.length, 24 * 192);
  const field = (name: string) => ({ code: "VocabularyError", field: name });
  assert.throws(() => parseVocabulary(bytes, "0".repeat(64), 192, "classes"), field("text_model_sha256"));
  assert.throws(() => parseVocabulary(bytes, model, 512, "classes"), field("embeddings"));
  assert.throws(() => parseVocabulary(bytes.subarray(0, 40), model, 192, "classes"), field("vocabulary"));
  const damaged = bytes.slice();
  damaged.fill(0, damaged.length - 768);
  assert.throws(() => parseVocabulary(damaged, model, 192, "classes"), field("embeddings"));
});

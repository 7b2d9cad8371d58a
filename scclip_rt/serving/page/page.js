// Built from web/page by `npm run served`: change it there.

// page/view.ts
var MAX_CANVAS_PIXELS = 4e6;
function element(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}
var picture = element("picture");
var overlay = element("overlay");
var stage = element("stage");
var point = element("point");
var shown = null;
var visible = /* @__PURE__ */ new Set();
var place = null;
var taken = 0;
function tell(text, error = false) {
  const status = element("status");
  status.textContent = text;
  status.classList.toggle("error", error);
}
function complain(message) {
  tell(`${message[0].toUpperCase()}${message.slice(1)}${/[.?!]$/.test(message) ? "" : "."}`, true);
}
function busy(on) {
  element("run").disabled = on;
  if (on) stage.setAttribute("aria-busy", "true");
  else stage.removeAttribute("aria-busy");
}
function context(canvas) {
  const found = canvas.getContext("2d");
  if (!found) throw new Error("this browser can't draw");
  return found;
}
function resize(canvas, width, height) {
  const scale = Math.min(1, Math.sqrt(MAX_CANVAS_PIXELS / (width * height)));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
}
function unreadable(blob, name) {
  if (blob.size === 0) return "This file is empty.";
  if (/hei[cf]/i.test(blob.type) || /\.hei[cf]$/i.test(name)) {
    return "This browser can't show HEIC pictures: save it as JPEG or PNG, and choose that.";
  }
  return "This file is no picture that the browser can show, or it is damaged or too large.";
}
async function take(blob, name, maxPixels) {
  const turn = ++taken;
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    if (turn === taken) tell(unreadable(blob, name), true);
    return false;
  }
  const { width, height } = bitmap;
  const fits = width * height <= maxPixels;
  if (turn === taken && !fits) {
    tell(`This picture has ${width}\xD7${height} pixels, ${Math.round(width * height / 1e6)} million; the limit is ${maxPixels / 1e6} million.`, true);
  }
  if (turn !== taken || !fits) {
    bitmap.close();
    return false;
  }
  shown = place = null;
  resize(picture, width, height);
  context(picture).drawImage(bitmap, 0, 0, picture.width, picture.height);
  bitmap.close();
  picture.hidden = false;
  overlay.hidden = point.hidden = element("controls").hidden = element("hint").hidden = true;
  element("readout").textContent = "\xA0";
  stage.classList.add("filled");
  return true;
}
function show(result) {
  shown = result;
  visible = new Set(result.parts.map((part) => part.label));
  resize(overlay, result.width, result.height);
  overlay.hidden = false;
  legend(result.parts);
  paint();
  element("controls").hidden = false;
}
function paint() {
  if (!shown) return;
  const { labels, parts, width, height } = shown;
  const pixels = new ImageData(overlay.width, overlay.height);
  const words = new Uint32Array(pixels.data.buffer);
  const table = new Uint32Array(65536);
  for (const { label, colour: [red, green, blue] } of parts) {
    if (visible.has(label)) table[label] = (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
  }
  for (let y = 0, to = 0; y < overlay.height; y++) {
    const row = Math.floor((y + 0.5) * height / overlay.height) * width;
    for (let x = 0; x < overlay.width; x++, to++) {
      words[to] = table[labels[row + Math.floor((x + 0.5) * width / overlay.width)]];
    }
  }
  context(overlay).putImageData(pixels, 0, 0);
}
function fade() {
  overlay.style.opacity = String(Number(element("alpha").value) / 100);
}
function legend(parts) {
  const rows = parts.map(({ label, name, share, colour }) => {
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      if (box.checked) visible.add(label);
      else visible.delete(label);
      paint();
    });
    const swatch = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
    context(swatch).fillStyle = `rgb(${colour.join(" ")})`;
    context(swatch).fillRect(0, 0, 1, 1);
    swatch.setAttribute("aria-hidden", "true");
    const text = Object.assign(document.createElement("span"), { textContent: name });
    const part = Object.assign(document.createElement("span"), { className: "share", textContent: `${(100 * share).toFixed(1)} %` });
    const row = document.createElement("label");
    row.append(box, swatch, text, part);
    const item = document.createElement("li");
    item.append(row);
    return item;
  });
  element("legend").replaceChildren(...rows);
}
function toggleAll(on) {
  visible = new Set(on ? shown?.parts.map((part) => part.label) : []);
  for (const box of element("legend").querySelectorAll("input")) box.checked = on;
  paint();
}
function readOut(x, y) {
  if (!shown) return;
  const { width, height, labels, parts, sure } = shown;
  x = Math.max(0, Math.min(width - 1, Math.round(x)));
  y = Math.max(0, Math.min(height - 1, Math.round(y)));
  place = [x, y];
  const at = y * width + x;
  const part = parts.find(({ label }) => label === labels[at]);
  element("readout").textContent = part ? `${part.name}${sure ? `, ${Math.round(100 * sure(at))} % sure` : ""}` : "\xA0";
}
function follow(event) {
  const box = overlay.getBoundingClientRect();
  if (!shown || !box.width) return;
  point.hidden = true;
  const scale = shown.width / box.width;
  readOut((event.clientX - box.left) * scale - 0.5, (event.clientY - box.top) * scale - 0.5);
}
var MOVES = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1]
};
function step(event) {
  const move = MOVES[event.key];
  if (!move || !shown) return;
  event.preventDefault();
  const { width, height } = shown;
  const far = Math.max(1, Math.round(Math.max(width, height) / (event.shiftKey ? 500 : 50)));
  const [x, y] = place ?? [width / 2, height / 2];
  readOut(x + far * move[0], y + far * move[1]);
  const [left, top] = place ?? [0, 0];
  const box = overlay.getBoundingClientRect();
  const frame = stage.getBoundingClientRect();
  point.hidden = false;
  point.style.left = `${box.left - frame.left - stage.clientLeft + (left + 0.5) * box.width / width}px`;
  point.style.top = `${box.top - frame.top - stage.clientTop + (top + 0.5) * box.height / height}px`;
}
function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1e4);
}
function listen(chosen, asked, maxPixels = Infinity) {
  const choose = async (blob, name) => {
    if (await take(blob, name, maxPixels)) chosen(blob, name.replace(/\.[^.]*$/, "") || "picture");
  };
  const from = (files) => {
    const file = [...files ?? []].find((one) => one.type.startsWith("image/")) ?? files?.[0];
    if (file) void choose(file, file.name);
  };
  element("form").addEventListener("submit", (event) => {
    event.preventDefault();
    asked();
  });
  element("file").addEventListener("change", ({ target }) => {
    from(target.files);
    target.value = "";
  });
  element("sample").addEventListener("click", async () => {
    try {
      const response = await fetch("sample.png");
      if (!response.ok) throw new Error();
      await choose(await response.blob(), "sample.png");
    } catch {
      tell("The sample can't be loaded.", true);
    }
  });
  element("alpha").addEventListener("input", fade);
  element("all").addEventListener("click", () => toggleAll(true));
  element("none").addEventListener("click", () => toggleAll(false));
  stage.addEventListener("pointermove", follow);
  stage.addEventListener("pointerdown", follow);
  stage.addEventListener("keydown", step);
  document.addEventListener("paste", (event) => from(event.clipboardData?.files));
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      stage.classList.add("over");
    });
  }
  for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => stage.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    from(event.dataTransfer?.files);
  });
  fade();
}

// page/served.ts
var classes = element("classes");
var model = element("model");
var key = element("key");
var state = {
  image: null,
  name: "picture",
  answer: null,
  runs: 0,
  /** Each model's own classes. */
  lists: {},
  /** Those of the model that is chosen. */
  own: ""
};
function decodeCounts(text) {
  const counts = [];
  for (let at = 0; at < text.length; ) {
    let value = 0;
    let shift = 0;
    let code;
    do {
      code = text.charCodeAt(at++) - 48;
      value += (code & 31) * 2 ** shift;
      shift += 5;
    } while (code & 32);
    if (code & 16) value -= 2 ** shift;
    if (counts.length > 2) value += counts[counts.length - 2];
    counts.push(value);
  }
  return counts;
}
function paintMask(labels, label, { size: [height, width], counts }) {
  let place2 = 0;
  let on = false;
  for (const count of decodeCounts(counts)) {
    if (on) {
      for (let pixel = place2; pixel < place2 + count; pixel++) {
        labels[pixel % height * width + Math.floor(pixel / height)] = label;
      }
    }
    place2 += count;
    on = !on;
  }
}
function headers(accept) {
  const value = key.value.trim();
  return { Accept: accept, ...value ? { "X-API-Key": value } : {} };
}
async function failure(response) {
  if (response.status === 401) {
    element("key-row").hidden = false;
    key.focus();
  }
  try {
    complain((await response.json()).error);
  } catch {
    complain(`the server answered ${response.status}`);
  }
}
function post(accept, more = {}) {
  const data = new FormData();
  data.append("image", state.image, "picture");
  if (classes.value.trim() !== state.own.trim()) data.append("classes", classes.value);
  if (model.value) data.append("model", model.value);
  for (const [name, value] of Object.entries(more)) data.append(name, value);
  return fetch("v1/segment", { method: "POST", headers: headers(accept), body: data });
}
async function segment() {
  if (!state.image) return;
  const run = ++state.runs;
  busy(true);
  tell("Segmenting \u2026");
  const start = performance.now();
  try {
    const response = await post("application/json", { confidence: "1", boxes: "1" });
    if (run !== state.runs) return;
    if (!response.ok) {
      await failure(response);
      return;
    }
    const answer = await response.json();
    const certain = await confidenceOf(answer);
    if (run !== state.runs) return;
    state.answer = answer;
    display(answer, certain);
    tell(`${answer.segments.length} classes found in ${Math.round(performance.now() - start)} ms.`);
  } catch {
    if (run === state.runs) tell("The server does not answer.", true);
  } finally {
    if (run === state.runs) busy(false);
  }
}
function display({ width, height, unlabelled, segments }, certain) {
  const labels = new Uint16Array(width * height).fill(unlabelled);
  for (const { label, rle } of segments) paintMask(labels, label, rle);
  const parts = segments.map(({ label, name, share, colour }) => {
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    return { label, name, share, colour: [red, green, blue] };
  });
  show({ width, height, labels, parts, sure: certain && ((at) => certain[4 * at] / 255) });
}
async function confidenceOf({ confidence_png: png, width, height }) {
  if (!png) return null;
  const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const context2 = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context2?.drawImage(bitmap, 0, 0);
  return context2?.getImageData(0, 0, width, height).data ?? null;
}
async function savePng() {
  try {
    const response = await post("image/png");
    if (response.ok) save(await response.blob(), `${state.name}.labels.png`);
    else await failure(response);
  } catch {
    tell("The server does not answer.", true);
  }
}
async function models() {
  try {
    const response = await fetch("v1/models", { headers: headers("application/json") });
    if (!response.ok) {
      await failure(response);
      return;
    }
    const { data } = await response.json();
    state.lists = Object.fromEntries(Object.entries(data).map(([name, { entries }]) => [name, (entries ?? []).join("\n")]));
  } catch {
    tell("The server does not answer.", true);
    return;
  }
  const names = Object.keys(state.lists);
  model.replaceChildren(...names.map((name) => new Option(name, name)));
  element("model-row").hidden = names.length < 2;
  ownClasses();
}
function ownClasses() {
  const list = state.lists[model.value] ?? "";
  if (classes.value.trim() === state.own.trim()) classes.value = list;
  state.own = list;
}
listen((image, name) => {
  Object.assign(state, { image, name, answer: null });
  void segment();
}, () => void segment());
key.addEventListener("change", () => void models());
model.addEventListener("change", ownClasses);
element("save-png").addEventListener("click", () => void savePng());
element("save-json").addEventListener("click", () => {
  if (state.answer) save(new Blob([JSON.stringify(state.answer)], { type: "application/json" }), `${state.name}.json`);
});
void models();

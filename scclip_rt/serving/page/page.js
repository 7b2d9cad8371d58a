// The page at `/`: sends a picture and classes to v1/segment and shows the answer. No library, no other address.

const $ = (id) => document.getElementById(id);
const picture = $("picture"), overlay = $("overlay"), stage = $("stage");

const state = {
  image: null, // Blob: what is sent
  name: "picture",
  answer: null, // the JSON that came back
  labels: null, // Uint16Array, row by row
  confidence: null, // Uint8ClampedArray of RGBA, or null
  shown: new Set(),
  point: null,
  runs: 0,
  lists: {}, // each model's own classes
  own: "", // those of the model that is chosen
};

// COCO's compressed run lengths: five bits a character, differences from the third number on.
export function decodeCounts(text) {
  const counts = [];
  for (let at = 0; at < text.length;) {
    let value = 0, shift = 0, code;
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

export function paintMask(labels, label, rle) {
  const [height, width] = rle.size;
  let place = 0, on = false;
  for (const count of decodeCounts(rle.counts)) {
    if (on) {
      for (let pixel = place; pixel < place + count; pixel++) {
        labels[(pixel % height) * width + Math.floor(pixel / height)] = label;
      }
    }
    place += count;
    on = !on;
  }
}

function tell(text, error = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", error);
}

function headers(accept) {
  const key = $("key").value.trim();
  return { Accept: accept, ...(key ? { "X-API-Key": key } : {}) };
}

async function failure(response) {
  if (response.status === 401) {
    $("key-row").hidden = false;
    $("key").focus();
  }
  try {
    return (await response.json()).error;
  } catch {
    return `the server answered ${response.status}`;
  }
}

function form(more) {
  const data = new FormData();
  data.append("image", state.image, "picture");
  // The server's own list, unchanged, has a background that names alone don't tell.
  if ($("classes").value.trim() !== state.own.trim()) data.append("classes", $("classes").value);
  if ($("model").value) data.append("model", $("model").value);
  for (const [name, value] of Object.entries(more)) data.append(name, value);
  return data;
}

async function take(blob, name) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    tell("This file is no picture that the browser can show.", true);
    return;
  }
  Object.assign(state, { image: blob, name: name.replace(/\.[^.]*$/, "") || "picture", answer: null, labels: null });
  picture.width = bitmap.width;
  picture.height = bitmap.height;
  picture.getContext("2d").drawImage(bitmap, 0, 0);
  picture.hidden = false;
  overlay.hidden = true;
  $("point").hidden = true;
  $("controls").hidden = true;
  $("hint").hidden = true;
  $("readout").textContent = "\u00a0";
  stage.classList.add("filled");
  $("run").disabled = false;
  await segment();
}

async function segment() {
  if (!state.image) return;
  const run = ++state.runs;
  $("run").disabled = true;
  stage.setAttribute("aria-busy", "true");
  tell("Segmenting …");
  const start = performance.now();
  try {
    const response = await fetch("v1/segment", {
      method: "POST", headers: headers("application/json"), body: form({ confidence: "1", boxes: "1" }),
    });
    if (run !== state.runs) return;
    if (!response.ok) {
      tell(await failure(response), true);
      return;
    }
    await show(await response.json());
    tell(`${state.answer.segments.length} classes found in ${Math.round(performance.now() - start)} ms.`);
  } catch {
    tell("The server does not answer.", true);
  } finally {
    if (run === state.runs) {
      $("run").disabled = false;
      stage.removeAttribute("aria-busy");
    }
  }
}

async function show(answer) {
  const { width, height } = answer;
  const labels = new Uint16Array(width * height).fill(answer.unlabelled);
  for (const part of answer.segments) paintMask(labels, part.label, part.rle);
  Object.assign(state, { answer, labels, confidence: await confidenceOf(answer) });
  state.shown = new Set(answer.segments.map((part) => part.label));
  overlay.width = width;
  overlay.height = height;
  overlay.hidden = false;
  legend();
  paint();
  $("controls").hidden = false;
}

async function confidenceOf(answer) {
  if (!answer.confidence_png) return null;
  const bytes = Uint8Array.from(atob(answer.confidence_png), (letter) => letter.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const canvas = new OffscreenCanvas(answer.width, answer.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, answer.width, answer.height).data;
}

function colourOf(part) {
  return [1, 3, 5].map((at) => parseInt(part.colour.slice(at, at + 2), 16));
}

function paint() {
  const { answer, labels } = state;
  const pixels = new ImageData(answer.width, answer.height);
  const words = new Uint32Array(pixels.data.buffer);
  const table = new Uint32Array(65536);
  for (const part of answer.segments) {
    if (!state.shown.has(part.label)) continue;
    const [red, green, blue] = colourOf(part);
    table[part.label] = (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
  }
  for (let at = 0; at < labels.length; at++) words[at] = table[labels[at]];
  overlay.getContext("2d").putImageData(pixels, 0, 0);
  overlay.style.opacity = $("alpha").value / 100;
}

function legend() {
  const rows = state.answer.segments.map((part) => {
    const item = document.createElement("li");
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    box.addEventListener("change", () => {
      if (box.checked) state.shown.add(part.label);
      else state.shown.delete(part.label);
      paint();
    });
    const swatch = document.createElement("canvas");
    swatch.width = swatch.height = 1;
    const context = swatch.getContext("2d");
    context.fillStyle = part.colour;
    context.fillRect(0, 0, 1, 1);
    swatch.setAttribute("aria-hidden", "true");
    const name = document.createElement("span");
    name.textContent = part.name;
    const share = document.createElement("span");
    share.className = "share";
    share.textContent = `${(100 * part.share).toFixed(1)} %`;
    label.append(box, swatch, name, share);
    item.append(label);
    return item;
  });
  $("legend").replaceChildren(...rows);
}

function readOut(x, y) {
  const { answer, labels, confidence } = state;
  if (!answer) return;
  x = Math.max(0, Math.min(answer.width - 1, Math.round(x)));
  y = Math.max(0, Math.min(answer.height - 1, Math.round(y)));
  state.point = [x, y];
  const at = y * answer.width + x;
  const part = answer.segments.find((one) => one.label === labels[at]);
  const sure = confidence ? `, ${Math.round(confidence[4 * at] / 2.55)} % sure` : "";
  $("readout").textContent = part ? `${part.name}${sure}` : "\u00a0";
}

function follow(event) {
  const box = overlay.getBoundingClientRect();
  if (!state.answer || !box.width) return;
  $("point").hidden = true;
  const scale = state.answer.width / box.width;
  readOut((event.clientX - box.left) * scale - 0.5, (event.clientY - box.top) * scale - 0.5);
}

function step(event) {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const move = moves[event.key];
  if (!move || !state.answer) return;
  event.preventDefault();
  const { width, height } = state.answer;
  const far = Math.max(1, Math.round(Math.max(width, height) / (event.shiftKey ? 500 : 50)));
  const [x, y] = state.point ?? [width / 2, height / 2];
  readOut(x + far * move[0], y + far * move[1]);
  const box = overlay.getBoundingClientRect(), frame = stage.getBoundingClientRect();
  const point = $("point");
  point.hidden = false;
  point.style.left = `${box.left - frame.left - stage.clientLeft + (state.point[0] + 0.5) * box.width / width}px`;
  point.style.top = `${box.top - frame.top - stage.clientTop + (state.point[1] + 0.5) * box.height / height}px`;
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function savePng() {
  const response = await fetch("v1/segment", { method: "POST", headers: headers("image/png"), body: form({}) });
  if (!response.ok) return tell(await failure(response), true);
  save(await response.blob(), `${state.name}.labels.png`);
}

function saveJson() {
  save(new Blob([JSON.stringify(state.answer)], { type: "application/json" }), `${state.name}.json`);
}

function toggleAll(on) {
  state.shown = new Set(on ? state.answer.segments.map((part) => part.label) : []);
  for (const box of $("legend").querySelectorAll("input")) box.checked = on;
  paint();
}

async function models() {
  const response = await fetch("v1/models", { headers: headers("application/json") });
  if (!response.ok) return tell(await failure(response), true);
  const { data } = await response.json();
  const names = Object.keys(data);
  state.lists = Object.fromEntries(names.map((name) => [name, (data[name].entries ?? []).join("\n")]));
  $("model").replaceChildren(...names.map((name) => new Option(name, name)));
  $("model-row").hidden = names.length < 2;
  ownClasses();
}

// The list of the model that is chosen, unless the person has typed another one.
function ownClasses() {
  if ($("classes").value.trim() === state.own.trim()) $("classes").value = state.lists[$("model").value];
  state.own = state.lists[$("model").value];
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  segment();
});
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) take(file, file.name);
});
$("sample").addEventListener("click", async () => take(await (await fetch("sample.png")).blob(), "sample.png"));
$("key").addEventListener("change", models);
$("model").addEventListener("change", ownClasses);
$("alpha").addEventListener("input", () => { overlay.style.opacity = $("alpha").value / 100; });
$("all").addEventListener("click", () => toggleAll(true));
$("none").addEventListener("click", () => toggleAll(false));
$("save-png").addEventListener("click", savePng);
$("save-json").addEventListener("click", saveJson);
stage.addEventListener("pointermove", follow);
stage.addEventListener("pointerdown", follow);
stage.addEventListener("keydown", step);
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) take(file, file.name);
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    stage.classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => stage.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file) take(file, file.name);
});
models();

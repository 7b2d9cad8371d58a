/** The page: takes a picture and class names, has the worker segment it, and shows the overlay. */

import { colourOf } from "../src/overlay.js";
import { sharesOf, type Segmentation, type Share } from "../src/segmenter.js";
import type { Done, Opened, Progress, Reply, Request, Setup } from "./protocol.js";

function element<Kind extends HTMLElement>(id: string): Kind {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found as Kind;
}

const picture = element<HTMLCanvasElement>("picture");
const overlay = element<HTMLCanvasElement>("overlay");
const stage = element("stage");
const point = element("point");
const classes = element<HTMLTextAreaElement>("classes");
const run = element<HTMLButtonElement>("run");

interface Shown {
  readonly result: Segmentation;
  readonly shares: readonly Share[];
  readonly png: Uint8Array<ArrayBuffer>;
  readonly labels: Set<number>;
}

const state = {
  worker: null as Worker | null,
  image: null as Blob | null,
  name: "picture",
  /** The bundle's own classes, as they were put into the text field. */
  own: "",
  shown: null as Shown | null,
  place: null as [number, number] | null,
  id: 0,
  since: 0,
};

function tell(text: string, error = false): void {
  const status = element("status");
  status.textContent = text;
  status.classList.toggle("error", error);
}

function context(canvas: HTMLCanvasElement): CanvasRenderingContext2D {
  const found = canvas.getContext("2d");
  if (!found) throw new Error("this browser can't draw");
  return found;
}

function setup(): Setup {
  const meta = document.querySelector<HTMLMetaElement>('meta[name="scclip-bundle"]');
  const asked = new URLSearchParams(location.search).get("bundle") ?? meta?.content ?? "demo.scclip/";
  return {
    bundle: new URL(asked, location.href).href,
    precision: element<HTMLSelectElement>("precision").value,
    provider: element<HTMLSelectElement>("provider").value as Setup["provider"],
  };
}

/** Ask the worker: to open the model, and to segment the picture if there is one. */
function ask(): void {
  if (!state.worker) return;
  const own = classes.value.trim() === state.own.trim();
  const request: Request = { id: ++state.id, setup: setup(), image: state.image, classes: own ? null : classes.value };
  state.since = performance.now();
  state.worker.postMessage(request);
  if (!state.image) return;
  run.disabled = true;
  stage.setAttribute("aria-busy", "true");
  tell("Segmenting …");
}

const STAGES: Readonly<Record<Progress["stage"], string>> = {
  download: "Loading the model", names: "Reading the class names", windows: "Looking at the picture",
};

function progress({ stage: what, done, total }: Progress): void {
  const row = element("progress-row");
  row.hidden = what === "download" && done >= total;
  const size = what === "download" ? `${(done / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB` : `${done} of ${total}`;
  element("progress-label").textContent = `${STAGES[what]}: ${size}`;
  element<HTMLProgressElement>("progress").value = (100 * done) / total;
}

function opened(reply: Opened): void {
  // The bundle's list, unless the person has typed another one.
  if (classes.value.trim() === state.own.trim()) classes.value = reply.classes;
  state.own = reply.classes;
  element("progress-row").hidden = true;
  if (state.image) return;
  const threads = reply.threads === 1 ? "one thread" : `${reply.threads} threads`;
  tell(`Ready, with ${threads}. Choose a picture.`);
}

function finish(): void {
  element("progress-row").hidden = true;
  stage.removeAttribute("aria-busy");
  run.disabled = state.image === null;
}

function done({ result, png }: Done): void {
  const shares = sharesOf(result);
  state.shown = { result, shares, png, labels: new Set(shares.map((share) => share.label)) };
  overlay.width = result.width;
  overlay.height = result.height;
  overlay.hidden = false;
  legend(state.shown);
  paint();
  element("controls").hidden = false;
  finish();
  tell(`${shares.length} classes found in ${Math.round(performance.now() - state.since)} ms.`);
}

function hear({ data }: MessageEvent<Reply>): void {
  if (data.id !== state.id) return; // of an earlier request
  if (data.kind === "progress") progress(data);
  else if (data.kind === "opened") opened(data);
  else if (data.kind === "done") done(data);
  else {
    finish();
    tell(`${data.message[0].toUpperCase()}${data.message.slice(1)}`, true);
  }
}

async function take(blob: Blob, name: string): Promise<void> {
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    tell("This file is no picture that the browser can show.", true);
    return;
  }
  Object.assign(state, { image: blob, name: name.replace(/\.[^.]*$/, "") || "picture", shown: null, place: null });
  picture.width = bitmap.width;
  picture.height = bitmap.height;
  context(picture).drawImage(bitmap, 0, 0);
  picture.hidden = false;
  overlay.hidden = point.hidden = element("controls").hidden = element("hint").hidden = true;
  element("readout").textContent = "\u00a0";
  stage.classList.add("filled");
  ask();
}

function paint(): void {
  if (!state.shown) return;
  const { result, labels } = state.shown;
  const pixels = new ImageData(result.width, result.height);
  const words = new Uint32Array(pixels.data.buffer);
  const table = new Uint32Array(65536);
  for (const label of labels) {
    const [red, green, blue] = colourOf(label, result);
    table[label] = ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  }
  result.labels.forEach((label, at) => (words[at] = table[label]));
  context(overlay).putImageData(pixels, 0, 0);
  overlay.style.opacity = String(Number(element<HTMLInputElement>("alpha").value) / 100);
}

function legend({ result, shares, labels }: Shown): void {
  const rows = shares.map(({ label, name, share }) => {
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      if (box.checked) labels.add(label);
      else labels.delete(label);
      paint();
    });
    const swatch = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
    context(swatch).fillStyle = `rgb(${colourOf(label, result).join(" ")})`;
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

function toggleAll(on: boolean): void {
  if (!state.shown) return;
  state.shown.labels.clear();
  if (on) for (const { label } of state.shown.shares) state.shown.labels.add(label);
  for (const box of element("legend").querySelectorAll("input")) box.checked = on;
  paint();
}

function readOut(x: number, y: number): void {
  if (!state.shown) return;
  const { result, shares } = state.shown;
  x = Math.max(0, Math.min(result.width - 1, Math.round(x)));
  y = Math.max(0, Math.min(result.height - 1, Math.round(y)));
  state.place = [x, y];
  const at = y * result.width + x;
  const sure = result.confidence ? `, ${Math.round(100 * result.confidence[at])} % sure` : "";
  const name = shares.find(({ label }) => label === result.labels[at])?.name ?? "";
  element("readout").textContent = `${name}${sure}`;
}

function follow(event: PointerEvent): void {
  const box = overlay.getBoundingClientRect();
  if (!state.shown || !box.width) return;
  point.hidden = true;
  const scale = state.shown.result.width / box.width;
  readOut((event.clientX - box.left) * scale - 0.5, (event.clientY - box.top) * scale - 0.5);
}

const MOVES: Readonly<Record<string, readonly [number, number]>> = {
  ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
};

function step(event: KeyboardEvent): void {
  const move = MOVES[event.key];
  if (!move || !state.shown) return;
  event.preventDefault();
  const { width, height } = state.shown.result;
  const far = Math.max(1, Math.round(Math.max(width, height) / (event.shiftKey ? 500 : 50)));
  const [x, y] = state.place ?? [width / 2, height / 2];
  readOut(x + far * move[0], y + far * move[1]);
  const [left, top] = state.place ?? [0, 0];
  const box = overlay.getBoundingClientRect();
  const frame = stage.getBoundingClientRect();
  point.hidden = false;
  point.style.left = `${box.left - frame.left - stage.clientLeft + ((left + 0.5) * box.width) / width}px`;
  point.style.top = `${box.top - frame.top - stage.clientTop + ((top + 0.5) * box.height) / height}px`;
}

function save(): void {
  if (!state.shown) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([state.shown.png], { type: "image/png" }));
  link.download = `${state.name}.labels.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/**
 * Let the service worker keep the files, before any of them is asked for. On a host that sends no headers for
 * cross-origin isolation it adds them, which takes effect when the page is loaded again: once, before anything is shown.
 */
async function keepOffline(): Promise<void> {
  if (!("serviceWorker" in navigator)) return;
  try {
    const registration = await navigator.serviceWorker.register("sw.js");
    const coming = registration.installing ?? (registration.active?.state === "activating" ? registration.active : null);
    if (coming && !navigator.serviceWorker.controller) await takesOver(coming);
  } catch {
    element("offline").textContent = "Files can't be kept here: the page needs a connection.";
    return;
  }
  if (!navigator.serviceWorker.controller) return;
  if (!crossOriginIsolated && !sessionStorage.getItem("isolated")) {
    sessionStorage.setItem("isolated", "tried");
    location.reload();
    await new Promise(() => {});
  }
  element("offline").textContent = "What was loaded once works without a connection.";
}

/** Wait until a service worker controls the page, or fails to. */
function takesOver(worker: ServiceWorker): Promise<void> {
  return new Promise((settle) => {
    navigator.serviceWorker.addEventListener("controllerchange", () => settle(), { once: true });
    worker.addEventListener("statechange", () => worker.state === "redundant" && settle());
  });
}

async function start(): Promise<void> {
  tell("Loading …");
  element("progress-row").hidden = false; // without a value: how long is not known yet
  const gpu = await (navigator as { gpu?: { requestAdapter(): Promise<unknown> } }).gpu?.requestAdapter().catch(() => null);
  element("provider-row").hidden = !gpu;
  await keepOffline();
  state.worker = new Worker("worker.js", { type: "module" });
  state.worker.addEventListener("message", hear);
  state.worker.addEventListener("error", () => tell("The worker failed to load: this browser may be too old, or a file is missing.", true));
  ask();
}

function from(files: FileList | null | undefined): void {
  const file = [...(files ?? [])].find((one) => one.type.startsWith("image/")) ?? files?.[0];
  if (file) void take(file, file.name);
}

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
element<HTMLInputElement>("file").addEventListener("change", (event) => from((event.target as HTMLInputElement).files));
element("sample").addEventListener("click", async () => {
  try {
    await take(await (await fetch("sample.png")).blob(), "sample.png");
  } catch {
    tell("The sample can't be loaded.", true);
  }
});
for (const id of ["precision", "provider"]) element(id).addEventListener("change", ask);
element("alpha").addEventListener("input", paint);
element("all").addEventListener("click", () => toggleAll(true));
element("none").addEventListener("click", () => toggleAll(false));
element("save").addEventListener("click", save);
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
void start();

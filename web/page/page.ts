/** The static page: has a worker segment the picture on this device, and shows the overlay. */

import { MAX_PIXELS } from "../src/geometry.js";
import { colourOf } from "../src/overlay.js";
import { sharesOf } from "../src/segmenter.js";
import type { Done, Opened, Progress, Reply, Request, Setup } from "./protocol.js";
import { busy, complain, element, listen, save, show, tell } from "./view.js";

const classes = element<HTMLTextAreaElement>("classes");
const run = element<HTMLButtonElement>("run");

const state = {
  /** Set once the files that it needs are kept; a new one takes the place of one that has failed. */
  worker: null as Worker | null,
  failed: false,
  image: null as Blob | null,
  name: "picture",
  /** The bundle's own classes, as they were put into the text field. */
  own: "",
  /** Threads of WebAssembly, once the model is open. */
  threads: 0,
  png: null as Uint8Array<ArrayBuffer> | null,
  id: 0,
  since: 0,
};

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
  if (state.failed) state.worker = startWorker();
  if (!state.worker) return;
  const own = classes.value.trim() === state.own.trim();
  const request: Request = { id: ++state.id, setup: setup(), image: state.image, classes: own ? null : classes.value };
  state.since = performance.now();
  state.worker.postMessage(request);
  busy(true);
  run.disabled = !state.image; // asking anew ends what is under way
  tell(state.image ? "Segmenting …" : "Loading …");
}

const STAGES: Readonly<Record<Progress["stage"], string>> = {
  download: "Loading the model", names: "Reading the class names", windows: "Looking at the picture",
};

function progress({ stage: what, done, total }: Progress): void {
  element("progress-row").hidden = what === "download" && done >= total;
  const size = what === "download" ? `${(done / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB` : `${done} of ${total}`;
  element("progress-label").textContent = `${STAGES[what]}: ${size}`;
  element<HTMLProgressElement>("progress").value = (100 * done) / total;
}

function opened(reply: Opened): void {
  // The bundle's list, unless the person has typed another one.
  if (classes.value.trim() === state.own.trim()) classes.value = reply.classes;
  state.own = reply.classes;
  state.threads = reply.threads;
  element("progress-row").hidden = true;
  if (!state.image) idle();
}

/** The model is there, and no picture. */
function idle(): void {
  busy(false);
  run.disabled = true;
  tell(`Ready, with ${state.threads === 1 ? "one thread" : `${state.threads} threads`}. Choose a picture.`);
}

function finish(): void {
  element("progress-row").hidden = true;
  busy(false);
}

function done({ result, png, warning }: Done): void {
  const { confidence } = result;
  const parts = sharesOf(result).map((share) => ({ ...share, colour: colourOf(share.label, result) }));
  state.png = png;
  show({ ...result, parts, sure: confidence && ((at) => confidence[at]) });
  finish();
  const found = `${parts.length === 1 ? "1 class" : `${parts.length} classes`} found in ${Math.round(performance.now() - state.since)} ms.`;
  tell(warning ? `${found} Warning: ${warning}.` : found);
}

function hear({ data }: MessageEvent<Reply>): void {
  if (data.id !== state.id) return; // of an earlier request
  if (data.kind === "progress") progress(data);
  else if (data.kind === "opened") opened(data);
  else if (data.kind === "done") done(data);
  else {
    finish(); // the button asks again, also where only the model was to be opened
    complain(data.message);
  }
}

/**
 * Let the service worker keep the files, before any of them is asked for. On a host that sends no headers for
 * cross-origin isolation it adds them, which takes effect when the page is loaded again: once, before anything is shown.
 */
async function keepOffline(): Promise<void> {
  if (!("serviceWorker" in navigator)) return;
  const note = element("offline");
  try {
    const registration = await navigator.serviceWorker.register("sw.js");
    const coming = registration.installing ?? (registration.active?.state === "activating" ? registration.active : null);
    if (coming && !navigator.serviceWorker.controller) await takesOver(coming);
  } catch {
    note.textContent = "Files can't be kept here: the page needs a connection.";
    return;
  }
  if (!navigator.serviceWorker.controller) return;
  if (!crossOriginIsolated && !sessionStorage.getItem("isolated")) {
    sessionStorage.setItem("isolated", "tried");
    location.reload();
    await new Promise(() => {});
  }
  note.textContent = "What was loaded once works without a connection.";
  navigator.serviceWorker.addEventListener("message", ({ data }) => {
    if (data === "not kept") note.textContent = "There is no room to keep all files here: the page needs a connection.";
  });
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
  state.worker = startWorker();
  ask();
}

function startWorker(): Worker {
  const worker = new Worker("worker.js", { type: "module" });
  state.failed = false;
  worker.addEventListener("message", hear);
  worker.addEventListener("error", () => {
    worker.terminate();
    state.failed = true; // the button starts another one
    finish();
    tell("The worker failed: this browser may be too old, a file may be missing, or memory ran out.", true);
  });
  return worker;
}

listen((image, name) => {
  Object.assign(state, { image, name, png: null });
  ask();
}, ask, MAX_PIXELS);
for (const id of ["precision", "provider"]) element(id).addEventListener("change", ask);
element("save-png").addEventListener("click", () => {
  if (state.png) save(new Blob([state.png], { type: "image/png" }), `${state.name}.labels.png`);
});
addEventListener("online", () => {
  if (element("status").classList.contains("error") && !state.image) ask();
});
void start();

/** The page of `scclip serve`: sends the picture and the classes to v1/segment, and shows the answer. */

import { busy, complain, element, listen, save, show, tell, type Colour, type Part } from "./view.js";

/** COCO's compressed run lengths, column by column, the first one of pixels outside. */
interface Rle {
  readonly size: readonly [number, number];
  readonly counts: string;
}

interface Segment {
  readonly label: number;
  readonly name: string;
  readonly share: number;
  /** `#rrggbb`. */
  readonly colour: string;
  readonly rle: Rle;
}

interface Answer {
  readonly width: number;
  readonly height: number;
  readonly unlabelled: number;
  readonly segments: readonly Segment[];
  readonly confidence_png?: string;
}

const classes = element<HTMLTextAreaElement>("classes");
const model = element<HTMLSelectElement>("model");
const key = element<HTMLInputElement>("key");

const state = {
  image: null as Blob | null,
  name: "picture",
  answer: null as Answer | null,
  runs: 0,
  /** Each model's own classes. */
  lists: {} as Record<string, string>,
  /** Those of the model that is chosen. */
  own: "",
};

/** Five bits a character, differences from the third number on. */
function decodeCounts(text: string): number[] {
  const counts: number[] = [];
  for (let at = 0; at < text.length;) {
    let value = 0;
    let shift = 0;
    let code: number;
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

function paintMask(labels: Uint16Array, label: number, { size: [height, width], counts }: Rle): void {
  let place = 0;
  let on = false;
  for (const count of decodeCounts(counts)) {
    if (on) {
      for (let pixel = place; pixel < place + count; pixel++) {
        labels[(pixel % height) * width + Math.floor(pixel / height)] = label;
      }
    }
    place += count;
    on = !on;
  }
}

function headers(accept: string): Record<string, string> {
  const value = key.value.trim();
  return { Accept: accept, ...(value ? { "X-API-Key": value } : {}) };
}

async function failure(response: Response): Promise<void> {
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

function post(accept: string, more: Readonly<Record<string, string>> = {}): Promise<Response> {
  const data = new FormData();
  data.append("image", state.image as Blob, "picture");
  // The server's own list, unchanged, has a background that names alone don't tell.
  if (classes.value.trim() !== state.own.trim()) data.append("classes", classes.value);
  if (model.value) data.append("model", model.value);
  for (const [name, value] of Object.entries(more)) data.append(name, value);
  return fetch("v1/segment", { method: "POST", headers: headers(accept), body: data });
}

async function segment(): Promise<void> {
  if (!state.image) return;
  const run = ++state.runs;
  busy(true);
  tell("Segmenting …");
  const start = performance.now();
  try {
    const response = await post("application/json", { confidence: "1", boxes: "1" });
    if (run !== state.runs) return;
    if (!response.ok) {
      await failure(response);
      return;
    }
    const answer = (await response.json()) as Answer;
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

function display({ width, height, unlabelled, segments }: Answer, certain: Uint8ClampedArray | null): void {
  const labels = new Uint16Array(width * height).fill(unlabelled);
  for (const { label, rle } of segments) paintMask(labels, label, rle);
  const parts = segments.map(({ label, name, share, colour }): Part => {
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    return { label, name, share, colour: [red, green, blue] as Colour };
  });
  show({ width, height, labels, parts, sure: certain && ((at) => certain[4 * at] / 255) });
}

async function confidenceOf({ confidence_png: png, width, height }: Answer): Promise<Uint8ClampedArray | null> {
  if (!png) return null;
  const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context?.drawImage(bitmap, 0, 0);
  return context?.getImageData(0, 0, width, height).data ?? null;
}

async function savePng(): Promise<void> {
  try {
    const response = await post("image/png");
    if (response.ok) save(await response.blob(), `${state.name}.labels.png`);
    else await failure(response);
  } catch {
    tell("The server does not answer.", true);
  }
}

async function models(): Promise<void> {
  try {
    const response = await fetch("v1/models", { headers: headers("application/json") });
    if (!response.ok) {
      await failure(response);
      return;
    }
    const { data } = (await response.json()) as { data: Record<string, { entries?: string[] }> };
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

/** The list of the model that is chosen, unless the person has typed another one. */
function ownClasses(): void {
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

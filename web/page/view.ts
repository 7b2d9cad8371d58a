/**
 * What both pages show: the picture, the overlay with its list of classes, and the name at a point; with pointer, keyboard
 * and touch. The static page and the one of `scclip serve` differ in where the labels come from.
 */

export type Colour = readonly [number, number, number];

/** A class that is in the picture. */
export interface Part {
  readonly label: number;
  readonly name: string;
  readonly share: number;
  readonly colour: Colour;
}

/** A label map to show, row by row. */
export interface Shown {
  readonly width: number;
  readonly height: number;
  readonly labels: ArrayLike<number>;
  /** Largest first. */
  readonly parts: readonly Part[];
  /** The probability of a pixel's class, where it is known. */
  readonly sure: ((at: number) => number) | null;
}

/** Most pixels of a canvas: enough for a screen, and under the limit of phones. */
const MAX_CANVAS_PIXELS = 4_000_000;

export function element<Kind extends HTMLElement>(id: string): Kind {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found as Kind;
}

const picture = element<HTMLCanvasElement>("picture");
const overlay = element<HTMLCanvasElement>("overlay");
const stage = element("stage");
const point = element("point");

let shown: Shown | null = null;
let visible = new Set<number>();
let place: readonly [number, number] | null = null;
let taken = 0;

/** Say how things stand; screen readers announce it. */
export function tell(text: string, error = false): void {
  const status = element("status");
  status.textContent = text;
  status.classList.toggle("error", error);
}

/** Say what was wrong: one line of an error, as a sentence. */
export function complain(message: string): void {
  tell(`${message[0].toUpperCase()}${message.slice(1)}${/[.?!]$/.test(message) ? "" : "."}`, true);
}

export function busy(on: boolean): void {
  element<HTMLButtonElement>("run").disabled = on;
  if (on) stage.setAttribute("aria-busy", "true");
  else stage.removeAttribute("aria-busy");
}

function context(canvas: HTMLCanvasElement): CanvasRenderingContext2D {
  const found = canvas.getContext("2d");
  if (!found) throw new Error("this browser can't draw");
  return found;
}

/** Give both canvases the size of a picture, or less for one that is larger than screens are. */
function resize(canvas: HTMLCanvasElement, width: number, height: number): void {
  const scale = Math.min(1, Math.sqrt(MAX_CANVAS_PIXELS / (width * height)));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
}

/** Why a browser can't show a file. */
function unreadable(blob: Blob, name: string): string {
  if (blob.size === 0) return "This file is empty.";
  if (/hei[cf]/i.test(blob.type) || /\.hei[cf]$/i.test(name)) {
    return "This browser can't show HEIC pictures: save it as JPEG or PNG, and choose that.";
  }
  return "This file is no picture that the browser can show, or it is damaged or too large.";
}

/** Show a picture as it was chosen; whether the browser can. */
async function take(blob: Blob, name: string, maxPixels: number): Promise<boolean> {
  const turn = ++taken;
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    if (turn === taken) tell(unreadable(blob, name), true);
    return false;
  }
  const { width, height } = bitmap;
  const fits = width * height <= maxPixels;
  if (turn === taken && !fits) {
    tell(`This picture has ${width}×${height} pixels, ${Math.round((width * height) / 1e6)} million; the limit is ${maxPixels / 1e6} million.`, true);
  }
  if (turn !== taken || !fits) {
    bitmap.close();
    return false; // another one was chosen meanwhile, or it is too large
  }
  shown = place = null;
  resize(picture, width, height);
  context(picture).drawImage(bitmap, 0, 0, picture.width, picture.height);
  bitmap.close();
  picture.hidden = false;
  overlay.hidden = point.hidden = element("controls").hidden = element("hint").hidden = true;
  element("readout").textContent = "\u00a0";
  stage.classList.add("filled");
  return true;
}

/** Show the labels of the picture. */
export function show(result: Shown): void {
  shown = result;
  visible = new Set(result.parts.map((part) => part.label));
  resize(overlay, result.width, result.height);
  overlay.hidden = false;
  legend(result.parts);
  paint();
  element("controls").hidden = false;
}

function paint(): void {
  if (!shown) return;
  const { labels, parts, width, height } = shown;
  const pixels = new ImageData(overlay.width, overlay.height);
  const words = new Uint32Array(pixels.data.buffer);
  const table = new Uint32Array(65536);
  for (const { label, colour: [red, green, blue] } of parts) {
    if (visible.has(label)) table[label] = ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  }
  for (let y = 0, to = 0; y < overlay.height; y++) {
    const row = Math.floor(((y + 0.5) * height) / overlay.height) * width;
    for (let x = 0; x < overlay.width; x++, to++) {
      words[to] = table[labels[row + Math.floor(((x + 0.5) * width) / overlay.width)]];
    }
  }
  context(overlay).putImageData(pixels, 0, 0);
}

function fade(): void {
  overlay.style.opacity = String(Number(element<HTMLInputElement>("alpha").value) / 100);
}

function legend(parts: readonly Part[]): void {
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

function toggleAll(on: boolean): void {
  visible = new Set(on ? shown?.parts.map((part) => part.label) : []);
  for (const box of element("legend").querySelectorAll("input")) box.checked = on;
  paint();
}

function readOut(x: number, y: number): void {
  if (!shown) return;
  const { width, height, labels, parts, sure } = shown;
  x = Math.max(0, Math.min(width - 1, Math.round(x)));
  y = Math.max(0, Math.min(height - 1, Math.round(y)));
  place = [x, y];
  const at = y * width + x;
  const part = parts.find(({ label }) => label === labels[at]);
  element("readout").textContent = part ? `${part.name}${sure ? `, ${Math.round(100 * sure(at))} % sure` : ""}` : "\u00a0";
}

function follow(event: PointerEvent): void {
  const box = overlay.getBoundingClientRect();
  if (!shown || !box.width) return;
  point.hidden = true;
  const scale = shown.width / box.width;
  readOut((event.clientX - box.left) * scale - 0.5, (event.clientY - box.top) * scale - 0.5);
}

const MOVES: Readonly<Record<string, readonly [number, number]>> = {
  ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
};

function step(event: KeyboardEvent): void {
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
  point.style.left = `${box.left - frame.left - stage.clientLeft + ((left + 0.5) * box.width) / width}px`;
  point.style.top = `${box.top - frame.top - stage.clientTop + ((top + 0.5) * box.height) / height}px`;
}

/** Hand a file to the person. */
export function save(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/**
 * Listen to the page.
 *
 * @param chosen Called with every picture that the browser can show, and its name without the ending.
 * @param asked Called when classes are to be looked for.
 * @param maxPixels Larger pictures are refused.
 */
export function listen(chosen: (picture: Blob, name: string) => void, asked: () => void, maxPixels = Infinity): void {
  const choose = async (blob: Blob, name: string): Promise<void> => {
    if (await take(blob, name, maxPixels)) chosen(blob, name.replace(/\.[^.]*$/, "") || "picture");
  };
  const from = (files: FileList | null | undefined): void => {
    const file = [...(files ?? [])].find((one) => one.type.startsWith("image/")) ?? files?.[0];
    if (file) void choose(file, file.name);
  };
  element("form").addEventListener("submit", (event) => {
    event.preventDefault();
    asked();
  });
  element<HTMLInputElement>("file").addEventListener("change", ({ target }) => {
    from((target as HTMLInputElement).files);
    (target as HTMLInputElement).value = ""; // the same file may be chosen again
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

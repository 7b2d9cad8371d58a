/**
 * From window features to a label map (docs/method.md, §4), without a (queries, height, width) tensor.
 *
 * The map of a query is rows · L · columnsᵀ with two sparse matrices that depend on sizes only. It is computed a tile at
 * a time for the queries that can win there, and reduced before the next tile. Ties go to the earlier query.
 */

import { ScclipError } from "./errors.js";
import type { Size, Tiling } from "./geometry.js";
import { interpolationAxis, type Axis } from "./interpolation.js";

const TILE_ROWS = 32;
const TILE_COLUMNS = 64;
/** Most memory for the patches' logits of one chunk of queries. */
const LOGIT_BYTES = 64 << 20;
const MAX_CHUNK = 512;
/** What the soft-max may leave out: queries that all together would change the sum by less than 1e-7 of it. */
const SOFT_MARGIN = Math.log(1e6 / 1e-7);

export type Labels = Uint8Array | Uint16Array;

export interface DecodeSettings {
  /** Class of each query. */
  readonly queryClass: readonly number[];
  readonly numClasses: number;
  /** Factor on the cosines before the soft-max over queries. */
  readonly logitScale: number;
  /** Pixels whose best probability is less become the background, or unlabelled without one; 0 cuts nothing. */
  readonly probThreshold: number;
  /** Classes with at most this share of all foreground pixels are removed; 0 removes none. */
  readonly areaThreshold: number;
  /** Classes whose best pixel has less than this probability are removed; 0 removes none. */
  readonly classThreshold: number;
  readonly background: number | null;
  /** Also give each pixel's probability. */
  readonly confidence: boolean;
}

export interface Decoded {
  /** Row by row; 16 bits above 254 classes. */
  readonly labels: Labels;
  /** Probability of the best class before the threshold; null unless asked for. */
  readonly confidence: Float32Array | null;
  /** The label of pixels without a class: 255 or 65535. */
  readonly unlabelled: number;
}

/** Features of an image's windows: (windows, rows · columns of patches, width), row by row. */
export interface Encoded {
  readonly features: Float32Array;
  readonly width: number;
  readonly grid: Size;
  readonly tiling: Tiling;
  /** Height and width of the image as it was given. */
  readonly shape: Size;
}

/**
 * Label every pixel.
 *
 * @param text Queries × width, row by row.
 * @throws ScclipError BackendError: the features hold NaN or infinity.
 */
export function decode(encoded: Encoded, text: Float32Array, settings: DecodeSettings): Decoded {
  if (!encoded.features.every(Number.isFinite)) {
    throw new ScclipError("BackendError", "the encoder's output holds NaN or infinity; the weights are damaged");
  }
  const [Kind, unlabelled] = labelKind(settings.numClasses);
  const field = new Field(encoded, text, settings, Kind);
  const drops = settings.areaThreshold > 0 || settings.classThreshold > 0;
  const soft = settings.confidence || settings.probThreshold > 0 || settings.classThreshold > 0;
  const queries = settings.queryClass.map((_, query) => query);
  const best = field.best(queries, soft, soft && drops);
  const probability = best.total?.map((total) => 1 / total) ?? null;
  if (drops) dropClasses(field, best, probability, settings, unlabelled);
  if (settings.probThreshold > 0 && probability) {
    const rest = settings.background ?? unlabelled;
    for (let i = 0; i < probability.length; i++) if (probability[i] < settings.probThreshold) best.labels[i] = rest;
  }
  return { labels: best.labels, confidence: settings.confidence ? probability : null, unlabelled };
}

type LabelArray = Uint8ArrayConstructor | Uint16ArrayConstructor;

/** How labels are stored for so many classes, and the value that means unlabelled. */
export function labelKind(classes: number): [LabelArray, number] {
  if (classes <= 254) return [Uint8Array, 255];
  if (classes <= 65534) return [Uint16Array, 65535];
  throw new ScclipError("OptionError", `labels hold at most 65534 classes; got ${classes}`);
}

/** The best query of every pixel so far. */
interface Best {
  readonly labels: Labels;
  /** Its scaled logit; null where nobody asks. */
  readonly logit: Float32Array | null;
  /** The soft-max's denominator relative to it. */
  readonly total: Float32Array | null;
}

class Field {
  private readonly rows: Axis;
  private readonly columns: Axis;
  private readonly scaled: Float32Array;

  constructor(
    private readonly encoded: Encoded, text: Float32Array, private readonly settings: DecodeSettings,
    private readonly Kind: LabelArray,
  ) {
    const { tiling, grid, shape } = encoded;
    this.rows = interpolationAxis(tiling.rows, tiling.window[0], grid[0], tiling.size[0], shape[0]);
    this.columns = interpolationAxis(tiling.columns, tiling.window[1], grid[1], tiling.size[1], shape[1]);
    this.scaled = text.map((value) => value * settings.logitScale);
  }

  /** The best of `queries` at every pixel (only near `where`, if given). */
  best(queries: readonly number[], soft: boolean, keepBest: boolean, where?: Uint8Array): Best {
    const [height, width] = this.encoded.shape;
    const size = height * width;
    const cells = this.rows.rank.length * this.columns.rank.length;
    const chunk = Math.max(1, Math.min(MAX_CHUNK, Math.floor(LOGIT_BYTES / (4 * cells))));
    const keepLogit = soft || keepBest || queries.length > chunk;
    const state: Best = {
      labels: new this.Kind(size),
      logit: keepLogit ? new Float32Array(size).fill(-Infinity) : null,
      total: soft ? new Float32Array(size) : null,
    };
    for (let from = 0; from < queries.length; from += chunk) {
      const part = queries.slice(from, from + chunk);
      const logits = this.logits(part);
      const classes = part.map((query) => this.settings.queryClass[query]);
      for (let top = 0; top < height; top += TILE_ROWS) {
        const bottom = Math.min(top + TILE_ROWS, height);
        for (let left = 0; left < width; left += TILE_COLUMNS) {
          const tile = { top, bottom, left, right: Math.min(left + TILE_COLUMNS, width) };
          if (!where || anyIn(where, tile, width)) this.reduce(logits, classes, tile, state);
        }
      }
    }
    return state;
  }

  /** Scaled logits of every cell, (cell rows, cell columns, queries), cells by their place in the image. */
  private logits(queries: readonly number[]): Float32Array {
    const { features, width, grid, tiling } = this.encoded;
    const [gridRows, gridColumns] = grid;
    const across = this.columns.rank.length;
    const out = new Float32Array(this.rows.rank.length * across * queries.length);
    const text = new Float32Array(queries.length * width);
    queries.forEach((query, i) => text.set(this.scaled.subarray(query * width, (query + 1) * width), i * width));
    let from = 0;
    for (let windowRow = 0; windowRow < tiling.rows.length; windowRow++) {
      for (let windowColumn = 0; windowColumn < tiling.columns.length; windowColumn++) {
        for (let row = 0; row < gridRows; row++) {
          const y = this.rows.rank[windowRow * gridRows + row];
          for (let column = 0; column < gridColumns; column++, from += width) {
            const x = this.columns.rank[windowColumn * gridColumns + column];
            products(features, from, text, width, out, (y * across + x) * queries.length, queries.length);
          }
        }
      }
    }
    return out;
  }

  private reduce(logits: Float32Array, classes: readonly number[], tile: Tile, state: Best): void {
    const { rows, columns } = this;
    const across = columns.rank.length;
    const [firstRow, lastRow] = reach(rows, tile.top, tile.bottom);
    const [firstColumn, lastColumn] = reach(columns, tile.left, tile.right);
    const region = { across, firstRow, lastRow, firstColumn, lastColumn };
    const kept = possible(logits, classes.length, region, this.surely(state, tile), state.total !== null);
    if (kept.length === 0) return;
    const count = kept.length;
    const labels = kept.map((query) => classes[query]);
    const cells = gather(logits, classes.length, region, kept);
    const cellColumns = lastColumn - firstColumn;
    const line = new Float32Array(cellColumns * count);
    const values = new Float32Array(count);
    const width = this.encoded.shape[1];
    for (let y = tile.top; y < tile.bottom; y++) {
      line.fill(0);
      for (let i = rows.starts[y]; i < rows.starts[y + 1]; i++) {
        const weight = rows.weights[i];
        const from = (rows.cells[i] - firstRow) * cellColumns * count;
        for (let j = 0; j < line.length; j++) line[j] += weight * cells[from + j];
      }
      for (let x = tile.left; x < tile.right; x++) {
        values.fill(0);
        for (let i = columns.starts[x]; i < columns.starts[x + 1]; i++) {
          const weight = columns.weights[i];
          const from = (columns.cells[i] - firstColumn) * count;
          for (let j = 0; j < count; j++) values[j] += weight * line[from + j];
        }
        merge(values, labels, state, y * width + x);
      }
    }
  }

  /** What the earlier queries reach everywhere in a tile. */
  private surely(state: Best, tile: Tile): number {
    if (!state.logit) return -Infinity;
    const width = this.encoded.shape[1];
    let least = Infinity;
    for (let y = tile.top; y < tile.bottom; y++) {
      for (let x = tile.left; x < tile.right; x++) least = Math.min(least, state.logit[y * width + x]);
    }
    return least;
  }
}

interface Tile {
  readonly top: number;
  readonly bottom: number;
  readonly left: number;
  readonly right: number;
}

interface Region {
  readonly across: number;
  readonly firstRow: number;
  readonly lastRow: number;
  readonly firstColumn: number;
  readonly lastColumn: number;
}

/** Products of one feature with each query's text. */
function products(
  features: Float32Array, from: number, text: Float32Array, width: number, out: Float32Array, to: number, count: number,
): void {
  let query = 0;
  // Four at a time: each feature value is read once for them.
  for (; query + 4 <= count; query += 4) {
    const a = query * width, b = a + width, c = b + width, d = c + width;
    let first = 0, second = 0, third = 0, fourth = 0;
    for (let i = 0; i < width; i++) {
      const value = features[from + i];
      first += value * text[a + i];
      second += value * text[b + i];
      third += value * text[c + i];
      fourth += value * text[d + i];
    }
    out[to + query] = first;
    out[to + query + 1] = second;
    out[to + query + 2] = third;
    out[to + query + 3] = fourth;
  }
  for (; query < count; query++) {
    let sum = 0;
    for (let i = 0; i < width; i++) sum += features[from + i] * text[query * width + i];
    out[to + query] = sum;
  }
}

/** The run of cells that pixels start … stop − 1 read. */
function reach({ starts, cells }: Axis, start: number, stop: number): [number, number] {
  let first = Infinity;
  let last = -1;
  for (let i = starts[start]; i < starts[stop]; i++) {
    first = Math.min(first, cells[i]);
    last = Math.max(last, cells[i]);
  }
  return [first, last + 1];
}

/**
 * Queries that can matter in a tile: a pixel is a weighted mean of cells, so it lies within their range. Those whose
 * highest cell is below what another query has everywhere never win.
 */
function possible(logits: Float32Array, count: number, region: Region, running: number, soft: boolean): number[] {
  const highest = new Float32Array(count).fill(-Infinity);
  const lowest = new Float32Array(count).fill(Infinity);
  for (let row = region.firstRow; row < region.lastRow; row++) {
    for (let column = region.firstColumn; column < region.lastColumn; column++) {
      const from = (row * region.across + column) * count;
      for (let query = 0; query < count; query++) {
        const value = logits[from + query];
        if (value > highest[query]) highest[query] = value;
        if (value < lowest[query]) lowest[query] = value;
      }
    }
  }
  const surely = lowest.reduce((most, value) => Math.max(most, value), running);
  const margin = (soft ? SOFT_MARGIN : 0) + 1e-5 * Math.max(1, Math.abs(surely));
  const kept: number[] = [];
  highest.forEach((value, query) => {
    if (value >= surely - margin) kept.push(query);
  });
  return kept;
}

/** The region's logits of the kept queries alone, (cell rows, cell columns, kept). */
function gather(logits: Float32Array, count: number, region: Region, kept: readonly number[]): Float32Array {
  const { across, firstRow, lastRow, firstColumn, lastColumn } = region;
  const out = new Float32Array((lastRow - firstRow) * (lastColumn - firstColumn) * kept.length);
  let to = 0;
  for (let row = firstRow; row < lastRow; row++) {
    for (let column = firstColumn; column < lastColumn; column++) {
      const from = (row * across + column) * count;
      for (const query of kept) out[to++] = logits[from + query];
    }
  }
  return out;
}

/** Bring the values of further queries into the running best of one pixel; of equal ones the earlier stays. */
function merge(values: Float32Array, labels: readonly number[], state: Best, at: number): void {
  let top = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[top]) top = i;
  if (!state.logit) {
    state.labels[at] = labels[top];
    return;
  }
  const best = values[top];
  const running = state.logit[at];
  if (state.total) {
    let sum = 0;
    for (let i = 0; i < values.length; i++) sum += Math.exp(values[i] - best);
    const shrink = Math.exp(-Math.abs(best - running));
    state.total[at] = best > running ? state.total[at] * shrink + sum : state.total[at] + sum * shrink;
  }
  if (best > running) {
    state.labels[at] = labels[top];
    state.logit[at] = best;
  }
}

function anyIn(where: Uint8Array, { top, bottom, left, right }: Tile, width: number): boolean {
  for (let y = top; y < bottom; y++) {
    for (let at = y * width + left; at < y * width + right; at++) if (where[at]) return true;
  }
  return false;
}

/** Give the pixels of classes that are too small or too faint to the best class that remains. */
function dropClasses(
  field: Field, best: Best, probability: Float32Array | null, settings: DecodeSettings, unlabelled: number,
): void {
  const removed = removedClasses(best.labels, probability, settings);
  if (!removed.includes(true)) return;
  const { labels } = best;
  const kept = settings.queryClass.flatMap((owner, query) => (removed[owner] ? [] : [query]));
  if (kept.length === 0) {
    labels.fill(unlabelled);
    probability?.fill(0);
    return;
  }
  const affected = Uint8Array.from(labels, (label) => (removed[label] ? 1 : 0));
  if (!affected.includes(1)) return;
  const second = field.best(kept, false, probability !== null, affected);
  for (let i = 0; i < labels.length; i++) {
    if (!affected[i]) continue;
    labels[i] = second.labels[i];
    // Probabilities stay those over all queries.
    if (probability && best.logit && second.logit) probability[i] *= Math.exp(second.logit[i] - best.logit[i]);
  }
}

function removedClasses(labels: Labels, probability: Float32Array | null, settings: DecodeSettings): boolean[] {
  const { numClasses, areaThreshold, classThreshold, background } = settings;
  const counts = new Float64Array(numClasses);
  const faintest = new Float32Array(numClasses);
  for (let i = 0; i < labels.length; i++) {
    counts[labels[i]]++;
    if (probability && probability[i] > faintest[labels[i]]) faintest[labels[i]] = probability[i];
  }
  if (background !== null) counts[background] = 0;
  const total = counts.reduce((sum, count) => sum + count, 0);
  return Array.from(counts, (count, index) => {
    if (index === background) return false;
    const small = areaThreshold > 0 && count <= areaThreshold * total;
    const faint = classThreshold > 0 && probability !== null && faintest[index] < classThreshold;
    return small || faint;
  });
}

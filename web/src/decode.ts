/**
 * From window features to a label map (docs/method.md, §4), without a (queries, height, width) tensor.
 *
 * The map of a query is rows · L · columnsᵀ with two sparse matrices that depend on sizes only. It is computed a tile at
 * a time for the queries that can win there, and reduced before the next tile. Ties go to the earlier query.
 */

import { ScclipError } from "./errors.js";
import type { Size, Tiling } from "./geometry.js";
import { cachedAxis, type Axis } from "./interpolation.js";
import { Refiner, type PixelWeights } from "./pamr.js";
import type { Pixels } from "./resize.js";

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
  /** `minmax` stretches each query's map to 0 … 1 over the image before the scale. */
  readonly maps?: "cosine" | "minmax";
  /** Refinement of the maps by the image. */
  readonly refine?: PixelWeights | null;
}

export interface Decoded {
  /** Row by row; 16 bits above 254 classes. */
  readonly labels: Labels;
  /** Probability of the best class before the threshold; null unless asked for. */
  readonly confidence: Float32Array | null;
  /** The label of pixels without a class: 255 or 65535. */
  readonly unlabelled: number;
}

/** What the encoder made of an image's windows: (windows, rows · columns of patches, width), row by row. */
export interface Encoded {
  /** Features, for any number of vocabularies; or their cosines with the queries of one. */
  readonly kind: "features" | "cosines";
  readonly values: Float32Array;
  /** Of a feature; or the number of queries. */
  readonly width: number;
  readonly grid: Size;
  readonly tiling: Tiling;
  /** Height and width of the image as it was given. */
  readonly shape: Size;
  /** The image that the windows were cut from. */
  readonly resized: Pixels;
  /** The class token's vectors, windows × width, where the method gives them (docs/bundle.md, "Class weights"). */
  readonly classFeatures: Float32Array | null;
}

/**
 * Label every pixel.
 *
 * @param text Queries × width, row by row.
 * @throws ScclipError BackendError: the encoder's output holds NaN or infinity.
 */
export function decode(encoded: Encoded, text: Float32Array, settings: DecodeSettings): Decoded {
  if (!allFinite(encoded.values)) {
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

function allFinite(values: Float32Array): boolean {
  let sum = 0; // stays 0 but for NaN and infinity
  for (let i = 0; i < values.length; i++) sum += values[i] * 0;
  return sum === 0;
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
  /** By query: the cells' logits are (cosine − lowest) / range · scale. */
  private readonly lowest: Float32Array;
  private readonly range: Float32Array;

  constructor(
    private readonly encoded: Encoded, private readonly text: Float32Array, private readonly settings: DecodeSettings,
    private readonly Kind: LabelArray,
  ) {
    const { tiling, grid, shape } = encoded;
    this.rows = cachedAxis(tiling.rows, tiling.window[0], grid[0], tiling.size[0], shape[0], tiling.padding[0]);
    this.columns = cachedAxis(tiling.columns, tiling.window[1], grid[1], tiling.size[1], shape[1], tiling.padding[1]);
    this.lowest = new Float32Array(settings.queryClass.length);
    this.range = new Float32Array(settings.queryClass.length).fill(1);
    if (settings.maps === "minmax") this.stretchMaps();
  }

  /** A pixel's weights add up to 1, so that scaling and shifting the patches' logits does the same to the map. */
  private stretchMaps(): void {
    for (const part of this.chunks(this.settings.queryClass.map((_, query) => query))) {
      const { lowest, highest } = this.ranges(this.logits(part, 1), part.length);
      part.forEach((query, index) => {
        this.lowest[query] = lowest[index];
        // Where several maps are at their highest, all are 1 there, and the first gets the pixel.
        this.range[query] = Math.fround(highest[index] - lowest[index]) + 1e-12;
      });
    }
  }

  /** The least and the greatest value of each query's map. */
  private ranges(logits: Float32Array, count: number): { lowest: Float32Array; highest: Float32Array } {
    const lowest = new Float32Array(count).fill(Infinity);
    const highest = new Float32Array(count).fill(-Infinity);
    const all = Array.from({ length: count }, (_, index) => index);
    for (const tile of this.tiles()) {
      const width = tile.right - tile.left;
      this.eachRow(logits, count, all, tile, (_, values) => {
        for (let query = 0; query < count; query++) {
          for (let at = query * width; at < (query + 1) * width; at++) {
            if (values[at] < lowest[query]) lowest[query] = values[at];
            if (values[at] > highest[query]) highest[query] = values[at];
          }
        }
      });
    }
    return { lowest, highest };
  }

  /** Queries cut so that the cells' logits of a chunk stay within LOGIT_BYTES. */
  private chunks(queries: readonly number[]): number[][] {
    const cells = this.rows.rank.length * this.columns.rank.length;
    const size = Math.max(1, Math.min(MAX_CHUNK, Math.floor(LOGIT_BYTES / (4 * cells))));
    return Array.from({ length: Math.ceil(queries.length / size) }, (_, part) => queries.slice(part * size, (part + 1) * size));
  }

  private *tiles(): Generator<Tile> {
    const [height, width] = this.encoded.shape;
    for (let top = 0; top < height; top += TILE_ROWS) {
      for (let left = 0; left < width; left += TILE_COLUMNS) {
        yield { top, bottom: Math.min(top + TILE_ROWS, height), left, right: Math.min(left + TILE_COLUMNS, width) };
      }
    }
  }

  /** The best of `queries` at every pixel (only near `where`, if given). */
  best(queries: readonly number[], soft: boolean, keepBest: boolean, where?: Uint8Array): Best {
    const [height, width] = this.encoded.shape;
    const size = height * width;
    const { refine } = this.settings;
    const chunks = this.chunks(queries);
    const state: Best = {
      labels: new this.Kind(size),
      logit: soft || keepBest || refine || chunks.length > 1 ? new Float32Array(size).fill(-Infinity) : null,
      total: soft ? new Float32Array(size) : null,
    };
    const refiner = refine ? new Refiner(refine) : null;
    for (const part of chunks) {
      const logits = this.logits(part);
      const classes = part.map((query) => this.settings.queryClass[query]);
      if (refiner) this.refined(logits, classes, refiner, state);
      else for (const tile of this.tiles()) if (!where || anyIn(where, tile, width)) this.reduce(logits, classes, tile, state);
    }
    return state;
  }

  /** As `reduce` over the whole image, each map refined before. */
  private refined(logits: Float32Array, classes: readonly number[], refiner: Refiner, state: Best): void {
    const [height, width] = this.encoded.shape;
    const all = { top: 0, bottom: height, left: 0, right: width };
    for (const [query, owner] of classes.entries()) {
      this.eachRow(logits, classes.length, [query], all, (y, values) => refiner.row(y).set(values));
      refiner.run();
      for (let y = 0; y < height; y++) merge(refiner.row(y), [owner], width, state, y * width);
    }
  }

  /** Scaled logits of every cell, (cell rows, cell columns, queries), cells by their place in the image. */
  private logits(queries: readonly number[], scale = this.settings.logitScale): Float32Array {
    const { tiling, grid, kind, values, width } = this.encoded;
    const [gridRows, gridColumns] = grid;
    const across = this.columns.rank.length;
    const count = queries.length;
    const out = new Float32Array(this.rows.rank.length * across * count);
    const cosines = kind === "cosines" ? values : products(values, this.text, width, queries);
    const places = kind === "cosines" ? queries : queries.map((_, index) => index);
    const stride = kind === "cosines" ? width : count;
    const lowest = Float32Array.from(queries, (query) => this.lowest[query]);
    const range = Float32Array.from(queries, (query) => this.range[query]);
    let from = 0;
    for (let windowRow = 0; windowRow < tiling.rows.length; windowRow++) {
      for (let windowColumn = 0; windowColumn < tiling.columns.length; windowColumn++) {
        for (let row = 0; row < gridRows; row++) {
          const y = this.rows.rank[windowRow * gridRows + row];
          for (let column = 0; column < gridColumns; column++, from += stride) {
            const to = (y * across + this.columns.rank[windowColumn * gridColumns + column]) * count;
            for (let query = 0; query < count; query++) {
              out[to + query] = (Math.fround(cosines[from + places[query]] - lowest[query]) / range[query]) * scale;
            }
          }
        }
      }
    }
    return out;
  }

  private reduce(logits: Float32Array, classes: readonly number[], tile: Tile, state: Best): void {
    const kept = possible(logits, classes.length, this.region(tile), this.surely(state, tile), state.total !== null);
    if (kept.length === 0) return;
    const labels = kept.map((query) => classes[query]);
    if (kept.length === 1 && !state.logit) {
      this.fill(state.labels, tile, labels[0]);
      return;
    }
    const width = tile.right - tile.left;
    this.eachRow(logits, classes.length, kept, tile, (y, values) =>
      merge(values, labels, width, state, y * this.encoded.shape[1] + tile.left));
  }

  /** Hand over the rows of a tile one after the other, (kept queries, pixels). */
  private eachRow(
    logits: Float32Array, count: number, kept: readonly number[], tile: Tile, take: (y: number, values: Float32Array) => void,
  ): void {
    const region = this.region(tile);
    const planes = stretch(gather(logits, count, region, kept), kept.length, region, this.columns, tile);
    const values = new Float32Array(kept.length * (tile.right - tile.left));
    for (let y = tile.top; y < tile.bottom; y++) {
      combine(planes, values.length, this.rows, y, region.firstRow, values);
      take(y, values);
    }
  }

  /** The cells that a tile reads. */
  private region(tile: Tile): Region {
    const [firstRow, lastRow] = reach(this.rows, tile.top, tile.bottom);
    const [firstColumn, lastColumn] = reach(this.columns, tile.left, tile.right);
    return { across: this.columns.rank.length, firstRow, lastRow, firstColumn, lastColumn };
  }

  private fill(target: Labels, { top, bottom, left, right }: Tile, label: number): void {
    const width = this.encoded.shape[1];
    for (let y = top; y < bottom; y++) target.fill(label, y * width + left, y * width + right);
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

/**
 * Products of every feature with the texts of some queries, (features, queries). Two features and four queries at a time,
 * so that each value read serves several sums.
 */
function products(features: Float32Array, texts: Float32Array, width: number, queries: readonly number[]): Float32Array {
  const count = queries.length;
  const rows = features.length / width;
  const out = new Float32Array(rows * count);
  const text = new Float32Array(count * width);
  queries.forEach((query, index) => text.set(texts.subarray(query * width, (query + 1) * width), index * width));
  const paired = rows - (rows % 2);
  const grouped = count - (count % 4);
  for (let row = 0; row < paired; row += 2) {
    const upper = row * width;
    const lower = upper + width;
    for (let query = 0; query < grouped; query += 4) {
      const a = query * width, b = a + width, c = b + width, d = c + width;
      let ua = 0, ub = 0, uc = 0, ud = 0, la = 0, lb = 0, lc = 0, ld = 0;
      for (let i = 0; i < width; i++) {
        const u = features[upper + i], l = features[lower + i];
        const ta = text[a + i], tb = text[b + i], tc = text[c + i], td = text[d + i];
        ua += u * ta; ub += u * tb; uc += u * tc; ud += u * td;
        la += l * ta; lb += l * tb; lc += l * tc; ld += l * td;
      }
      const first = row * count + query, second = first + count;
      out[first] = ua; out[first + 1] = ub; out[first + 2] = uc; out[first + 3] = ud;
      out[second] = la; out[second + 1] = lb; out[second + 2] = lc; out[second + 3] = ld;
    }
  }
  for (let row = 0; row < rows; row++) {
    for (let query = row < paired ? grouped : 0; query < count; query++) {
      let sum = 0;
      for (let i = 0; i < width; i++) sum += features[row * width + i] * text[query * width + i];
      out[row * count + query] = sum;
    }
  }
  return out;
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

/** Cells to the tile's columns: (cell rows, queries, pixels), so that all that follows runs along pixels. */
function stretch(cells: Float32Array, count: number, region: Region, columns: Axis, tile: Tile): Float32Array {
  const cellRows = region.lastRow - region.firstRow;
  const cellColumns = region.lastColumn - region.firstColumn;
  const width = tile.right - tile.left;
  const out = new Float32Array(cellRows * count * width);
  const { starts, weights } = columns;
  for (let row = 0; row < cellRows; row++) {
    for (let x = 0; x < width; x++) {
      for (let i = starts[tile.left + x]; i < starts[tile.left + x + 1]; i++) {
        const weight = weights[i];
        const from = (row * cellColumns + columns.cells[i] - region.firstColumn) * count;
        let to = row * count * width + x;
        for (let query = 0; query < count; query++, to += width) out[to] += weight * cells[from + query];
      }
    }
  }
  return out;
}

/** The row y of a tile, (queries, pixels): a weighted sum of few rows of cells, four at a time. */
function combine(planes: Float32Array, stride: number, rows: Axis, y: number, firstRow: number, values: Float32Array): void {
  const { starts, cells, weights } = rows;
  const stop = starts[y + 1];
  for (let i = starts[y]; i < stop; i += 4) {
    const at = (tap: number): number => (cells[Math.min(tap, stop - 1)] - firstRow) * stride;
    const weight = (tap: number): number => (tap < stop ? weights[tap] : 0);
    const a = at(i), b = at(i + 1), c = at(i + 2), d = at(i + 3);
    const wa = weight(i), wb = weight(i + 1), wc = weight(i + 2), wd = weight(i + 3);
    if (i === starts[y]) {
      for (let j = 0; j < stride; j++) {
        values[j] = wa * planes[a + j] + wb * planes[b + j] + wc * planes[c + j] + wd * planes[d + j];
      }
    } else {
      for (let j = 0; j < stride; j++) {
        values[j] += wa * planes[a + j] + wb * planes[b + j] + wc * planes[c + j] + wd * planes[d + j];
      }
    }
  }
}

/**
 * Bring the values of further queries into the running best of a run of pixels; of equal ones the earlier stays.
 *
 * @param values (queries, pixels).
 * @param at The first pixel's place in the picture.
 */
function merge(values: Float32Array, classes: readonly number[], width: number, state: Best, at: number): void {
  const { labels, logit, total } = state;
  for (let x = 0; x < width; x++) {
    let best = values[x];
    let top = 0;
    for (let query = 1, from = width + x; query < classes.length; query++, from += width) {
      if (values[from] > best) {
        best = values[from];
        top = query;
      }
    }
    const to = at + x;
    if (!logit) {
      labels[to] = classes[top];
      continue;
    }
    const running = logit[to];
    if (total) {
      let sum = 0;
      for (let from = x; from < values.length; from += width) sum += Math.exp(values[from] - best);
      const shrink = Math.exp(-Math.abs(best - running));
      total[to] = best > running ? total[to] * shrink + sum : total[to] + sum * shrink;
    }
    if (best > running) {
      labels[to] = classes[top];
      logit[to] = best;
    }
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

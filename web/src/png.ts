/** PNG files: label maps whose pixel values are the labels, and RGB pictures. */

import { colourOf } from "./overlay.js";
import type { Pixels } from "./resize.js";
import type { Segmentation } from "./segmenter.js";

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
const GREY = 0, RGB = 2, INDEXED = 3;

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

/** The checksum of PNG's chunks. */
export function crc32(bytes: Uint8Array): number {
  let value = 0xffffffff;
  for (const byte of bytes) value = CRC_TABLE[(value ^ byte) & 0xff] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

function chunk(kind: string, data: Uint8Array): Uint8Array {
  const out = new Uint8Array(data.length + 12);
  const view = new DataView(out.buffer);
  view.setUint32(0, data.length);
  out.set(new TextEncoder().encode(kind), 4);
  out.set(data, 8);
  view.setUint32(data.length + 8, crc32(out.subarray(4, data.length + 8)));
  return out;
}

async function deflate(data: Uint8Array): Promise<Uint8Array> {
  const stream = new Blob([data as Uint8Array<ArrayBuffer>]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function encode(
  rows: Uint8Array, rowBytes: number, [width, height]: readonly [number, number], depth: number, kind: number, palette?: Uint8Array,
): Promise<Uint8Array<ArrayBuffer>> {
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([depth, kind], 8);
  const filtered = new Uint8Array(height * (rowBytes + 1)); // each row begins with its filter: none
  for (let y = 0; y < height; y++) {
    filtered.set(rows.subarray(y * rowBytes, (y + 1) * rowBytes), y * (rowBytes + 1) + 1);
  }
  const chunks = [SIGNATURE, chunk("IHDR", header)];
  if (palette) chunks.push(chunk("PLTE", palette));
  chunks.push(chunk("IDAT", await deflate(filtered)), chunk("IEND", new Uint8Array(0)));
  const out = new Uint8Array(chunks.reduce((length, part) => length + part.length, 0));
  let to = 0;
  for (const part of chunks) {
    out.set(part, to);
    to += part.length;
  }
  return out;
}

/** A label map: 8 bits with the classes' colours as palette, 16 bits as grey. */
export async function labelsPng(result: Segmentation): Promise<Uint8Array<ArrayBuffer>> {
  const { labels, width, height } = result;
  if (labels instanceof Uint8Array) {
    const palette = Uint8Array.from(Array.from({ length: 256 }, (_, label) => [...colourOf(label, result)]).flat());
    return encode(labels, width, [width, height], 8, INDEXED, palette);
  }
  const bytes = new Uint8Array(labels.length * 2);
  const view = new DataView(bytes.buffer);
  labels.forEach((label, at) => view.setUint16(at * 2, label));
  return encode(bytes, width * 2, [width, height], 16, GREY);
}

/** An RGB picture. */
export function rgbPng({ data, width, height }: Pixels): Promise<Uint8Array<ArrayBuffer>> {
  return encode(new Uint8Array(data.buffer, data.byteOffset, data.length), width * 3, [width, height], 8, RGB);
}

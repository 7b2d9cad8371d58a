/**
 * Which data files an ONNX file refers to: a walk over the protobuf wire format that steps over weights.
 *
 * The bundle's rule (inside, listed, hashed) must hold for whatever ONNX Runtime reads, and a browser has to be handed
 * the files by name. As scclip_rt/bundle/onnx_weights.py.
 */

type Kind = "model" | "training" | "function" | "graph" | "node" | "attribute" | "sparse" | "tensor" | "entry";

// Message type → field number → type of the nested message (onnx.proto, stable since IR version 3).
const NESTED: Record<Exclude<Kind, "entry">, Readonly<Record<number, Kind>>> = {
  model: { 7: "graph", 20: "training", 25: "function" },
  training: { 1: "graph", 2: "graph" },
  function: { 7: "node", 11: "attribute" },
  graph: { 1: "node", 5: "tensor", 15: "sparse" },
  node: { 5: "attribute" },
  attribute: { 5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse" },
  sparse: { 1: "tensor", 2: "tensor" },
  tensor: { 13: "entry" },
};

interface Field {
  readonly number: number;
  readonly start: number;
  readonly end: number;
}

/**
 * The `location` of every tensor stored outside an ONNX file, as written in it.
 *
 * @throws Error the bytes are no protobuf message.
 */
export function externalLocations(data: Uint8Array): Set<string> {
  const found = new Set<string>();
  const utf8 = new TextDecoder("utf-8", { fatal: true });
  const text = ({ start, end }: Field): string => utf8.decode(data.subarray(start, end));
  const stack: [Kind, number, number][] = [["model", 0, data.length]];
  for (let next = stack.pop(); next; next = stack.pop()) {
    const [kind, start, end] = next;
    if (kind === "entry") {
      const parts = [...fields(data, start, end, { 1: "entry", 2: "entry" })];
      const keys = parts.filter((part) => part.number === 1);
      const values = parts.filter((part) => part.number === 2);
      if (keys.length !== 1 || values.length !== 1) throw new Error("an entry of a tensor's data has not one key and one value");
      if (text(keys[0]) === "location") found.add(text(values[0]));
      continue;
    }
    const nested = NESTED[kind];
    for (const field of fields(data, start, end, nested)) {
      const inner = nested[field.number];
      if (inner) stack.push([inner, field.start, field.end]);
    }
  }
  return found;
}

/** Every length-delimited field of the message at [position, end); those of `messages` must be such. */
function* fields(
  data: Uint8Array, position: number, end: number, messages: Readonly<Record<number, Kind>>,
): Generator<Field> {
  while (position < end) {
    let tag: number;
    [tag, position] = varint(data, position, end);
    const number = Math.floor(tag / 8);
    const wire = tag % 8;
    if (number < 1 || number >= 2 ** 29 || (messages[number] && wire !== 2)) {
      throw new Error(`field ${number} of wire type ${wire} at byte ${position}`);
    }
    let length = 0;
    if (wire === 0) [, position] = varint(data, position, end);
    else if (wire === 1) length = 8;
    else if (wire === 2) [length, position] = varint(data, position, end);
    else if (wire === 5) length = 4;
    else throw new Error(`wire type ${wire} at byte ${position}`);
    if (position + length > end) throw new Error(`field ${number} at byte ${position} runs past its message`);
    if (wire === 2) yield { number, start: position, end: position + length };
    position += length;
  }
}

function varint(data: Uint8Array, position: number, end: number): [number, number] {
  let value = 0;
  for (let scale = 1, count = 0; count < 10; count++, scale *= 128) {
    if (position >= end) throw new Error("a number runs past its message");
    const byte = data[position++];
    value += (byte & 0x7f) * scale;
    if (byte < 0x80) return [value, position];
  }
  throw new Error(`a number of more than ten bytes at byte ${position}`);
}

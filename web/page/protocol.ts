/** What the page and its worker say to each other. */

import type { ErrorCode } from "../src/errors.js";
import type { Segmentation } from "../src/segmenter.js";

/** How the model runs: it is opened again when one of these changes. */
export interface Setup {
  /** Address of the bundle. */
  readonly bundle: string;
  readonly precision: string;
  readonly provider: "wasm" | "webgpu";
}

export interface Request {
  readonly id: number;
  readonly setup: Setup;
  /** A picture; without one, only the model is opened. The same picture is sent again with every request. */
  readonly image: Blob | null;
  /** Class names, a line each; null takes the bundle's own vocabulary. */
  readonly classes: string | null;
}

/** What the worker does, and how much of it is done. */
export interface Progress {
  readonly id: number;
  readonly kind: "progress";
  readonly stage: "download" | "names" | "windows";
  readonly done: number;
  readonly total: number;
}

export interface Opened {
  readonly id: number;
  readonly kind: "opened";
  /** The bundle's own classes, as the text field takes them; empty where it carries no vocabulary. */
  readonly classes: string;
  /** Threads of WebAssembly. */
  readonly threads: number;
}

export interface Done {
  readonly id: number;
  readonly kind: "done";
  readonly result: Segmentation;
  /** The label map as a file. */
  readonly png: Uint8Array<ArrayBuffer>;
  /** What may be wrong with the class list; null: nothing. */
  readonly warning: string | null;
}

export interface Failed {
  readonly id: number;
  readonly kind: "failed";
  readonly code: ErrorCode | "Error";
  readonly message: string;
}

export type Reply = Progress | Opened | Done | Failed;

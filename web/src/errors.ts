/** The errors of this package: the kinds and fields of the Python runtime (docs/errors.md). */

export type ErrorCode =
  | "BundleError" | "ImageError" | "VocabularyError" | "BackendError" | "OutputError" | "OptionError";

/** What bad input, a bad bundle or a missing backend causes: what was asked, what was found, what to do. */
export class ScclipError extends Error {
  /**
   * @param code The kind, as docs/errors.md lists it.
   * @param message One line for a person.
   * @param field What is at fault: an option, a file of the bundle, a place in bundle.json.
   */
  constructor(readonly code: ErrorCode, message: string, readonly field?: string) {
    super(printable(message));
    this.name = code;
  }
}

/** What a call gets that comes after `close`, or that `close` has overtaken. */
export function closedError(): ScclipError {
  return new ScclipError("BackendError", "the segmenter is closed; open another one", "segmenter");
}

const CONTROLS = /[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]/gu;

/** Text without characters that clear a screen, forge a line or turn the direction of writing. */
export function printable(text: string): string {
  return text.replace(CONTROLS, (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** A name that fits a message or a legend. */
export function shorten(name: string, length = 40): string {
  const points = [...name];
  return printable(points.length <= length ? name : `${points.slice(0, length - 1).join("").trimEnd()}…`);
}

/** The words of an error of any kind, in one line. */
export function reasonOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.split(/\s+/).join(" ").slice(0, 300);
}

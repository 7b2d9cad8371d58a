/**
 * Text as CLIP's tokenizer prepares it (scclip_rt/vocabulary/tokenizer.py, `clean`): entities of HTML resolved, what
 * editors do to characters repaired (ftfy's rules), white space collapsed, lower case.
 *
 * What Python repairs by guessing is refused here, as in C++: UTF-8 that was read in another encoding.
 */

import { decodeHTML } from "entities";
import { ScclipError, shorten } from "./errors.js";

const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const SPACES = new RegExp(`[${SPACE}]+`, "g");
const ENDS = new RegExp(`^[${SPACE}]+|[${SPACE}]+$`, "g");

const LIGATURES: Readonly<Record<string, string>> = {
  "Ĳ": "IJ", "ĳ": "ij", "ŉ": "'n", "Ǳ": "DZ", "ǲ": "Dz", "ǳ": "dz", "Ǆ": "DŽ", "ǅ": "Dž", "ǆ": "dž",
  "Ǉ": "LJ", "ǈ": "Lj", "ǉ": "lj", "Ǌ": "NJ", "ǋ": "Nj", "ǌ": "nj", "ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl",
  "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "ſt", "ﬆ": "st",
};
const LIGATURE = new RegExp(`[${Object.keys(LIGATURES).join("")}]`, "g");

/** Windows-1252's characters for the bytes from 0x80 to 0x9F; a space where it has none. */
const WINDOWS = "€ ‚ƒ„…†‡ˆ‰Š‹Œ Ž  ‘’“”•–—˜™š›œ žŸ";

/** `str.strip` of Python. */
export function strip(text: string): string {
  return text.replace(ENDS, "");
}

/** Whether text looks like UTF-8 that was read byte by byte, as Latin-1 or Windows-1252. */
function looksMisread(text: string): boolean {
  const bytes = Array.from(text, (character) => {
    const place = character === " " ? -1 : WINDOWS.indexOf(character);
    const point = character.codePointAt(0) ?? 0;
    return point < 0x100 ? point : place >= 0 ? 0x80 + place : 0x20;
  });
  const utf8 = new TextDecoder("utf-8", { fatal: true });
  const startsSequence = bytes.some((byte, at) => {
    const length = byte >= 0xc2 && byte <= 0xdf ? 2 : byte >= 0xe0 && byte <= 0xef ? 3 : byte >= 0xf0 && byte <= 0xf4 ? 4 : 0;
    if (length === 0 || at + length > bytes.length) return false;
    try {
      utf8.decode(Uint8Array.from(bytes.slice(at, at + length)));
      return true;
    } catch {
      return false;
    }
  });
  return startsSequence || /[\x80-\x84\x86-\x9f]/.test(text);
}

/** ftfy's repairs that need no guess. */
function repair(text: string): string {
  return text
    .replace(LIGATURE, (found) => LIGATURES[found])
    .replace(/[\uff01-\uffef]/g, (found) => found.normalize("NFKC"))
    .replace(/[\u02bc\u2018-\u201b]/g, "'")
    .replace(/[\u201c-\u201f]/g, '"')
    .replace(/\x1b\[[;\p{Nd}]*[0-9A-Za-z]/gu, "")
    .replace(/[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]/g, "")
    .normalize("NFC");
}

/**
 * What the tokenizer cuts up.
 *
 * @throws ScclipError VocabularyError: text that can't be repaired without a guess.
 */
export function clean(text: string): string {
  let fixed = text;
  for (let before = ""; fixed !== before;) {
    before = fixed;
    fixed = decodeHTML(fixed);
    if (looksMisread(fixed)) {
      throw new ScclipError(
        "VocabularyError",
        `the name '${shorten(text)}' looks like UTF-8 that was read in another encoding: write it as UTF-8`,
        "classes",
      );
    }
    fixed = repair(fixed);
  }
  return strip(fixed).replace(SPACES, " ").toLowerCase();
}

"""From class names to token ids, exactly as open_clip's tokenizer makes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scclip_rt.errors import BundleError, printable

if TYPE_CHECKING:
    import tokenizers

CONTEXT_LENGTH = 77


def clean(text: str) -> str:
    """Repair the encoding, unescape HTML twice, collapse white space, lower case: CLIP's own preparation."""
    # Most names: nothing to repair, and no entity.
    if "&" in text or not (text.isascii() and text.isprintable()):
        import html

        import ftfy  # 40 ms

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


class Tokenizer:
    """CLIP's byte-pair tokenizer, read from a bundle's `tokenizer.json`.

    Args:
        tokenizer: of the `tokenizers` library, framing each text with start and end tokens.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Read `tokenizer.json`.

        Raises:
            BundleError: it is missing or damaged.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, BundleError) as error:
            raise BundleError(
                f"can't read the tokenizer {path}: {error}; export the bundle again", field=Path(path).name
            ) from error

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """From the contents of `tokenizer.json`.

        Raises:
            BundleError: it isn't a tokenizer.
        """
        import tokenizers  # 20 ms

        try:
            return cls(tokenizers.Tokenizer.from_str(text))
        except (
            BaseException
        ) as error:  # the library raises a bare Exception, and a panic of its Rust code is not one
            raise _tokenizer_error("not a tokenizer.json", error) from error

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, start and end tokens included, of any length."""
        try:
            encodings = self._tokenizer.encode_batch([clean(text) for text in texts])
        except BaseException as error:
            raise _tokenizer_error("the tokenizer of this bundle fails", error) from error
        return [list(encoding.ids) for encoding in encodings]


def _tokenizer_error(what: str, error: BaseException) -> BaseException:
    """The project's error for one of the library, its panics included; Ctrl-C and the like stay what they are."""
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return BundleError(f"{what}: {printable(' '.join(str(error).split())[:200])}", field="tokenizer")
    return error


def pad(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Rows of ids → (rows, longest) int64, zeros after the end: the text encoder's input (its mask is causal)."""
    tokens = np.zeros((len(rows), max(len(row) for row in rows)), np.int64)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
    return tokens

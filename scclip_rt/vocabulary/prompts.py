"""Prompts to unit vectors: in batches of like length, and what they begin with only once.

The text tower is causal, so the keys and values of a template's words before the class name are the same for every
name. They are computed once and kept (`scclip_rt.vocabulary.beginnings`); then a prompt costs its name, what follows it
and the end token.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scclip_rt.backends import TextBackend
from scclip_rt.backends.base import ResumingTextBackend
from scclip_rt.backends.handle import keep_for_ever, tell_after_fork
from scclip_rt.vocabulary.beginnings import MOST_BEGINNINGS, Beginnings
from scclip_rt.vocabulary.tokenizer import pad

EncodeText = Callable[[NDArray[np.int64]], NDArray[np.float32]]
_WHOLE_BATCH = 64
_BATCH = MOST_BEGINNINGS
"""Prompts that are resumed together: their beginnings have to be kept together."""
_PADDING = 64
"""Tokens that may be added to a batch to fill it up; more cost more than another batch does."""
_LONGEST_BEGINNING = 16
"""Tokens of a beginning that are kept; what is longer is computed again, which is as exact."""


class Prompt(NamedTuple):
    """Token ids, start and end tokens included, of which the first `beginning` are the same for other names."""

    ids: Sequence[int]
    beginning: int = 0


EncodePrompts = Callable[[Sequence[Prompt]], NDArray[np.float32]]
"""Prompts to unit vectors (N, E) float32."""


def encode_whole(encode: EncodeText, *, batch: int = _WHOLE_BATCH) -> EncodePrompts:
    """Encode prompts by a function of tokens (B, T) int64 → (B, E) float32, from their first to their last token."""

    def run(prompts: Sequence[Prompt]) -> NDArray[np.float32]:
        return _in_batches(
            prompts, batch, lambda prompt: len(prompt.ids), lambda part: encode(pad([p.ids for p in part]))
        )

    return run


def _in_batches(
    prompts: Sequence[Prompt],
    batch: int,
    length: Callable[[Prompt], int],
    encode: Callable[[list[Prompt]], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """Encode prompts of like length together; the rows are in the order of the prompts."""
    order = sorted(range(len(prompts)), key=lambda index: length(prompts[index]))
    parts: list[list[int]] = [[]]
    shortest = 0
    for index in order:
        tokens = length(prompts[index])
        if len(parts[-1]) == batch or len(parts[-1]) * (tokens - shortest) > _PADDING:
            parts.append([])
        if not parts[-1]:
            shortest = tokens
        parts[-1].append(index)
    rows = np.concatenate([encode([prompts[index] for index in part]) for part in parts])
    result = np.empty_like(rows)
    result[order] = rows
    return result


class PromptEncoder:
    """A text encoder that is loaded at the first prompt, with the beginnings it has seen.

    Calls from several threads take turns, batch by batch. In a forked process the encoder is loaded again.

    Args:
        load: opens the text encoder.

    Attributes:
        kept: the file in which beginnings are kept between runs; None for none. It is read when the encoder is loaded.
    """

    def __init__(self, load: Callable[[], TextBackend]) -> None:
        self.kept: Path | None = None
        self._load = load
        self._text: TextBackend | None = None
        self._beginnings: Beginnings | None = None
        self._turn = threading.Lock()
        tell_after_fork(self)

    def __call__(
        self, prompts: Sequence[Prompt], before: Callable[[], None] = lambda: None
    ) -> NDArray[np.float32]:
        """Encode prompts.

        Args:
            prompts: at least one.
            before: called before each batch; what it raises ends the call.

        Returns:
            (N, E) float32, unit rows.

        Raises:
            BundleError: the text encoder can't be loaded.
            BackendError: it fails.
        """

        def encode(part: list[Prompt]) -> NDArray[np.float32]:
            with self._turn:
                before()
                text = self._loaded()
                if not isinstance(text, ResumingTextBackend):
                    return text.encode(_padded(part))
                if self._beginnings is None:
                    self._beginnings = Beginnings(text, self.kept)
                cuts = [_known(prompt) for prompt in part]
                return self._beginnings.resume([prompt.ids for prompt in part], cuts)

        with self._turn:
            before()
            resumes = isinstance(self._loaded(), ResumingTextBackend)
        if resumes:
            rows = _in_batches(prompts, _BATCH, _rest, encode)
            with self._turn:
                if self._beginnings is not None:
                    self._beginnings.keep()
            return rows
        return _in_batches(prompts, _WHOLE_BATCH, _length, encode)

    def release(self) -> None:
        """Let go of the weights and the beginnings; the next prompt loads the encoder again."""
        with self._turn:
            self._text = self._beginnings = None

    def after_fork(self) -> None:
        """In a forked process: forget the encoder, which has none of the threads it had."""
        if self._text is not None:
            keep_for_ever(self._text)
        self._text = self._beginnings = None
        self._turn = threading.Lock()

    def _loaded(self) -> TextBackend:
        if self._text is None:
            self._text = self._load()
        return self._text


def _length(prompt: Prompt) -> int:
    return len(prompt.ids)


def _rest(prompt: Prompt) -> int:
    return len(prompt.ids) - _known(prompt)


def _padded(prompts: Sequence[Prompt]) -> NDArray[np.int64]:
    return pad([prompt.ids for prompt in prompts])


def _known(prompt: Prompt) -> int:
    """How many tokens of a prompt are taken from its beginning; the last one is always computed."""
    return min(prompt.beginning, _LONGEST_BEGINNING, len(prompt.ids) - 1)

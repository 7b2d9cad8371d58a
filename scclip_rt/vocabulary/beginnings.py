"""What prompts begin with: its keys and values, kept in memory, and between runs in a file of the cache."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scclip_rt.backends.base import KnownTokens, ResumingTextBackend
from scclip_rt.errors import OutputError
from scclip_rt.files import read_cached, write_cached
from scclip_rt.vocabulary.tokenizer import pad

MOST_BEGINNINGS = 128
"""Beginnings that are kept at a time: 100 MB for CLIP's ViT-B/16."""
_MOST_FILES = 4
"""Of text encoders, in a cache: 35 MB each with the 80 templates of ImageNet and the text encoder of a ViT-B/16."""

_log = logging.getLogger("scclip_rt")


def beginnings_file(cache_dir: Path, sha256: str) -> Path:
    """The file of a text encoder's beginnings in a cache of embeddings; `sha256` is of what they depend on."""
    return cache_dir / "beginnings" / f"{sha256}.safetensors"


class Beginnings:
    """Keys and values of the beginnings that were met, as the text encoder takes them.

    Args:
        text: the text encoder.
        file: where they are kept between runs; None for nowhere. A file that does not hold what its hash says counts as
            none.
    """

    def __init__(self, text: ResumingTextBackend, file: Path | None = None) -> None:
        self._text, self._file = text, file
        self._place: dict[tuple[int, ...], int] = {}
        self._known: KnownTokens | None = None
        self._new = False
        if file is not None and (read := _read(file)) is not None:
            beginnings, self._known = read
            self._place = {beginning: index for index, beginning in enumerate(beginnings)}

    def resume(self, prompts: Sequence[Sequence[int]], cuts: Sequence[int]) -> NDArray[np.float32]:
        """Encode prompts, each from its cut on; at most `MOST_BEGINNINGS`, all of them with a beginning.

        Args:
            prompts: token ids.
            cuts: how many of each one's ids are its beginning, at least 1.

        Returns:
            (B, E) float32, unit rows.
        """
        beginnings = [tuple(ids[:cut]) for ids, cut in zip(prompts, cuts, strict=True)]
        self._learn(dict.fromkeys(beginnings))
        assert self._known is not None
        rest = pad([ids[cut:] for ids, cut in zip(prompts, cuts, strict=True)])
        places = np.array([self._place[beginning] for beginning in beginnings], np.int64)
        return self._text.resume(rest, self._known, places)

    def keep(self) -> None:
        """Write what is new for the next run. Where beginnings had to be forgotten, a file would gain nothing."""
        if not self._new or self._file is None or self._known is None:
            return
        self._new = False
        try:
            _write(self._file, list(self._place), self._known)
        except OutputError as error:  # a cache that can't be written costs time, not the result
            _log.warning("beginnings of prompts are not cached: %s", error)
            self._file = None

    def _learn(self, beginnings: Iterable[tuple[int, ...]]) -> None:
        """Compute what is not known yet; where it would be too much, what is known is forgotten first."""
        new = [beginning for beginning in beginnings if beginning not in self._place]
        if not new:
            return
        self._new = True
        if len(self._place) + len(new) > MOST_BEGINNINGS:
            self._place, self._known, self._file = {}, None, None
            new = list(beginnings)
        added = KnownTokens(
            values=self._text.keys_and_values(pad(new)),
            lengths=np.array([len(beginning) for beginning in new], np.int64),
        )
        self._known = added if self._known is None else self._known.joined(added)
        self._place |= {beginning: len(self._place) + index for index, beginning in enumerate(new)}


def _write(file: Path, beginnings: Sequence[tuple[int, ...]], known: KnownTokens) -> None:
    """Write a safetensors file of `ids`, `lengths` and `values`, behind its hash.

    Raises:
        OutputError: the system refused to write.
    """
    from safetensors.numpy import save

    values = np.ascontiguousarray(known.values)
    data = save({"ids": pad(beginnings), "lengths": known.lengths, "values": values})
    write_cached(file, data, most=_MOST_FILES)


def _read(file: Path) -> tuple[list[tuple[int, ...]], KnownTokens] | None:
    """What `_write` wrote; None where there is none that is sound."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    data = read_cached(file)
    if data is None:
        return None
    try:
        tensors = load(data)
        known = KnownTokens(values=tensors["values"], lengths=tensors["lengths"])
        rows = zip(tensors["ids"].tolist(), known.lengths.tolist(), strict=True)
        return [tuple(ids[:length]) for ids, length in rows], known
    except (SafetensorError, KeyError, TypeError, ValueError):  # of another version
        return None

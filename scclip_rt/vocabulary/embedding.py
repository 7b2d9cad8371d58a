"""Class names to embeddings: every name in every template, averaged (METHOD §3), with a cache per name."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scclip_rt.errors import OutputError, VocabularyError
from scclip_rt.files import atomic_path, cache_directory
from scclip_rt.vocabulary.classes import Classes, find_background, shorten
from scclip_rt.vocabulary.file import Vocabulary
from scclip_rt.vocabulary.templates import Templates
from scclip_rt.vocabulary.tokenizer import CONTEXT_LENGTH, Tokenizer, pad

EncodeText = Callable[[NDArray[np.int64]], NDArray[np.float32]]
GROUP_PROMPTS = 1024
"""Prompts sorted by length together: enough for full batches of like length, and a unit of progress and resumption."""

_DIGEST_BYTES = 32

_log = logging.getLogger("scclip_rt")


def embedding_cache_directory() -> Path | None:
    """Where embeddings of names are kept by default; None where there is no place for a cache."""
    root = cache_directory()
    return None if root is None else root / "embeddings"


def embed_classes(
    classes: Classes,
    encode: EncodeText,
    tokenizer: Tokenizer,
    templates: Templates,
    *,
    model_sha256: str,
    background: str | None = None,
    context_length: int = CONTEXT_LENGTH,
    cache_dir: Path | None = None,
    batch: int = 64,
    progress: bool = False,
) -> Vocabulary:
    """Embed a class list.

    Interrupted, it goes on where it stopped when it is called again with the same cache.

    Args:
        classes: from `parse_classes`; the empty text is one as well.
        encode: the text encoder, tokens (B, T) int64 → (B, E) float32.
        tokenizer: of the same model.
        templates: prompts around each name.
        model_sha256: identity of the text model, for the vocabulary and the cache.
        background: see `find_background`.
        context_length: most tokens the text encoder takes, start and end included.
        cache_dir: folder of embeddings made before (`embedding_cache_directory()`), or None.
        batch: prompts encoded at once.
        progress: show a bar on standard error.

    Raises:
        VocabularyError: a name has no tokens or too many, or its embedding isn't finite.
    """
    first_names = tuple(names[0] for names in classes)
    background_index = find_background(first_names, background)
    queries = tuple(name for names in classes for name in names)
    cache = _Cache(cache_dir, templates.sha256, model_sha256)
    rows: dict[str, NDArray[np.float32]] = {}
    for name in queries:
        cached = cache.get(name)
        if cached is not None:
            rows[name] = cached
    missing = [name for name in queries if name not in rows]
    prompts = [_Prompts.of(name, tokenizer, templates, context_length) for name in missing]
    for name, row in _embed(prompts, encode, batch=batch, progress=progress):
        cache.put(name, row)
        rows[name] = row
    return Vocabulary(
        embeddings=np.stack([rows[name] for name in queries]),
        classes=first_names,
        queries=queries,
        query_class=np.repeat(np.arange(len(classes)), [len(names) for names in classes]).astype(np.int64),
        background=background_index,
        templates=templates.name,
        text_model_sha256=model_sha256,
    )


def embed_each_template(
    names: Sequence[str],
    encode: EncodeText,
    tokenizer: Tokenizer,
    templates: Templates,
    *,
    context_length: int = CONTEXT_LENGTH,
    progress: bool = False,
) -> NDArray[np.float32]:
    """Embed every name in every template by itself; nothing is averaged, and nothing is kept in a cache.

    Args:
        names: Q of them.
        encode: as for `embed_classes`, like the others.
        tokenizer: of the same model.
        templates: T of them.
        context_length: most tokens the text encoder takes.
        progress: show a bar on standard error.

    Returns:
        (T, Q, E), unit rows.
    """
    from tqdm import tqdm

    classes = tuple((name,) for name in names)
    rows = [
        embed_classes(
            classes,
            encode,
            tokenizer,
            Templates(name="one", patterns=(pattern,)),
            model_sha256="",
            background="none",
            context_length=context_length,
        ).embeddings
        for pattern in tqdm(templates.patterns, desc="embedding templates", disable=not progress)
    ]
    return np.stack(rows)


@dataclass(frozen=True, slots=True)
class _Prompts:
    """One name in all templates, as token ids."""

    name: str
    rows: list[list[int]]

    @classmethod
    def of(cls, name: str, tokenizer: Tokenizer, templates: Templates, context_length: int) -> _Prompts:
        if name and len(tokenizer.encode([name])[0]) <= 2:
            raise VocabularyError(
                f"the class name {shorten(name)!r} has nothing that CLIP's tokenizer knows", field="classes"
            )
        rows = tokenizer.encode(templates(name))
        longest = max(len(row) for row in rows)
        if longest > context_length:
            raise VocabularyError(
                f"the class name {shorten(name)!r} is too long: {longest} tokens in its longest prompt, start and end "
                f"included; the model takes {context_length}. Shorten the name"
                + (", or use --templates none" if len(templates.patterns) > 1 else ""),
                field="classes",
            )
        return cls(name, rows)


def _embed(
    prompts: Sequence[_Prompts], encode: EncodeText, *, batch: int, progress: bool
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield each name with its embedding, group by group, short names first."""
    if not prompts:
        return
    from tqdm import tqdm

    ordered = sorted(prompts, key=lambda p: max(len(row) for row in p.rows))
    size = max(1, GROUP_PROMPTS // len(ordered[0].rows))
    with tqdm(total=len(ordered), desc="embedding names", unit="name", disable=not progress) as bar:
        for start in range(0, len(ordered), size):
            group = ordered[start : start + size]
            yield from _embed_group(group, encode, batch)
            bar.update(len(group))


def _embed_group(
    group: Sequence[_Prompts], encode: EncodeText, batch: int
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    rows = [row for prompts in group for row in prompts.rows]
    owner = np.repeat(np.arange(len(group)), [len(prompts.rows) for prompts in group])
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    totals: NDArray[np.float64] | None = None
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        vectors = np.asarray(encode(pad([rows[index] for index in part])), np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        if totals is None:
            totals = np.zeros((len(group), vectors.shape[1]))
        np.add.at(totals, owner[part], vectors)
    if totals is None:
        return
    for prompts, total in zip(group, totals, strict=True):
        row = (total / np.linalg.norm(total)).astype(np.float32)
        if not np.isfinite(row).all():
            raise VocabularyError(
                f"the text encoder returned NaN or infinity for {shorten(prompts.name)!r}; the bundle's text encoder "
                "is unsound. Check it with 'scclip inspect' and export it again"
            )
        yield prompts.name, row


class _Cache:
    """One small file per name, templates and model: a SHA-256 and the float32 row it is of.

    A file that does not hold what its hash says is made again.
    """

    def __init__(self, directory: Path | None, templates_sha256: str, model_sha256: str) -> None:
        self._directory = directory
        self._context = [templates_sha256, model_sha256]

    def _path(self, directory: Path, name: str) -> Path:
        key = hashlib.sha256(json.dumps([name, *self._context]).encode()).hexdigest()
        return directory / key[:2] / f"{key}.row"

    def get(self, name: str) -> NDArray[np.float32] | None:
        if self._directory is None:
            return None
        try:
            data = self._path(self._directory, name).read_bytes()
        except (OSError, ValueError):
            return None
        digest, row = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if len(row) % 4 or digest != hashlib.sha256(row).digest():
            return None
        return np.frombuffer(row, "<f4").astype(np.float32)

    def put(self, name: str, row: NDArray[np.float32]) -> None:
        if self._directory is None:
            return
        try:
            data = row.astype("<f4").tobytes()
            with atomic_path(self._path(self._directory, name), force=True) as temporary:
                temporary.write_bytes(hashlib.sha256(data).digest() + data)
        except OutputError as error:  # a cache that can't be written costs time, not the result
            _log.warning("embeddings are not cached: %s", error)
            self._directory = None

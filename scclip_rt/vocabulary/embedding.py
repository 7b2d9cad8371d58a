"""Class names to embeddings: every name in every template, averaged (METHOD §3), with a cache per name."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scclip_rt.errors import OutputError, VocabularyError
from scclip_rt.files import cache_directory, read_cached, write_cached
from scclip_rt.vocabulary.classes import Classes, find_background, shorten
from scclip_rt.vocabulary.file import Vocabulary
from scclip_rt.vocabulary.prompts import EncodePrompts, Prompt
from scclip_rt.vocabulary.templates import Templates
from scclip_rt.vocabulary.tokenizer import CONTEXT_LENGTH, Tokenizer

GROUP_PROMPTS = 1024
"""Prompts sorted by length together: enough for full batches of like length, and a unit of progress and resumption."""

_ROWS_PER_FOLDER = 256
"""65,536 names in all: 140 MB for vectors of 512 numbers."""

_log = logging.getLogger("scclip_rt")


def embedding_cache_directory() -> Path | None:
    """Where embeddings of names are kept by default; None where there is no place for a cache."""
    root = cache_directory()
    return None if root is None else root / "embeddings"


def embed_classes(
    classes: Classes,
    encode: EncodePrompts,
    tokenizer: Tokenizer,
    templates: Templates,
    *,
    model_sha256: str,
    background: str | None = None,
    context_length: int = CONTEXT_LENGTH,
    cache_dir: Path | None = None,
    cache_key: str | None = None,
    progress: bool = False,
) -> Vocabulary:
    """Embed a class list.

    Interrupted, it goes on where it stopped when it is called again with the same cache.

    Args:
        classes: from `parse_classes`; the empty text is one as well.
        encode: the text encoder: a `PromptEncoder`, or any other in `encode_whole`.
        tokenizer: of the same model.
        templates: prompts around each name.
        model_sha256: identity of the text model, for the vocabulary.
        background: see `find_background`.
        context_length: most tokens the text encoder takes, start and end included.
        cache_dir: folder of embeddings made before (`embedding_cache_directory()`), or None.
        cache_key: of what embeddings in the cache depend on; None: the text model alone.
        progress: show a bar on standard error.

    Raises:
        VocabularyError: a name has no tokens or too many, or its embedding isn't finite.
    """
    first_names = tuple(names[0] for names in classes)
    background_index = find_background(first_names, background)
    queries = tuple(name for names in classes for name in names)
    cache = _Cache(cache_dir, templates.sha256, cache_key or model_sha256)
    rows: dict[str, NDArray[np.float32]] = {}
    for name in queries:
        cached = cache.get(name)
        if cached is not None:
            rows[name] = cached
    missing = [name for name in queries if name not in rows]
    prompts = _prompts(missing, tokenizer, templates, context_length) if missing else []
    for name, row in _embed(prompts, encode, progress=progress):
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
    encode: EncodePrompts,
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
    rows: list[Prompt]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(row.ids) for row in self.rows)


def _prompts(
    names: Sequence[str], tokenizer: Tokenizer, templates: Templates, context_length: int
) -> list[_Prompts]:
    """Tokens of every name in every template.

    Raises:
        VocabularyError: a name has no tokens or too many.
    """
    # Without the end token; a name may join with what stands before it, so rows are compared with it.
    heads = [ids[:-1] for ids in tokenizer.encode(templates.heads)]
    made = []
    for name in names:
        if name and len(tokenizer.encode([name])[0]) <= 2:
            raise VocabularyError(
                f"the class name {shorten(name)!r} has nothing that CLIP's tokenizer knows", field="classes"
            )
        rows = tokenizer.encode(templates(name))
        prompts = _Prompts(
            name, [Prompt(ids, _common(ids, head)) for ids, head in zip(rows, heads, strict=True)]
        )
        if prompts.longest > context_length:
            raise VocabularyError(
                f"the class name {shorten(name)!r} is too long: {prompts.longest} tokens in its longest prompt, start "
                f"and end included; the model takes {context_length}. Shorten the name"
                + (", or use --templates none" if len(templates.patterns) > 1 else ""),
                field="classes",
            )
        made.append(prompts)
    return made


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading ids are the same."""
    pairs = zip(first, second, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _embed(
    prompts: Sequence[_Prompts], encode: EncodePrompts, *, progress: bool
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield each name with its embedding, group by group, short names first."""
    if not prompts:
        return
    from tqdm import tqdm

    ordered = sorted(prompts, key=lambda p: p.longest)
    size = max(1, GROUP_PROMPTS // len(ordered[0].rows))
    with tqdm(total=len(ordered), desc="embedding names", unit="name", disable=not progress) as bar:
        for start in range(0, len(ordered), size):
            group = ordered[start : start + size]
            yield from _embed_group(group, encode)
            bar.update(len(group))


def _embed_group(
    group: Sequence[_Prompts], encode: EncodePrompts
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    rows = [row for prompts in group for row in prompts.rows]
    vectors = np.asarray(encode(rows), np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ends = np.cumsum([len(prompts.rows) for prompts in group])
    for prompts, of_name in zip(group, np.split(vectors, ends[:-1]), strict=True):
        total = of_name.sum(axis=0)
        row = (total / np.linalg.norm(total)).astype(np.float32)
        if not np.isfinite(row).all():
            raise VocabularyError(
                f"the text encoder returned NaN or infinity for {shorten(prompts.name)!r}; the bundle's text encoder "
                "is unsound. Check it with 'scclip inspect' and export it again"
            )
        yield prompts.name, row


class _Cache:
    """One small file per name, templates and model: a SHA-256 and the float32 row it is of.

    A file that does not hold what its hash says is made again. Files lie in 256 folders by their hash; when one has too
    many, those go that were longest not used.
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
        row = read_cached(self._path(self._directory, name))
        if row is None or len(row) % 4:
            return None
        return np.frombuffer(row, "<f4").astype(np.float32)

    def put(self, name: str, row: NDArray[np.float32]) -> None:
        if self._directory is None:
            return
        try:
            data = row.astype("<f4").tobytes()
            write_cached(self._path(self._directory, name), data, most=_ROWS_PER_FOLDER)
        except OutputError as error:  # a cache that can't be written costs time, not the result
            _log.warning("embeddings are not cached: %s", error)
            self._directory = None

"""A vocabulary: classes, and a unit vector for each of their names; its file; its making."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.decode.settings import DecodeOptions, DecodeSettings
from scclip_rt.errors import VocabularyError
from scclip_rt.files import atomic_path
from scclip_rt.vocabulary.classes import shorten

FORMAT = "scclip-vocabulary/1"
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Vocabulary:
    """What images are searched for.

    Attributes:
        embeddings: (Q, E) float32, unit rows.
        classes: the first name of each class.
        queries: the name that each row embeds, Q long.
        query_class: the class of each row, (Q,) int64.
        background: index of the background class, or None.
        templates: name of the template set.
        text_model_sha256: the text model that made the rows.

    Raises:
        VocabularyError: the parts don't fit each other, or the rows aren't finite unit vectors.
    """

    embeddings: NDArray[np.float32]
    classes: tuple[str, ...]
    queries: tuple[str, ...]
    query_class: NDArray[np.int64]
    background: int | None
    templates: str
    text_model_sha256: str

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise VocabularyError(f"unsound vocabulary: {problem[1]}", field=problem[0])

    def _problem(self) -> tuple[str, str] | None:
        """The part at fault, and what is wrong with it."""
        rows, number = self.embeddings, len(self.classes)
        if rows.dtype != np.float32 or rows.ndim != 2 or 0 in rows.shape:
            return (
                "embeddings",
                f"embeddings must be float32 (queries, width), not empty; got {rows.dtype} {rows.shape}",
            )
        if not len(self.queries) == len(self.query_class) == len(rows):
            return (
                "queries",
                f"{len(rows)} embeddings, {len(self.queries)} queries and {len(self.query_class)} class indices",
            )
        if self.query_class.dtype != np.int64 or self.query_class.ndim != 1:
            return "query_class", f"query_class must be int64 of one axis; got {self.query_class.dtype}"
        if set(self.query_class.tolist()) != set(range(number)):
            return (
                "query_class",
                f"query_class must name each of the {number} classes at least once and no other",
            )
        if len(set(self.classes)) != number:
            return "classes", "two classes have the same name"
        if self.background is not None and not 0 <= self.background < number:
            return "background", f"background is class {self.background} of {number}"
        norms = np.linalg.norm(rows, axis=1)
        wrong = np.flatnonzero(~(np.abs(norms - 1) <= _UNIT_TOLERANCE))  # NaN is wrong, too
        if len(wrong):
            name, norm = shorten(self.queries[wrong[0]]), norms[wrong[0]]
            return (
                "embeddings",
                f"{len(wrong)} embeddings aren't unit vectors; the first is {name!r} with length {norm:g}",
            )
        return None

    @property
    def has_empty_text(self) -> bool:
        """Whether one class is the empty text, which CLIP Surgery compares a single class with, without weights."""
        return "" in self.queries

    def __len__(self) -> int:
        return len(self.classes)

    def decode_settings(self, options: DecodeOptions, *, confidence: bool = False) -> DecodeSettings:
        """The numbers in use with the classes of this vocabulary.

        Args:
            options: scale and thresholds.
            confidence: also give each pixel's probability.
        """
        background, rest = self.background, options.rest_class
        if background is None and rest is not None and rest < len(self.classes):
            background = rest
        return DecodeSettings(
            query_class=self.query_class,
            num_classes=len(self.classes),
            logit_scale=options.logit_scale,
            prob_threshold=options.prob_threshold,
            area_threshold=options.area_threshold,
            background=background,
            with_confidence=confidence,
            maps=options.maps,
            class_threshold=options.class_threshold,
        )

    def check_model(self, text_model_sha256: str, *, embed_dim: int | None = None, name: str = "") -> None:
        """Refuse to be used with another model than the one that made it.

        Args:
            text_model_sha256: of the bundle at hand.
            embed_dim: its embedding width.
            name: what to call this vocabulary in the message: its file.

        Raises:
            VocabularyError: another model made it.
        """
        what = f"the vocabulary {name}".strip()
        if text_model_sha256 != self.text_model_sha256:
            raise VocabularyError(
                f"{what} was made by text model {self.text_model_sha256[:12]}…, and this bundle has "
                f"{text_model_sha256[:12]}…. Make it again with 'scclip embed' and this bundle",
                field="text_model_sha256",
            )
        if embed_dim is not None and self.embeddings.shape[1] != embed_dim:
            raise VocabularyError(
                f"{what} has embeddings of width {self.embeddings.shape[1]}, and this bundle's are {embed_dim} wide. "
                "Make it again with 'scclip embed' and this bundle",
                field="embeddings",
            )


def save_vocabulary(vocabulary: Vocabulary, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a vocabulary file (docs/bundle.md), completely or not at all.

    Raises:
        OutputError: the file exists and `force` is not given, or can't be written.
    """
    from safetensors.numpy import save

    metadata = {
        "format": FORMAT,
        "classes": json.dumps(vocabulary.classes),
        "queries": json.dumps(vocabulary.queries),
        "query_class": json.dumps(vocabulary.query_class.tolist()),
        "background": json.dumps(vocabulary.background),
        "templates": vocabulary.templates,
        "text_model_sha256": vocabulary.text_model_sha256,
    }
    data = save({"embeddings": np.ascontiguousarray(vocabulary.embeddings)}, metadata=metadata)
    with atomic_path(Path(path), force=force) as temporary:
        temporary.write_bytes(data)


def load_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
    """Read and check a vocabulary file.

    Raises:
        VocabularyError: missing, damaged, of another format, or unsound; names the file.
    """
    try:
        embeddings, metadata = _read(Path(path))
        return Vocabulary(
            embeddings=embeddings,
            classes=_strings(metadata, "classes"),
            queries=_strings(metadata, "queries"),
            query_class=_integers(metadata, "query_class"),
            background=_optional_integer(metadata, "background"),
            templates=_entry(metadata, "templates"),
            text_model_sha256=_entry(metadata, "text_model_sha256"),
        )
    except VocabularyError as error:
        raise VocabularyError(
            f"can't use the vocabulary {os.fspath(path)}: {error}. Make it again with 'scclip embed'",
            field=error.field,
        ) from error


def _read(path: Path) -> tuple[NDArray[np.float32], Mapping[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise VocabularyError("there is no such file", field="vocabulary")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata, names = file.metadata() or {}, list(file.keys())
            if metadata.get("format") != FORMAT:
                found = metadata.get("format", "none")
                raise VocabularyError(
                    f"its format is {shorten(found)!r}; this version reads {FORMAT!r}", field="format"
                )
            if names != ["embeddings"]:
                raise VocabularyError(
                    f"it must hold one tensor, 'embeddings'; it has {names[:5]}", field="embeddings"
                )
            if file.get_slice("embeddings").get_dtype() != "F32":
                raise VocabularyError("its embeddings aren't float32", field="embeddings")
            return file.get_tensor("embeddings"), metadata
    except (SafetensorError, OSError) as error:
        raise VocabularyError(
            f"it is damaged or not a safetensors file ({error})", field="vocabulary"
        ) from error


def _entry(metadata: Mapping[str, str], key: str) -> str:
    if key not in metadata:
        raise VocabularyError(f"its metadata lacks {key!r}", field=key)
    return metadata[key]


def _json(metadata: Mapping[str, str], key: str) -> Any:
    try:
        return json.loads(_entry(metadata, key))
    except (ValueError, RecursionError) as error:
        raise VocabularyError(f"its metadata entry {key!r} is not JSON", field=key) from error


def _strings(metadata: Mapping[str, str], key: str) -> tuple[str, ...]:
    values = _json(metadata, key)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise VocabularyError(f"its metadata entry {key!r} is not a list of strings", field=key)
    return tuple(values)


def _integers(metadata: Mapping[str, str], key: str) -> NDArray[np.int64]:
    values = _json(metadata, key)
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value < 2**31 for value in values):
        raise VocabularyError(f"its metadata entry {key!r} is not a list of class indices", field=key)
    return np.array(values, np.int64)


def _optional_integer(metadata: Mapping[str, str], key: str) -> int | None:
    value = _json(metadata, key)
    if value is not None and type(value) is not int:
        raise VocabularyError(f"its metadata entry {key!r} is neither a class index nor null", field=key)
    return value

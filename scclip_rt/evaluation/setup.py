"""What an evaluation was made with: for reports, and to tell whether a state file is of the same run."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

from scclip_rt import __version__
from scclip_rt.bundle.bundle import MANIFEST_FILE
from scclip_rt.errors import OptionError
from scclip_rt.evaluation.datasets.base import Dataset
from scclip_rt.files import sha256_file
from scclip_rt.segmenter import Segmenter

INCIDENTAL = frozenset({"path", "threads", "batch", "reason", "details", "images_in_dataset", "title"})
"""Keys that may differ between the runs that a state file joins: they don't change a label."""


def describe(segmenter: Segmenter, dataset: Dataset) -> dict[str, Any]:
    """Everything that decides the figures, as JSON.

    Returns:
        `bundle` (its SHA-256 is that of bundle.json, which lists every file's), `backend`, `settings`,
        `dataset` and `classes_sha256`, over the embedded class names.
    """
    bundle, vocabulary = segmenter.bundle, segmenter.vocabulary
    prepare = segmenter.preparation
    embedded = hashlib.sha256(vocabulary.embeddings.tobytes())
    embedded.update(vocabulary.query_class.tobytes())
    embedded.update(repr(vocabulary.background).encode())
    return {
        "version": __version__,
        "bundle": {
            "name": bundle.name,
            "path": str(bundle.path),
            "sha256": sha256_file(bundle.path / MANIFEST_FILE),
            "calibration": bundle.manifest.calibration.get("method"),
        },
        "backend": dict(segmenter.backend.describe()),
        "settings": {
            "short_side": prepare.short_side,
            "stride": prepare.stride,
            "window": prepare.window,
            **asdict(segmenter.options),
        },
        "dataset": {
            "name": dataset.name,
            "title": dataset.title,
            "images_in_dataset": len(dataset),
            "sha256": dataset.fingerprint(),
        },
        "classes_sha256": embedded.hexdigest(),
    }


def check_same(stored: dict[str, Any], current: dict[str, Any], what: str) -> None:
    """Refuse to join runs that differ in what decides the figures.

    Args:
        stored: the setup of the earlier run.
        current: that of this one.
        what: the state file's name, for the message.

    Raises:
        OptionError: names the first difference.
    """
    earlier, now = _flat(stored), _flat(current)
    for key in sorted(earlier.keys() | now.keys()):
        if key.split(".")[-1] not in INCIDENTAL and earlier.get(key) != now.get(key):
            raise OptionError(
                f"{what} is of another evaluation: it has {key} {_short(earlier.get(key))}, and this one "
                f"{_short(now.get(key))}. Name another --resume file, or remove this one to start again"
            )


def _flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"

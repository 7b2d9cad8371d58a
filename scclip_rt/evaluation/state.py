"""The state file of an evaluation: what is counted so far, and of which run."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from scclip_rt.errors import OptionError
from scclip_rt.evaluation.metrics import ConfusionMatrix
from scclip_rt.evaluation.setup import check_same
from scclip_rt.files import atomic_path
from scclip_rt.strict_json import parse_json

FORMAT = "scclip-eval-state/1"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tally:
    """What is counted so far.

    Attributes:
        matrix: of the first `done` images.
        done: images counted.
        seconds: time spent on them.
    """

    matrix: ConfusionMatrix
    done: int = 0
    seconds: float = 0.0

    def plus(self, counts: NDArray[np.int64], ignored: int) -> Self:
        """With one more image: its counts, and how many of its pixels did not count."""
        old = self.matrix
        matrix = ConfusionMatrix(old.num_classes, old.ignore, old.counts + counts, old.ignored + ignored)
        return replace(self, matrix=matrix, done=self.done + 1)


def save_state(path: Path, setup: dict[str, Any], tally: Tally) -> None:
    """Write a state file, whole or not at all.

    Raises:
        OutputError: the system refused.
    """
    rows, columns = np.nonzero(tally.matrix.counts)
    document = {
        "format": FORMAT,
        "setup": setup,
        "done": tally.done,
        "seconds": tally.seconds,
        "num_classes": tally.matrix.num_classes,
        "ignored": tally.matrix.ignored,
        # Most pairs of classes are never confused: true class, predicted class, pixels.
        "counts": np.stack([rows, columns, tally.matrix.counts[rows, columns]], axis=1).tolist(),
    }
    with atomic_path(path, force=True) as temporary:
        temporary.write_text(json.dumps(document, ensure_ascii=False), "utf-8")


def load_state(path: Path, setup: dict[str, Any], empty: ConfusionMatrix) -> Tally:
    """Read a state file of the same run.

    Args:
        path: the file.
        setup: of the run that wants to go on.
        empty: a matrix of the right number of classes.

    Raises:
        OptionError: damaged, of another format, or of another evaluation; names the file and the difference.
    """
    try:
        document = parse_json(path.read_bytes())
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']!r}")
        stored, done, seconds = dict(document["setup"]), int(document["done"]), float(document["seconds"])
        entries = np.array(document["counts"], np.int64).reshape(-1, 3)
        num_classes = int(document["num_classes"])
        ignored = int(document.get("ignored", 0))  # since 0.2
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "damaged, or not the state of an evaluation"
        raise OptionError(
            f"can't go on from {path}: {reason}. Remove it, or name another --resume file"
        ) from error
    check_same(stored, setup, str(path))
    counts = np.zeros_like(empty.counts)
    inside = (entries[:, :2] >= 0).all() and (entries[:, :2] < counts.shape).all()
    if num_classes != empty.num_classes or done < 0 or ignored < 0 or not inside:
        raise OptionError(f"can't go on from {path}: it is damaged. Remove it, or name another --resume file")
    counts[entries[:, 0], entries[:, 1]] = entries[:, 2]
    matrix = ConfusionMatrix(empty.num_classes, empty.ignore, counts, ignored)
    return Tally(matrix=matrix, done=done, seconds=seconds)

"""What every converter offers, and what it is told."""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from scclip_rt.baking.converters.noise import output_to
from scclip_rt.errors import BackendError, install

Weights = Literal["fp32", "fp16", "int8"]
Run = Callable[[NDArray[Any]], NDArray[Any]]
"""An image batch to the result, both as the baked file has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """The names of a baked file's tensors.

    Attributes:
        image: the input.
        result: the output.
    """

    image: str
    result: str


def library(module: str, package: str, extra: str, *, where: str = "") -> Any:
    """Import an engine's library, in silence.

    Args:
        module: what is imported.
        package: what is installed for it.
        extra: of ours that brings it.
        where: words behind how it is installed.

    Raises:
        BackendError: it is not installed.
    """
    try:
        with output_to():
            return importlib.import_module(module)
    except ImportError as error:
        raise BackendError(
            f"{package} is not installed ({error}): {install(extra)}{where}", field="to"
        ) from error


@contextlib.contextmanager
def refusals(engine: str, source: Path) -> Iterator[None]:
    """What an engine's converter raises becomes a `BackendError`: its errors share no base class."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise BackendError(f"{engine} does not convert {source.name}: {reason}") from error


class Converter(Protocol):
    """A module of this room.

    Attributes:
        NAME: the engine's.
        SUFFIXES: of its files, the main one first.
        WEIGHTS: how it can keep weights.
    """

    NAME: str
    SUFFIXES: tuple[str, ...]
    WEIGHTS: tuple[Weights, ...]

    def version(self) -> str:
        """The library's version.

        Raises:
            BackendError: it is not installed.
        """
        ...

    def convert(self, source: Path, target: Path, weights: Weights, chip: str | None) -> None:
        """Write `target`, and what belongs to it under the same stem.

        Args:
            source: a baked file, weights inside.
            target: the file to write, in an empty folder.
            weights: how weights are kept.
            chip: what the file is for, where the format is a chip's; None for the usual one.

        Raises:
            BackendError: the library refused.
        """
        ...

    def open(self, target: Path, tensors: Tensors, threads: int) -> Run:
        """Load what was written, in the library's own runtime on the CPU, in float32 where it has a choice."""
        ...

"""Weight files, read without running code from them."""

import argparse
import contextlib
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scclip_export.checkpoint.find import refuse_pointer
from scclip_export.errors import CheckpointError

StateDict = dict[str, Tensor]

# Where training code keeps weights: these first, then averages of them.
_PLAIN_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "params", "weights")
_AVERAGE_KEYS = ("model_ema", "ema", "state_dict_ema", "ema_state_dict", "params_ema", "ema_model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What one weight file holds: tensors by name, safetensors metadata, and what was left aside, in words."""

    tensors: StateDict
    metadata: Mapping[str, str] = field(default_factory=dict)
    torchscript: bool = False
    notes: tuple[str, ...] = ()


def read_weights(path: Path) -> Weights:
    """Read one weight file; tensors stay as they are stored, mapped from the file where that is possible.

    Raises:
        CheckpointError: it is unreadable, holds no tensors by name, or needs pickled code to be run.
    """
    refuse_pointer(path)
    if _is_safetensors(path):
        return _read_safetensors(path)
    if _is_torchscript(path):
        return Weights(tensors=_read_torchscript(path), torchscript=True)
    return _read_pickle(path)


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    return path.suffix == ".safetensors" or (len(head) == 9 and head[8:] == b"{")


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/", 1)[-1] == "constants.pkl" for name in archive.namelist())


def _read_safetensors(path: Path) -> Weights:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Weights(tensors=tensors, metadata=dict(file.metadata() or {}))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({_line(error)}); download or copy it again"
        ) from error


def _read_torchscript(path: Path) -> StateDict:
    try:
        return dict(torch.jit.load(str(path), map_location="cpu").state_dict())
    except (RuntimeError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a readable TorchScript archive ({_line(error)}); download it again"
        ) from error


def _read_pickle(path: Path) -> Weights:
    try:
        with torch.serialization.safe_globals(_harmless()):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch.load raises pickle, zip, EOF, key and runtime errors for damaged files
        raise CheckpointError(_why_unreadable(path, error)) from error
    return _unwrap(loaded, path)


def _harmless() -> list[Any]:
    """Types that training files hold beside tensors and that only store values: arguments, numpy's scalars."""
    import numpy as np
    from numpy._core import multiarray

    # torch checks the dtype's own class, numpy.dtypes.Float64DType and its like.
    dtypes = [type(np.dtype(kind)) for kind in "?bhilqBHILQefd"]
    return [argparse.Namespace, multiarray.scalar, np.dtype, *dict.fromkeys(dtypes)]


def _why_unreadable(path: Path, error: Exception) -> str:
    """Say what keeps a file from being read; torch's own words would advise to run its code."""
    classes: list[str] = []
    with contextlib.suppress(Exception), torch.serialization.safe_globals(_harmless()):
        classes = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    classes = classes or re.findall(r"GLOBAL ([\w.]+)", str(error))[:1]
    if classes:
        return (
            f"{path} is not a readable checkpoint: beside tensors it pickles {', '.join(classes[:4])}. Only "
            "tensors are "
            "read, never pickled code. Where the file was written, save the weights alone: "
            "torch.save(model.state_dict(), 'weights.pt')"
        )
    return (
        f"{path} is not a readable checkpoint ({type(error).__name__}): no safetensors file, and neither a TorchScript "
        "archive nor a state dict saved by torch.save. Download or copy it again. Only tensors are read, never "
        "pickled code"
    )


def _unwrap(loaded: Any, path: Path) -> Weights:
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, not a state dict")
    places = dict(_places(loaded))
    order = [*_PLAIN_KEYS, *_AVERAGE_KEYS]

    def rank(place: str) -> tuple[int, int]:
        last = place.rsplit(".", 1)[-1]
        return (order.index(last) if last in order else len(order), place.count("."))

    ranked = sorted(places, key=rank)
    chosen = ranked[0] if ranked else ""
    tensors = {
        str(name): value for name, value in places.get(chosen, {}).items() if isinstance(value, Tensor)
    }
    others = ", ".join(repr(place) for place in ranked[1:])
    notes = (f"weights: {chosen!r} of the file, which also holds {others}",) if others else ()
    return Weights(tensors=tensors, notes=notes)


def _places(
    loaded: Mapping[Any, Any], place: str = "", depth: int = 3
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Mappings of weights, by the dotted keys that lead to them; an optimizer's state names none."""
    tensors = [name for name, value in loaded.items() if isinstance(value, Tensor) and isinstance(name, str)]
    if any("." in name for name in tensors):
        yield place, loaded
    elif depth:
        for key, value in loaded.items():
            if isinstance(value, Mapping):
                yield from _places(value, f"{place}.{key}".strip("."), depth - 1)


def _line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return re.sub(r"\x1b\[[0-9;]*m", "", text.splitlines()[0])[:160]

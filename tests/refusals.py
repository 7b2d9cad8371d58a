"""The table of refusals (data/refusals.json) made real: broken bundles and vocabularies, from one sound one each.

Python's tests and the C++ ones read it: for each input the error's code (its class in `scclip_rt.errors`) and the
field at fault. The words are each language's own.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tiny_bundle import build_bundle, edit_manifest, encoder_model, relist

TABLE = Path(__file__).parent / "data" / "refusals.json"
ENCODER, DATA = "encoder.fp32.onnx", "encoder.fp32.onnx.data"


def table() -> dict[str, Any]:
    """The whole table."""
    return json.loads(TABLE.read_text("utf-8"))  # type: ignore[no-any-return]


def build_bundles(folder: Path) -> dict[str, Path]:
    """The table's bundles by name; `sound` is the one that all others are broken copies of."""
    sound = folder / "sound"
    folder.mkdir(parents=True, exist_ok=True)
    build_bundle(sound)
    paths = {}
    for name, row in table()["bundles"].items():
        paths[name] = folder / f"{name}.scclip"
        if row["change"] == "file":
            paths[name].write_text("")
        elif row["change"] != "nothing there":
            shutil.copytree(sound, paths[name], symlinks=True)
            for action, *values in row["change"]:
                _CHANGES[action](paths[name], *values)
    return paths


def build_vocabularies(folder: Path) -> dict[str, Path]:
    """The table's vocabulary files by name."""
    from safetensors.numpy import save

    folder.mkdir(parents=True)
    rows = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    tensors: dict[str, dict[str, np.ndarray]] = {
        "sound": {"embeddings": rows}, "long rows": {"embeddings": rows * 2},
        "NaN": {"embeddings": np.full((3, 8), np.nan, np.float32)},
        "float64": {"embeddings": rows.astype(np.float64)}, "one axis": {"embeddings": rows[0]},
        "no rows": {"embeddings": np.zeros((0, 8), np.float32)}, "another name": {"rows": rows},
        "two": {"embeddings": rows, "more": rows},
    }  # fmt: skip
    rules = table()["vocabularies"]
    metadata = rules["metadata"]
    sound = save(tensors["sound"], metadata=metadata)
    bytes_of = {"empty": b"", "cut header": sound[:100], "short": sound[:-4], "long": sound + b"1234",
                "huge header": b"\xff" * 8 + sound[8:], "text": b"hello there"}  # fmt: skip
    paths = {}
    for name, row in rules["files"].items():
        paths[name] = folder / name
        if "bytes" in row:
            paths[name].write_bytes(bytes_of[row["bytes"]])
        elif row.get("there", True):
            changed = {
                key: value for key, value in (metadata | row.get("metadata", {})).items() if value is not None
            }
            paths[name].write_bytes(save(tensors[row.get("tensors", "sound")], metadata=changed))
    return paths


def _set(path: Path, place: list[str | int], value: object) -> None:
    def edit(document: Any) -> None:
        for key in place[:-1]:
            document = document[key]
        document[place[-1]] = value

    edit_manifest(path, edit)


def _remove(path: Path, place: list[str | int]) -> None:
    def edit(document: Any) -> None:
        for key in place[:-1]:
            document = document[key]
        del document[place[-1]]

    edit_manifest(path, edit)


def _raw(path: Path, place: list[str | int], text: str) -> None:
    """A value as text that Python would not write: 224.0, 1e999, a lone surrogate."""
    _set(path, place, "@@")
    file = path / "bundle.json"
    file.write_text(file.read_text("utf-8").replace('"@@"', text), "utf-8")


def _manifest(path: Path, text: str, times: int = 1) -> None:
    (path / "bundle.json").write_bytes(text.encode("latin-1") * times)


def _flip(path: Path, name: str) -> None:
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)


def _cut(path: Path, name: str) -> None:
    (path / name).write_bytes((path / name).read_bytes()[:-7])


def _delete(path: Path, name: str) -> None:
    (path / name).unlink()


def _pipe(path: Path, name: str) -> None:
    import os

    (path / name).unlink()
    os.mkfifo(path / name)


def _link(path: Path, name: str) -> None:
    """The file lies outside, as in a download cache; a link is in its place."""
    moved = path.parent / f"{path.name}.{name}"
    (path / name).rename(moved)
    (path / name).symlink_to(moved)


def _weights(path: Path, location: str) -> None:
    """The encoder's weights are said to lie somewhere else, where a copy of them is."""
    stolen = path.parent / "stolen.data"
    shutil.copy(path / DATA, stolen)
    place = location.replace("OUTSIDE", str(stolen))
    (path / ENCODER).write_bytes(encoder_model(6, 6, external=place).SerializeToString())
    relist(path)
    (path / "linked.data").symlink_to(stolen)


def _write(path: Path, name: str, text: str) -> None:
    (path / name).write_bytes(text.encode("latin-1"))
    relist(path)


_CHANGES: dict[str, Callable[..., None]] = {
    "set": _set, "remove": _remove, "raw": _raw, "manifest": _manifest, "flip": _flip, "cut": _cut,
    "delete": _delete, "pipe": _pipe, "link": _link, "weights": _weights, "write": _write,
}  # fmt: skip

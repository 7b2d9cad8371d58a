"""Find the weight files of a checkpoint, by file, folder or index. Without torch: a missing one shows at once."""

import json
import re
from pathlib import Path

from scclip_export.errors import CheckpointError

# Hugging Face's and open_clip's names, in the order of preference: safetensors first.
_KNOWN_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
)
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_SHARD = re.compile(r"^(?P<stem>.+)-(\d{5})-of-(?P<count>\d{5})(?P<suffix>\.safetensors|\.bin)$")


def weight_files(path: Path) -> tuple[Path, ...]:
    """Return the files of a checkpoint: one, or all shards.

    Args:
        path: a file, one shard of several, an index of shards, or a folder as Hugging Face or open_clip writes it.

    Raises:
        CheckpointError: there is none, several could be meant, or a shard is missing.
    """
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist or is not a file")
    refuse_pointer(path)
    if path.name.endswith(".index.json"):
        return _shards_of_index(path)
    shard = _SHARD.match(path.name)
    if shard is None:
        return (path,)
    count = int(shard["count"])
    names = [
        f"{shard['stem']}-{number:05d}-of-{count:05d}{shard['suffix']}" for number in range(1, count + 1)
    ]
    return _present(path, names)


def _in_folder(folder: Path) -> Path:
    for name in _KNOWN_NAMES:
        if (folder / name).is_file():
            return folder / name
    files = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    if len(files) == 1 or (files and all(_SHARD.match(file.name) for file in files)):
        return files[0]
    found = f"several: {', '.join(file.name for file in files[:6])}" if files else "none"
    raise CheckpointError(
        f"the folder {folder} has no {_KNOWN_NAMES[0]} or another weight file by a known name; "
        f"files that may hold weights: {found}. Name one with --checkpoint FILE"
    )


def _shards_of_index(path: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not an index of shards (a JSON with weight_map)") from error
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise CheckpointError(f"{path} names shards that are not files beside it")
    return _present(path, names)


def _present(path: Path, names: list[str]) -> tuple[Path, ...]:
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{path} is part of a checkpoint in {len(names)} shards; missing beside it: {', '.join(missing[:4])}. "
            "Download all shards into one folder"
        )
    return tuple(path.parent / name for name in names)


def refuse_pointer(path: Path) -> None:
    """Refuse what a download left in a weight file's place.

    Raises:
        CheckpointError: a git-LFS pointer, or a web page.
    """
    with path.open("rb") as file:
        head = file.read(200)
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a git-LFS pointer ({path.stat().st_size} bytes), not the weights; fetch them: git lfs pull"
        )
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise CheckpointError(
            f"{path} is a web page, not weights: the download went wrong; fetch the file again"
        )

"""What `scclip tune` measured: a small file in the cache folder, one for each bundle and processor.

libscclip reads the same file (cpp/src/backends/tuned.cpp). An answer counts only where it was measured: for this
bundle, on this processor with as many cores, with these versions of the libraries.
"""

import dataclasses
import functools
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from scclip_rt.backends.base import GridChoice
from scclip_rt.backends.processor import processor_identity
from scclip_rt.bundle.bundle import MANIFEST_FILE, Bundle
from scclip_rt.cpus import default_threads
from scclip_rt.errors import OptionError, OutputError
from scclip_rt.files import atomic_path, cache_directory, sha256_file
from scclip_rt.limits import in_range
from scclip_rt.strict_json import parse_json

SCHEMA = "scclip-tuned/1"
LIBRARIES = {
    "scclip": ("scclip-rt",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
}
"""What the times depend on, and the packages that bring it."""
CpuBackend = Literal["onnxruntime", "openvino"]
_AGAIN = "run scclip tune again"
_MAX_BYTES = 1 << 20
_DIGITS = 16
_ROOM = 1 << 14  # bytes, more than an answer has


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How long one way to run the encoder took.

    Attributes:
        grid: windows, or the whole image in one pass.
        precision: of the arithmetic.
        backend: the library.
        threads: of one inference.
        batch: most windows encoded at once.
        milliseconds: of all windows of one image.
    """

    grid: GridChoice
    precision: str
    backend: CpuBackend
    threads: int
    batch: int
    milliseconds: float

    def __str__(self) -> str:
        at_once = f", {self.batch} windows at once" if self.grid == "window" else ""
        return f"{self.milliseconds:,.1f} ms an image on {self.threads} threads{at_once}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What counts on this machine.

    Attributes:
        rows: all that was measured; empty where it does not count.
        stale: why it does not count, in words; empty where it does.
    """

    rows: tuple[Measured, ...] = ()
    stale: str = ""

    def best(self, **asked: object) -> Measured | None:
        """The fastest row that agrees with whatever is asked; None if none does.

        Args:
            asked: values of `Measured`'s fields; one that is None may be any.
        """
        fitting = [
            row
            for row in self.rows
            if all(value is None or getattr(row, name) == value for name, value in asked.items())
        ]
        return min(fitting, key=lambda row: row.milliseconds, default=None)


def tuned_file(bundle: Bundle) -> Path | None:
    """Where the answer for a bundle on this processor is kept: `tuned/BUNDLE-PROCESSOR.json` in the cache folder.

    The two parts are beginnings of SHA-256: of bundle.json, which lists every file's, and of what the system says of
    the processor. None where there is no place for a cache.
    """
    root = cache_directory()
    if root is None:
        return None
    processor = hashlib.sha256(processor_identity().encode()).hexdigest()
    return root / "tuned" / f"{_identity(bundle)[:_DIGITS]}-{processor[:_DIGITS]}.json"


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that are installed."""
    import importlib.metadata  # brings in what reads mail: as long as ONNX Runtime's import

    versions = {}
    for name, packages in LIBRARIES.items():
        for package in packages:
            try:
                versions[name] = importlib.metadata.version(package)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return versions


def read_tuned(bundle: Bundle) -> Tuned:
    """What was measured for a bundle here, if it still counts; an empty answer if nothing was."""
    path = tuned_file(bundle)
    if path is None:
        return Tuned()
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_BYTES).decode()
        document = parse_json(text)
    except FileNotFoundError:
        return Tuned(stale=_of_another_processor(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged"
        return Tuned(stale=f"what scclip tune measured can't be read ({reason}): {_AGAIN}")
    try:
        rows = tuple(map(_row, document["rows"]))
        difference = _difference(document, bundle)
    except (AttributeError, KeyError, TypeError, ValueError, OptionError):
        return Tuned(stale=f"what scclip tune measured is damaged: {_AGAIN}")
    if difference:
        return Tuned(stale=f"what scclip tune measured is not used: {difference}; {_AGAIN}")
    return Tuned(rows=tuple(row for row in rows if row.backend in library_versions()))


def write_tuned(bundle: Bundle, rows: tuple[Measured, ...]) -> Path:
    """Remember what was measured, whole or not at all.

    Raises:
        OutputError: there is no cache folder, or it can't be written.
    """
    path = writable_file(bundle)
    document = {
        "schema": SCHEMA,
        "bundle": _identity(bundle),
        "cores": default_threads(),
        "versions": library_versions(),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    with atomic_path(path, force=True) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return path


def writable_file(bundle: Bundle) -> Path:
    """`tuned_file`, in a folder that can be written: known before anything is measured.

    Raises:
        OutputError: there is no cache folder, or it can't be written.
    """
    path = tuned_file(bundle)
    if path is None:
        raise OutputError(
            "there is no place to remember what is measured: this user has no home, and XDG_CACHE_HOME is not set"
        )
    with atomic_path(path.with_suffix(".probe"), force=True) as probe:
        probe.write_bytes(bytes(_ROOM))  # a full disk takes an empty file
    path.with_suffix(".probe").unlink(missing_ok=True)
    return path


def _identity(bundle: Bundle) -> str:
    return sha256_file(bundle.path / MANIFEST_FILE)


def _of_another_processor(path: Path) -> str:
    others = path.parent.glob(f"{path.name[:_DIGITS]}-*.json")
    return f"scclip tune measured another processor, not this one: {_AGAIN}" if any(others) else ""


def _difference(document: dict[str, Any], bundle: Bundle) -> str:
    """What is not as it was when the file was written; empty where everything is."""
    if document["schema"] != SCHEMA:
        return f"its format is {document['schema']!r}"
    if document["bundle"] != _identity(bundle):
        return "it is of another bundle"
    if document["cores"] != default_threads():
        return f"it ran on {document['cores']} cores, there are {default_threads()}"
    for name, version in library_versions().items():
        if document["versions"].get(name) != version:
            return f"it ran with {name} {document['versions'].get(name, 'not installed')}, here is {version}"
    return ""


def _row(entry: dict[str, Any]) -> Measured:
    """A row of the file.

    Raises:
        KeyError, TypeError, ValueError, OptionError: it is none.
    """
    row = Measured(**entry)
    known = row.grid in get_args(GridChoice) and row.backend in get_args(CpuBackend)
    if not known or not isinstance(row.precision, str) or not 0 < row.milliseconds < math.inf:
        raise ValueError(entry)
    in_range("threads", row.threads)
    in_range("batch", row.batch)
    return row

"""The sidecar of a TensorRT engine (docs/bundle.md): what it says, read and checked against the bundle."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.manifest import GridSpec, Precision
from scclip_rt.bundle.schemas import flaw
from scclip_rt.errors import BundleError, printable
from scclip_rt.strict_json import parse_json

Library = Literal["tensorrt", "tensorrt-rtx"]

SIDECAR_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What a sidecar says: one serialised engine, what it was built from, and what can load it.

    `compute_capabilities` holds `8.9` (that one) or `8.0+` (that one and later). `profile` maps an axis of the
    encoder's inputs to its (min, opt, max) lengths. `layer_precisions` counts layers by stage (`network`, `engine`),
    kind and dtype. `device` is the GPU that TensorRT tuned for; None where none was there.
    """

    sidecar: str
    file: str
    sha256: str
    source: str
    source_sha256: str
    library: Library
    library_version: str
    compute_capabilities: tuple[str, ...]
    precision: Precision
    grid: GridSpec
    profile: Mapping[str, tuple[int, int, int]]
    options: Mapping[str, object]
    layer_precisions: Mapping[str, Mapping[str, Mapping[str, int]]]
    command: str
    device: str | None = None

    def __str__(self) -> str:
        batch, queries = self.profile["batch"], self.profile["queries"]
        return (
            f"{self.file} ({self.library} {self.library_version}, {self.precision}, {self.grid}, compute capability "
            f"{', '.join(self.compute_capabilities)}, batch {batch[0]}–{batch[2]}, queries {queries[0]}–{queries[2]})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableEngine:
    """A sidecar that can't be used, and why."""

    sidecar: str
    reason: str


def read_engines(bundle: Bundle) -> tuple[Engine | UnreadableEngine, ...]:
    """Read every sidecar that bundle.json names; one that can't be used says why instead of raising."""
    return tuple(_read(bundle, sidecar) for sidecar in bundle.manifest.engines)


def source_sha256(bundle: Bundle, source: str) -> str:
    """The hash that ties an engine to its ONNX file and that file's weights.

    SHA-256 of the UTF-8 text with one line `SHA256 NAME` and a line feed for the ONNX file and each data file it refers
    to, by name in byte order; the hashes are those of bundle.json.

    Raises:
        BundleError: `source` or its weights are not listed in the bundle.
    """
    names = sorted({source, *bundle.data_files(source)}, key=lambda name: name.encode())
    for name in names:
        if name not in bundle.manifest.files:
            raise BundleError(f"{bundle.path}: {name!r} is not listed in bundle.json")
    text = "".join(f"{bundle.manifest.files[name].sha256} {name}\n" for name in names)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(bundle: Bundle, sidecar: str) -> Engine | UnreadableEngine:
    try:
        data = bundle.checked_path(sidecar).read_bytes()
    except BundleError as error:
        return UnreadableEngine(sidecar=sidecar, reason=bundle_message(bundle, error))
    except OSError as error:
        return UnreadableEngine(sidecar=sidecar, reason=error.strerror or str(error))
    try:
        return _engine(sidecar, parse_sidecar(data), bundle)
    except BundleError as error:
        return UnreadableEngine(sidecar=sidecar, reason=str(error))


def parse_sidecar(data: bytes) -> dict[str, Any]:
    """The document of a sidecar, checked against its schema.

    Raises:
        BundleError: not JSON, another version, or a value that the schema refuses; the message goes after its name.
    """
    try:
        document = parse_json(data)
    except ValueError as error:
        raise BundleError(f"is not JSON ({error})") from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if type(version) is not int or version != SIDECAR_VERSION:
        raise BundleError(
            f"has sidecar version {printable(repr(version)[:40])}; this runtime reads {SIDECAR_VERSION}. "
            "Upgrade scclip-rt or build the engine again"
        )
    found = flaw("engine", document)
    if found is not None:
        place = found.json_path.removeprefix("$").removeprefix(".") or "the document"
        raise BundleError(printable(f"{place}: {' '.join(found.message.split())[:160]}"))
    return cast("dict[str, Any]", document)


def bundle_message(bundle: Bundle, error: BundleError) -> str:
    """A bundle's message without its path, and without the advice to export everything again."""
    return str(error).removeprefix(f"{bundle.path}/").partition(";")[0]


def _engine(sidecar: str, document: dict[str, Any], bundle: Bundle) -> Engine | UnreadableEngine:
    listed = bundle.manifest.files.get(document["file"])
    if listed is None or listed.sha256 != document["sha256"]:
        found = f"with SHA-256 {listed.sha256[:12]}…" if listed else "not at all"
        return UnreadableEngine(
            sidecar=sidecar,
            reason=f"describes {document['file']} with SHA-256 {document['sha256'][:12]}…; "
            f"bundle.json lists it {found}",
        )
    known = {key: document[key] for key in Engine.__dataclass_fields__ if key in document}
    known |= {
        "sidecar": sidecar,
        "grid": GridSpec(**document["grid"]),
        "compute_capabilities": tuple(document["compute_capabilities"]),
        "profile": {axis: tuple(span) for axis, span in document["profile"].items()},
    }
    return Engine(**known)

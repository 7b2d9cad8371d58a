"""Engines in a bundle's folder: added, replaced and listed so that bundle.json is right at every moment."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scclip_export.engines.build import BuiltEngine
from scclip_rt.bundle.bundle import MANIFEST_FILE, Bundle
from scclip_rt.bundle.engine_fit import Engine, UnreadableEngine, misfit, read_engines
from scclip_rt.errors import BundleError, OutputError
from scclip_rt.files import atomic_path, sha256_file

_KEY = ("library", "library_version", "precision", "grid", "compute_capabilities", "profile")


def check_writable(root: Path) -> None:
    """Refuse a bundle that can't be written, before an engine is built for it.

    Raises:
        OutputError: no permission to write there.
    """
    if not os.access(root, os.W_OK):
        raise OutputError(f"can't write into {root}: no permission; copy the bundle to a folder of your own")


def store_engine(
    root: Path, name: str, built: BuiltEngine, sidecar: Mapping[str, object]
) -> tuple[str, list[str]]:
    """Put an engine into a bundle, in the place of one with the same key.

    New files get names that no other content has; then bundle.json is replaced, in one step; then the files that it no
    longer lists go. A reader, or a failure in between, finds a bundle that agrees with its manifest.

    Args:
        root: the bundle.
        name: of the engine, without folder and suffix.
        built: its bytes and precisions.
        sidecar: the fields of docs/bundle.md but `format_version`, `file`, `sha256` and `layer_precisions`.

    Returns:
        The sidecar's name in the bundle, and the engine files that were dropped: replaced, or built from other weights.

    Raises:
        OutputError: the system refused to write. Nothing is listed then that was not before.
    """
    digest = hashlib.sha256(memoryview(built.plan)).hexdigest()
    base = f"engines/{name}.{digest[:8]}"
    document = {
        "format_version": 1,
        "file": f"{base}.engine",
        "sha256": digest,
        **sidecar,
        "layer_precisions": built.layer_precisions,
    }
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    base_json = f"{base}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.json"
    with atomic_path(root / f"{base}.engine", force=True) as path:
        path.write_bytes(memoryview(built.plan))
    with atomic_path(root / base_json, force=True) as path:
        path.write_text(text, "utf-8")
    with locked(root):
        dropped = _list(root, base_json, document)
    return base_json, dropped


def _list(root: Path, sidecar: str, document: Mapping[str, Any]) -> list[str]:
    bundle = Bundle.open(root)
    manifest = json.loads((root / MANIFEST_FILE).read_text("utf-8"))
    staying = {engine.sidecar for engine in read_engines(bundle) if not _superseded(bundle, engine, document)}
    staying.add(sidecar)
    manifest["engines"] = sorted(staying)
    for name in (sidecar, document["file"]):
        path = root / name
        manifest["files"][name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    kept = staying | {json.loads((root / name).read_text("utf-8")).get("file") for name in staying}
    leaving = [name for name in manifest["files"] if name.startswith("engines/") and name not in kept]
    manifest["files"] = {
        name: entry for name, entry in sorted(manifest["files"].items()) if name not in leaving
    }
    write_manifest(root, manifest)
    for name in leaving:
        (root / name).unlink(missing_ok=True)
    return [name for name in leaving if name.endswith(".engine")]


def _superseded(bundle: Bundle, engine: Engine | UnreadableEngine, document: Mapping[str, Any]) -> bool:
    """Whether an engine makes way: same key, built from an encoder that the bundle no longer holds, or damaged.

    A sidecar of a version that this code does not read is left to those who do.
    """
    if isinstance(engine, UnreadableEngine):
        return _damaged(bundle, engine.sidecar)
    own = {
        "library": engine.library,
        "library_version": engine.library_version,
        "precision": engine.precision,
        "grid": {
            key: value
            for key in ("kind", "rows", "columns")
            if (value := getattr(engine.grid, key)) is not None
        },
        "compute_capabilities": list(engine.compute_capabilities),
        "profile": {axis: list(span) for axis, span in engine.profile.items()},
    }
    same = all(own[key] == document[key] for key in _KEY) and engine.device == document["device"]
    return same or misfit(bundle, engine, None) is not None


def _damaged(bundle: Bundle, name: str) -> bool:
    try:
        bundle.checked_path(name)
    except BundleError:
        return True
    return False


def write_manifest(root: Path, manifest: Mapping[str, object]) -> None:
    """Replace bundle.json in one step."""
    with atomic_path(root / MANIFEST_FILE, force=True) as path:
        path.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """One writer of bundle.json at a time: two builds into one bundle must not lose each other's engine."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

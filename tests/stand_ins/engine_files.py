"""Engines in test bundles: any bytes for the engine, a true sidecar beside it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.engine_fit import source_sha256


def add_engine(root: Path, name: str = "one", content: bytes = b"plan", **changes: Any) -> str:
    """Write an engine and its sidecar into a bundle and list both; return the sidecar's name.

    `changes` replace fields of the sidecar.
    """
    bundle = Bundle.open(root)
    source = changes.get("source", "encoder.fp32.onnx")
    document: dict[str, Any] = {
        "format_version": 1,
        "file": f"engines/{name}.engine",
        "sha256": hashlib.sha256(content).hexdigest(),
        "source": source,
        "source_sha256": source_sha256(bundle, source) if source in bundle.manifest.files else "0" * 64,
        "library": "tensorrt",
        "library_version": "10.14.1.48",
        "compute_capabilities": ["8.9"],
        "device": "NVIDIA L4",
        "precision": "fp32",
        "grid": {"kind": "window", "rows": 6, "columns": 6},
        "profile": {"batch": [1, 6, 16], "queries": [1, 150, 1024]},
        "options": {"version_compatible": False},
        "layer_precisions": {"network": {"MATRIX_MULTIPLY": {"FLOAT": 2}}},
        "command": "scclip-export --bundle BUNDLE --tensorrt",
    }
    document |= changes
    (root / "engines").mkdir(exist_ok=True)
    (root / "engines" / f"{name}.engine").write_bytes(content)
    (root / "engines" / f"{name}.json").write_text(json.dumps(document), "utf-8")
    list_engines(root, [f"engines/{name}.json"])
    return f"engines/{name}.json"


def list_engines(root: Path, sidecars: list[str]) -> None:
    """Name the sidecars in bundle.json, and list every file under `engines`."""
    document = json.loads((root / "bundle.json").read_text("utf-8"))
    document["engines"] = sorted({*document.get("engines", []), *sidecars})
    for path in (root / "engines").iterdir():
        content = path.read_bytes()
        entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        document["files"][f"engines/{path.name}"] = entry
    (root / "bundle.json").write_text(json.dumps(document), "utf-8")

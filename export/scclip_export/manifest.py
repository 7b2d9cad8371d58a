"""bundle.json: everything that the runtimes need to know, in the terms of docs/bundle.md."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import onnx
from torch import Tensor

from scclip_export.checkpoint.load_model import LoadedModel
from scclip_export.methods import Defaults, MethodOptions
from scclip_export.model.calibration import CalibrationConfig
from scclip_export.model.encoder import Parts
from scclip_export.model.geometry import Geometry
from scclip_rt.files import sha256_file
from scclip_rt.image.geometry import MIN_PATCHES

_DTYPES = {
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.FLOAT: "float32",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphEntry:
    """One ONNX file of the bundle and what was measured of it."""

    file: str
    parity: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderEntry(GraphEntry):
    """An image encoder; `grid` as in docs/bundle.md, `facts` further members of its entry."""

    precision: str
    grid: Mapping[str, object]
    runs_on: tuple[str, ...] = ("cpu", "cuda")
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEntry(GraphEntry):
    """The text encoder; `resumed` goes on from known beginnings, where the tower can; `int8` is the same in int8."""

    resumed: GraphEntry | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    int8: TextEntry | None = None


def text_model_sha256(state: Mapping[str, Tensor], tokenizer: str) -> str:
    """Hash the text tower: names, shapes and float32 bytes of its tensors, sorted, then the tokenizer.

    So two exports of the same checkpoint accept each other's vocabularies.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        if name.startswith("visual.") or name == "logit_scale":
            continue
        tensor = state[name].contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    digest.update(tokenizer.encode())
    return digest.hexdigest()


def _tensors(values: Any) -> list[dict[str, object]]:
    out = []
    for value in values:
        kind = value.type.tensor_type
        shape = [dim.dim_param or dim.dim_value for dim in kind.shape.dim]
        out.append({"name": value.name, "dtype": _DTYPES[kind.elem_type], "shape": shape})
    return out


def _graph(directory: Path, entry: GraphEntry, axes: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    model = onnx.load(str(directory / entry.file), load_external_data=False)
    inputs, outputs = _tensors(model.graph.input), _tensors(model.graph.output)
    used = {axis for tensor in inputs + outputs for axis in tensor["shape"] if isinstance(axis, str)}  # type: ignore[attr-defined]
    return {
        "file": entry.file,
        "inputs": inputs,
        "outputs": outputs,
        "axes": {name: dict(axes[name]) for name in sorted(used)},
        "parity": dict(entry.parity),
    }


def _text_graphs(
    directory: Path, entry: TextEntry, axes: Mapping[str, Mapping[str, object]], context_length: int
) -> dict[str, object]:
    """The text encoder's graphs in one precision, and those in int8."""
    made = _graph(directory, entry, axes) | dict(entry.facts)
    if entry.resumed is not None:
        known: dict[str, Mapping[str, object]] = {
            "tokens": {"min": 1, "max": context_length},
            "known": {"min": 1, "max": context_length},
            "beginnings": {"min": 1, "max": None},
        }
        made["resumed"] = _graph(directory, entry.resumed, {**axes, **known})
    if entry.int8 is not None:
        made["int8"] = _text_graphs(directory, entry.int8, axes, context_length)
    return made


def _opset(path: Path) -> int:
    model = onnx.load(str(path), load_external_data=False)
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def build_manifest(
    directory: Path,
    *,
    name: str,
    model: LoadedModel,
    method: str,
    options: MethodOptions,
    parts: Parts,
    defaults: Defaults,
    geometry: Geometry,
    encoders: list[EncoderEntry],
    text_encoder: TextEntry,
    tokenizer: str,
    vocabularies: list[str],
) -> dict[str, object]:
    """Describe the files of `directory`.

    Args:
        directory: holds every file named, and nothing else.
        name: of the bundle.
        model: where the weights come from.
        method: its name.
        options: what was asked of it.
        parts: the description of it that the encoders were built from.
        defaults: how its images are prepared and decoded.
        geometry: how images become windows.
        encoders: the image encoders, the windows' first.
        text_encoder: the text encoder.
        tokenizer: the file name of the tokenizer.
        vocabularies: the files of ready vocabularies.

    Returns:
        The content of bundle.json.
    """
    a = model.architecture
    any_length: dict[str, object] = {"min": 1, "max": None}
    side: dict[str, object] = {"min": MIN_PATCHES * a.patch_size, "max": None, "multiple_of": a.patch_size}
    if parts.pads:
        side = {"min": 2, "max": None}
    axes: dict[str, dict[str, object]] = {
        "batch": any_length,
        "queries": any_length,
        "patches": {"min": 1 if parts.pads else MIN_PATCHES**2, "max": None},
        "outliers": any_length,
        "height": side,
        "width": side,
        "tokens": {"min": 2, "max": a.context_length},
    }
    calibration = _calibration(method, options, parts)
    later = _later_members(parts, defaults)
    version = 2 if any(later.values()) or calibration.keys() - _version_1(method) else 1
    return {
        "format_version": version,
        "name": name,
        "created_with": _versions(),
        "model": {
            "backbone": model.backbone,
            "architecture": model.open_clip_name,
            "pretrained": model.pretrained,
            "checkpoint_sha256": model.checkpoint.sha256,
            **{key: value for key, value in asdict(a).items() if key != "layer_scale"},
            "sources": dict(model.sources),
            "assumptions": list(model.assumptions),
        },
        "calibration": calibration,
        "preprocessing": {
            "color": "RGB",
            "interpolation": "opencv-linear-u8",
            **{key: value for key, value in asdict(geometry).items() if key != "pads"},
            **later["preprocessing"],
            "mean": list(model.mean),
            "std": list(model.std),
        },
        "decoding": {
            "logit_scale": defaults.logit_scale,
            "prob_threshold": defaults.prob_threshold,
            "area_threshold": defaults.area_threshold,
            **later["decoding"],
        },
        **({"benchmarks": later["benchmarks"]} if later["benchmarks"] else {}),
        "encoders": [
            _graph(directory, entry, axes)
            | {
                "precision": entry.precision,
                "grid": dict(entry.grid),
                "opset": _opset(directory / entry.file),
                "runs_on": list(entry.runs_on),
            }
            | dict(entry.facts)
            for entry in encoders
        ],
        "text_encoder": _text_graphs(directory, text_encoder, axes, a.context_length)
        | {
            "context_length": a.context_length,
            "model_sha256": text_model_sha256(
                model.checkpoint.state, (directory / tokenizer).read_text("utf-8")
            ),
        },
        "tokenizer": tokenizer,
        "vocabularies": vocabularies,
        "files": {
            path.relative_to(directory).as_posix(): {
                "sha256": sha256_file(path),
                "bytes": path.stat().st_size,
            }
            for path in sorted(directory.rglob("*"))
            if path.is_file()
        },
    }


def _calibration(method: str, options: MethodOptions, parts: Parts) -> dict[str, object]:
    """`calibration` of bundle.json: the method with every number that it was built with."""
    if isinstance(parts, CalibrationConfig):
        return {"method": method, **asdict(parts)}
    given = asdict(options)
    if method == "maskclip" and not given["residual"]:
        given = {}
    if "cross_blocks" in given:  # those in use, also where the user named none
        blocks = {term.block for term in getattr(parts, "terms", ()) if term.block is not None}
        given["cross_blocks"] = [min(blocks), max(blocks) + 1]
    return {"method": method, **given}


def _version_1(method: str) -> set[str]:
    """The members of `calibration` that version 1 knows for a method."""
    known = {"none": {"method"}, "maskclip": {"method"}}
    return known.get(
        method,
        {"method", *(item.name for item in fields(CalibrationConfig))} if method == "scclip" else set(),
    )


def _later_members(parts: Parts, defaults: Defaults) -> dict[str, dict[str, object]]:
    """Members of version 2 that are not what version 1 means, by section (docs/bundle.md, "Format 2")."""
    preprocessing: dict[str, object] = {}
    if parts.pads:
        preprocessing["padding"] = "patch"
    if defaults.whole_image != "nearest":
        preprocessing["whole_image"] = defaults.whole_image
    plain = Defaults()
    decoding = {
        name: getattr(defaults, name)
        for name in ("maps", "class_weighting", "refine", "templates")
        if getattr(defaults, name) != getattr(plain, name)
    }
    benchmarks: dict[str, object] = {name: dict(values) for name, values in defaults.benchmarks.items()}
    return {"preprocessing": preprocessing, "decoding": decoding, "benchmarks": benchmarks}


def _versions() -> dict[str, str]:
    packages = ("scclip-rt", "torch", "open_clip_torch", "onnx", "onnxscript", "onnxruntime")
    return {package: importlib.metadata.version(package) for package in packages}


def write_manifest(directory: Path, manifest: Mapping[str, object]) -> None:
    """Write bundle.json, readable by people."""
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (directory / "bundle.json").write_text(text, encoding="utf-8")


def read_manifest(directory: Path) -> dict[str, object]:
    """Return bundle.json as it was written."""
    document: dict[str, object] = json.loads((directory / "bundle.json").read_text("utf-8"))
    return document

"""The export, step by step: load a model, trace it (graph.py), check it (parity.py), describe it (manifest.py)."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scclip_export.config import CalibrationConfig, Geometry, Method, calibration_for
from scclip_export.encoder import CalibratedEncoder, TextEncoder
from scclip_export.errors import ExportError
from scclip_export.graph import MAX_OPSET, MIN_OPSET, onnx_from_encoder, onnx_from_text_encoder
from scclip_export.manifest import (
    EncoderEntry,
    GraphEntry,
    build_manifest,
    text_model_sha256,
    write_manifest,
)
from scclip_export.parity import Parity, check_encoder, check_text_encoder, merge, open_session, parity_table
from scclip_export.sharing import share_weights
from scclip_export.source import LoadedModel, Source, load_model
from scclip_export.tokenizer import tokenizer_json
from scclip_export.verification import verification_images, verification_windows
from scclip_rt.classes import parse_classes
from scclip_rt.embedding import embed_classes
from scclip_rt.files import atomic_directory, check_replaceable
from scclip_rt.geometry import MIN_PATCHES, resize
from scclip_rt.templates import load_templates
from scclip_rt.text import Tokenizer
from scclip_rt.vocabulary import save_vocabulary

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Everything an export is asked for; None means the model's own value."""

    source: Source
    output: Path | None = None
    force: bool = False
    method: Method = "scclip"
    calibration: dict[str, Any] = field(default_factory=dict)  # overrides, by field of CalibrationConfig
    window: int | None = None
    stride: int | None = None
    short_side: int = 336
    opset: int = 20
    dynamic_grid: bool = False
    image_sizes: tuple[tuple[int, int], ...] = ()  # (height, width) in pixels
    debug_outputs: bool = False
    verify_images: Path | None = None
    vocabularies: tuple[Path, ...] = ()  # class files to embed into the bundle

    def __post_init__(self) -> None:
        if not MIN_OPSET <= self.opset <= MAX_OPSET:
            raise ExportError(f"--opset must be in {MIN_OPSET}..{MAX_OPSET}; got {self.opset}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export made."""

    path: Path
    manifest: dict[str, object]
    parity: tuple[tuple[str, Parity], ...]


def export_bundle(config: ExportConfig, progress: Progress = lambda _: None) -> ExportReport:
    """Export a checkpoint to a bundle.

    Args:
        config: what to export.
        progress: is told of each long step, one line at a time.

    Returns:
        The path of the bundle, its manifest and the parity figures.

    Raises:
        ExportError: bad options, a failed download, an unsuitable checkpoint, or a missed parity threshold. No
            bundle is left then, and one that was there before is untouched.
        OutputError: the output exists (without `force`) or can't be written.
    """
    if config.output is not None:
        check_replaceable(config.output, force=config.force)
    model = load_model(config.source, progress)
    plan = _plan(config, model)
    check_replaceable(plan.output, force=config.force)
    with atomic_directory(plan.output, force=config.force) as directory, torch.inference_mode():
        entries, parities = _encoders(config, plan, directory, progress)
        text_entry = _text_encoder(config, model, directory, progress)
        (directory / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
        vocabularies = _vocabularies(config, model, directory, progress)
        progress("writing the manifest")
        manifest = build_manifest(
            directory,
            name=plan.output.name.removesuffix(".scclip"),
            model=model,
            method=config.method,
            calibration=plan.calibration,
            geometry=plan.geometry,
            encoders=entries,
            text_encoder=text_entry,
            tokenizer="tokenizer.json",
            vocabularies=vocabularies,
        )
        write_manifest(directory, manifest)
    return ExportReport(path=plan.output, manifest=manifest, parity=tuple(parities))


# File name, grid of bundle.json, fixed (rows, columns) or None, (rows, columns) to trace and verify with.
_EncoderPlan = tuple[str, dict[str, object], tuple[int, int] | None, tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    model: LoadedModel
    output: Path
    calibration: CalibrationConfig
    geometry: Geometry
    encoders: tuple[_EncoderPlan, ...]


def _plan(config: ExportConfig, model: LoadedModel) -> _Plan:
    a = model.architecture
    try:
        window = config.window or a.image_size
        geometry = Geometry(
            window=window, stride=config.stride or max(window // 2, 1), short_side=config.short_side
        )
        geometry.check(a.patch_size)
        calibration = _calibration(config, model)
        side = window // a.patch_size
        if config.method == "scclip":
            calibration.check(layers=a.layers, num_patches=side * side)
    except ValueError as error:
        raise ExportError(str(error)) from error
    encoders: list[_EncoderPlan] = [
        ("encoder.fp32.onnx", {"kind": "window", "rows": side, "columns": side}, (side, side), (side, side))
    ]
    for height, width in config.image_sizes:
        rows, columns = _grid(height, width, a.patch_size)
        grid: dict[str, object] = {"kind": "fixed", "rows": rows, "columns": columns}
        encoders.append((f"encoder.fp32.{height}x{width}.onnx", grid, (rows, columns), (rows, columns)))
    if config.dynamic_grid:
        example = (max(side - 3, MIN_PATCHES), side + 4)
        encoders.append(("encoder.fp32.dynamic.onnx", {"kind": "dynamic"}, None, example))
    output = config.output or Path(f"{model.name}.scclip")
    return _Plan(
        model=model,
        output=output,
        calibration=calibration,
        geometry=geometry,
        encoders=tuple(encoders),
    )


def _calibration(config: ExportConfig, model: LoadedModel) -> CalibrationConfig:
    if config.method != "scclip" and config.calibration:
        raise ExportError(
            f"--calibration {config.method} has no parameters; got {', '.join(config.calibration)}"
        )
    base = calibration_for(model.architecture.layers, model.architecture.patch_size)
    stored = model.checkpoint.hints.get("calibration")
    if stored:
        known: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()
        }
        try:
            base = replace(base, **known, source="checkpoint")
        except TypeError as error:
            raise ExportError(
                f"the calibration in the checkpoint's metadata is not SC-CLIP's ({error})"
            ) from error
    return replace(base, **config.calibration, source="overridden") if config.calibration else base


def _grid(height: int, width: int, patch: int) -> tuple[int, int]:
    rows, columns = height // patch, width // patch
    if height % patch or width % patch or min(rows, columns) < MIN_PATCHES:
        raise ExportError(
            f"--image-size must be multiples of the patch ({patch} pixels), at least {MIN_PATCHES * patch} each; "
            f"got {height}x{width}, the nearest is "
            f"{max(round(height / patch), MIN_PATCHES) * patch}x{max(round(width / patch), MIN_PATCHES) * patch}"
        )
    return rows, columns


def _encoders(
    config: ExportConfig, plan: _Plan, directory: Path, progress: Progress
) -> tuple[list[EncoderEntry], list[tuple[str, Parity]]]:
    model, entries, parities = plan.model, [], []
    images = verification_images(config.verify_images)
    base = directory / plan.encoders[0][0]
    for file, grid, fixed, example in plan.encoders:
        encoder = CalibratedEncoder(
            model.clip.visual,
            plan.calibration,
            method=config.method,
            grid=fixed,
            mean=model.mean,
            std=model.std,
            debug_outputs=config.debug_outputs,
        ).eval()
        path = directory / file
        started = time.monotonic()
        progress(f"tracing {file}")
        onnx_from_encoder(encoder, path, opset=config.opset, example_grid=example)
        if path != base:
            share_weights(path, base)
        progress(f"checking parity of {file} (traced in {time.monotonic() - started:.0f} s)")
        if path == base:
            parity = check_encoder(encoder, path, verification_windows(images, plan.geometry))
        else:
            shapes = [example] if fixed else [example, (2 * example[0], MIN_PATCHES)]
            parity = merge(
                *(check_encoder(encoder, path, _whole(images, encoder, shape)) for shape in shapes)
            )
        parities.append((file, parity))
        entries.append(EncoderEntry(file=file, parity=parity.to_json(), precision="fp32", grid=grid))
    progress(parity_table(parities))
    missed = [file for file, parity in parities if not parity.passed]
    if missed:
        raise ExportError(
            f"parity missed by {', '.join(missed)}; no bundle was written. The table above shows by how much"
        )
    return entries, parities


def _whole(
    images: list[NDArray[np.uint8]], encoder: CalibratedEncoder, grid: tuple[int, int]
) -> NDArray[np.uint8]:
    """Two verification images, whole, at a size of `grid` patches: uint8 (2, H, W, 3)."""
    patch = encoder.embedding.patch_size
    return np.stack([resize(image, (grid[0] * patch, grid[1] * patch)) for image in images[:2]])


def _text_encoder(
    config: ExportConfig, model: LoadedModel, directory: Path, progress: Progress
) -> GraphEntry:
    progress("tracing and checking text_encoder.onnx")
    encoder, path = TextEncoder(model.clip).eval(), directory / "text_encoder.onnx"
    onnx_from_text_encoder(encoder, path, opset=config.opset)
    parity = check_text_encoder(encoder, path, _example_tokens(model.architecture.context_length))
    return GraphEntry(file=path.name, parity=parity)


def _vocabularies(config: ExportConfig, model: LoadedModel, directory: Path, progress: Progress) -> list[str]:
    """Embed the class files with the exported text encoder: the vocabularies the bundle carries ready."""
    if not config.vocabularies:
        return []
    session = open_session(directory / "text_encoder.onnx")
    tokenizer = (directory / "tokenizer.json").read_text("utf-8")
    files = []
    for classes in config.vocabularies:
        progress(f"embedding the classes of {classes}")
        vocabulary = embed_classes(
            parse_classes(classes),
            lambda tokens: session.run(None, {"tokens": tokens})[0],
            Tokenizer.from_json(tokenizer),
            load_templates("imagenet"),
            model_sha256=text_model_sha256(model.checkpoint.state, tokenizer),
            context_length=model.architecture.context_length,
            progress=True,
        )
        file = f"vocabularies/{classes.stem}.safetensors"
        save_vocabulary(vocabulary, directory / file)
        files.append(file)
    return files


def _example_tokens(context: int) -> torch.Tensor:
    """Rows of several lengths: start token, random byte pairs, end token, zeros."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.zeros(4, context, dtype=torch.int64)
    for row, length in enumerate((2, 5, 9, min(14, context - 2))):
        tokens[row, 0] = 49406
        tokens[row, 1 : 1 + length] = torch.randint(320, 49000, (length,), generator=generator)
        tokens[row, 1 + length] = 49407
    return tokens

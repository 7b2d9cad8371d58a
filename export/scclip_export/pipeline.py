"""The export, step by step: load a model, trace it (graph.py), check it (parity.py), describe it (manifest.py)."""

import math
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scclip_export.checkpoint.load_model import LoadedModel, load_model
from scclip_export.checkpoint.tokenizer import tokenizer_json
from scclip_export.engines import add_engines, add_kernels, check_kernels, check_requests
from scclip_export.engines.plugins.build import table_prefers
from scclip_export.errors import ExportError
from scclip_export.manifest import (
    EncoderEntry,
    GraphEntry,
    TextEntry,
    build_manifest,
    read_manifest,
    text_model_sha256,
    write_manifest,
)
from scclip_export.methods import Defaults, MethodOptions
from scclip_export.model.encoder import Parts
from scclip_export.model.geometry import Geometry
from scclip_export.model.text_encoder import ResumedTextEncoder, TextEncoder
from scclip_export.onnx.runners import decision_runner
from scclip_export.onnx.shared_weights import share_weights
from scclip_export.onnx.trace import onnx_from_resumed_text_encoder, onnx_from_text_encoder
from scclip_export.options import ExportConfig, Progress
from scclip_export.parity import (
    Parity,
    Reference,
    check_encoder,
    check_int8_text_encoder,
    check_resumed_text_encoder,
    check_text_encoder,
    merge,
    parity_table,
    run_encoder,
    text_reference,
)
from scclip_export.quantize import CALIBRATION_OPTION, quantize_text_encoder, text_prompts, write_int8
from scclip_export.verification import image_files, verification_images, verification_windows
from scclip_export.writers import WRITERS, EncoderJob, GridPlan
from scclip_rt.backends.onnxruntime.session import cpu_session
from scclip_rt.bundle.bundle import is_bundle
from scclip_rt.files import atomic_directory, check_replaceable_folder
from scclip_rt.image.geometry import MIN_PATCHES, resize
from scclip_rt.vocabulary.classes import parse_classes
from scclip_rt.vocabulary.embedding import embed_classes
from scclip_rt.vocabulary.file import save_vocabulary
from scclip_rt.vocabulary.open import parse_with_background
from scclip_rt.vocabulary.prompts import encode_whole
from scclip_rt.vocabulary.templates import load_templates
from scclip_rt.vocabulary.tokenizer import Tokenizer, pad


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
        check_replaceable_folder(config.output, force=config.force, own=is_bundle)
    _check_class_files(config.vocabularies)  # as what follows: before minutes of work
    check_requests(config.engines, precisions=("fp32", *config.precisions), grids=_grid_names(config))
    if config.gpu_kernels:
        check_kernels()
    if config.plugins and config.method != "scclip":
        raise ExportError(f"--tensorrt-plugins: --calibration {config.method} has nothing for them to do")
    if {"int8", "fp8"} & set(config.precisions) and config.int8.images is not None:
        image_files(config.int8.images, CALIBRATION_OPTION)
    if config.method != "scclip":
        progress(
            f"no part of {config.method} has a Triton kernel or a TensorRT plug-in: it runs on traceable operators"
        )
    model = load_model(config.source, progress)
    model.require_activation()
    plan = _plan(config, model)
    check_replaceable_folder(plan.output, force=config.force, own=is_bundle)
    with (
        atomic_directory(plan.output, force=config.force, own=is_bundle) as directory,
        torch.inference_mode(),
    ):
        entries, parities = _encoders(config, plan, directory, progress)
        text_entry = _text_encoder(config, model, directory, progress)
        (directory / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
        vocabularies = _vocabularies(config, model, plan.defaults, directory, progress)
        progress("writing the manifest")
        manifest = build_manifest(
            directory,
            name=plan.output.name.removesuffix(".scclip"),
            model=model,
            method=config.method,
            options=plan.options,
            parts=plan.parts,
            defaults=plan.defaults,
            geometry=plan.geometry,
            encoders=entries,
            text_encoder=text_entry,
            tokenizer="tokenizer.json",
            vocabularies=vocabularies,
        )
        write_manifest(directory, manifest)
        if config.engines:
            add_engines(directory, config.engines, progress)
        if config.gpu_kernels:
            add_kernels(directory, progress)
        manifest = read_manifest(directory)
    return ExportReport(path=plan.output, manifest=manifest, parity=tuple(parities))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    model: LoadedModel
    output: Path
    options: MethodOptions
    parts: Parts
    defaults: Defaults
    geometry: Geometry
    grids: tuple[GridPlan, ...]


def _plan(config: ExportConfig, model: LoadedModel) -> _Plan:
    a = model.architecture
    try:
        options = config.method_options(**_stored(config, model))
        parts = options.parts(layers=a.layers, patch_size=a.patch_size)
        defaults = options.defaults(layers=a.layers, patch_size=a.patch_size)
        window = config.window or defaults.window or a.image_size
        stride = config.stride or (defaults.stride if config.window is None else None) or max(window // 2, 1)
        geometry = Geometry(
            window=window,
            stride=stride,
            short_side=config.short_side or defaults.short_side,
            long_side=max(defaults.long_side, config.short_side or 0),
            pads=parts.pads,
        )
        geometry.check(a.patch_size)
        side = -(-window // a.patch_size)
        grids = _grids(config, a.patch_size, side, dynamic=_needs_dynamic_grid(config, parts, defaults))
        # An encoder of a dynamic grid takes whole images of so few patches.
        least = [MIN_PATCHES**2 if grid.fixed is None else math.prod(grid.fixed) for grid in grids]
        parts.check(layers=a.layers, num_patches=min(least))
    except ValueError as error:
        raise ExportError(str(error)) from error
    output = config.output or Path(f"{model.name}.scclip")
    return _Plan(
        model=model,
        output=output,
        options=options,
        parts=parts,
        defaults=defaults,
        geometry=geometry,
        grids=tuple(grids),
    )


def _needs_dynamic_grid(config: ExportConfig, parts: Parts, defaults: Defaults) -> bool:
    """Asked for, or for windows smaller than the others (docs/bundle.md, "Padding") or benchmarks of whole images."""
    whole = any(settings.get("whole_image") for settings in defaults.benchmarks.values())
    return config.dynamic_grid or parts.pads or whole


def _grids(config: ExportConfig, patch: int, side: int, *, dynamic: bool) -> list[GridPlan]:
    """The grids that encoders are written for; `side` is a window's, in patches."""
    grids = [GridPlan(kind="window", fixed=(side, side), examples=((side, side),))]
    for height, width in config.image_sizes:
        grid = _grid(height, width, patch)
        grids.append(GridPlan(kind="fixed", fixed=grid, examples=(grid,), name=f".{height}x{width}"))
    if dynamic:
        example = (max(side - 3, MIN_PATCHES), side + 4)
        examples = (example, (2 * example[0], MIN_PATCHES))
        grids.append(GridPlan(kind="dynamic", fixed=None, examples=examples, name=".dynamic"))
    return grids


def _grid_names(config: ExportConfig) -> tuple[str, ...]:
    """The grids that engines can be built for, as `--engine-grid` names them."""
    return ("window", *(f"{height}x{width}" for height, width in config.image_sizes))


def _stored(config: ExportConfig, model: LoadedModel) -> dict[str, Any]:
    """SC-CLIP's parameters from the checkpoint's metadata."""
    stored = model.checkpoint.calibration if config.method == "scclip" else None
    return {key: tuple(value) if isinstance(value, list) else value for key, value in (stored or {}).items()}


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
    """Write and check every encoder: each grid in fp32 first, then in the other precisions asked for."""
    entries, parities = [], []
    images = verification_images(config.verify_images)
    kept: dict[str, Any] = {}
    for grid in plan.grids:
        job = EncoderJob(
            config=config,
            model=plan.model,
            parts=plan.parts,
            geometry=plan.geometry,
            grid=grid,
            directory=directory,
            kept=kept,
        )
        encoder = job.encoder()
        references = [Reference.of(encoder, windows) for windows in _verification_sets(images, job)]
        for name in ("fp32", *config.precisions, *_plugin_forms(config, grid)):
            parity = _write_encoder(name, job, references, progress)
            parities.append((job.path(name).name, parity))
            entries.append(
                EncoderEntry(
                    file=job.path(name).name,
                    parity=parity.to_json(),
                    precision=name.split(".")[0],
                    grid=grid.to_json(),
                    runs_on=WRITERS[name].runs_on,
                    facts=WRITERS[name].facts(job),
                )
            )
    progress(parity_table(parities))
    missed = [file for file, parity in parities if not parity.passed]
    if missed:
        raise ExportError(
            f"parity missed by {', '.join(missed)}; no bundle was written. The table above shows by how much"
        )
    return entries, parities


def _plugin_forms(config: ExportConfig, grid: GridPlan) -> tuple[str, ...]:
    """The encoders with plug-in nodes that a grid gets: of each narrow precision, or of fp32 where that is all."""
    precisions = [name for name in config.precisions if name in ("fp16", "bf16")] or ["fp32"]
    if grid.fixed is None or config.plugins is False or config.method != "scclip":
        return ()
    if not config.plugins:
        natively = [request for request in config.engines if request.library == "tensorrt"]
        patches = grid.fixed[0] * grid.fixed[1]
        precisions = [
            name
            for name in precisions
            if natively and table_prefers(name, patches=patches, windows=6 if grid.kind == "window" else 1)
        ]
    return tuple(f"{name}.plugins" for name in precisions)


def _write_encoder(name: str, job: EncoderJob, references: list[Reference], progress: Progress) -> Parity:
    """Write the file of one grid in one precision, share its weights with the windows' file, measure parity."""
    precision, path = WRITERS[name], job.path(name)
    started = time.monotonic()
    progress(f"writing {path.name}")
    precision.write(job, progress)
    if job.grid.kind != "window":
        share_weights(path, job.windows_path(name))
    progress(f"checking parity of {path.name} (written in {time.monotonic() - started:.0f} s)")
    run = precision.open(path)
    ran = [run_encoder(reference, run) for reference in references]
    del run  # its weights, twice, before `decisions` opens the file again
    decisions = partial(decision_runner, path)
    return merge(
        *(
            check_encoder(reference, runs, precision=name.split(".")[0], decisions=decisions)
            for reference, runs in zip(references, ran, strict=True)
        )
    )


def _verification_sets(images: list[NDArray[np.uint8]], job: EncoderJob) -> list[NDArray[np.uint8]]:
    """What parity is measured on: windows cut as the runtime cuts them, or two whole images per example grid."""
    if job.grid.kind == "window":
        return [verification_windows(images, job.geometry)]
    return [np.stack([resize(image, job.size(grid)) for image in images[:2]]) for grid in job.grid.examples]


def _text_encoder(config: ExportConfig, model: LoadedModel, directory: Path, progress: Progress) -> TextEntry:
    progress("tracing and checking text_encoder.onnx")
    encoder, path = TextEncoder(model.clip).eval(), directory / "text_encoder.onnx"
    tokens = _example_tokens(model.architecture.context_length)
    onnx_from_text_encoder(encoder, path, opset=config.opset)
    expected = text_reference(encoder, tokens)
    entry = TextEntry(file=path.name, parity=check_text_encoder(expected, path, tokens))
    if encoder.can_resume:
        resumed = directory / "text_encoder.resumed.onnx"
        progress(f"tracing and checking {resumed.name}")
        onnx_from_resumed_text_encoder(ResumedTextEncoder(encoder), resumed, opset=config.opset, base=path)
        parity = check_resumed_text_encoder(expected, resumed, tokens)
        entry = replace(entry, resumed=GraphEntry(file=resumed.name, parity=parity))
    if config.int8_text:
        entry = replace(entry, int8=_int8_text_encoder(config, encoder, entry, directory, progress))
    return entry


def _int8_text_encoder(
    config: ExportConfig, encoder: TextEncoder, source: TextEntry, directory: Path, progress: Progress
) -> TextEntry:
    """The same graphs in int8, by one plan: so the weights of both are the same bytes."""
    path = directory / "text_encoder.int8.onnx"
    own = [name for file in config.vocabularies for names in parse_classes(file) for name in names]
    prompts, others = text_prompts(Tokenizer.from_json(tokenizer_json()), len(encoder.positions), own)
    plan = quantize_text_encoder(directory / source.file, path, prompts, progress=progress)
    share_weights(path, directory / source.file)
    resumed = None
    if source.resumed is not None:
        resumed = directory / "text_encoder.int8.resumed.onnx"
        write_int8(directory / source.resumed.file, plan, resumed)
        share_weights(resumed, path)
    progress(f"checking {path.name}")
    parity, of_resumed = check_int8_text_encoder(encoder, path, resumed, torch.from_numpy(pad(others)))
    return TextEntry(
        file=path.name,
        parity=parity,
        resumed=None if resumed is None else GraphEntry(file=resumed.name, parity=of_resumed or {}),
        facts={"quantization": plan.to_json()},
    )


def _check_class_files(files: tuple[Path, ...]) -> None:
    """Refuse class files that can't be read, or whose vocabularies would have one name.

    Raises:
        VocabularyError: as `parse_classes`.
        ExportError: two of one name.
    """
    owners: dict[str, Path] = {}
    for path in files:
        parse_classes(path)
        other = owners.setdefault(path.stem, path)
        if other is not path:
            raise ExportError(
                f"--vocabulary {other} and {path} would both be vocabularies/{path.stem}.safetensors; rename one"
            )


def _vocabularies(
    config: ExportConfig, model: LoadedModel, defaults: Defaults, directory: Path, progress: Progress
) -> list[str]:
    """Embed the class files with the exported text encoder: the vocabularies the bundle carries ready."""
    if not config.vocabularies:
        return []
    session = cpu_session(str(directory / "text_encoder.onnx"))
    tokenizer = (directory / "tokenizer.json").read_text("utf-8")
    files = []
    for classes in config.vocabularies:
        progress(f"embedding the classes of {classes}")
        parsed = parse_with_background(classes, None, None, alone=defaults.class_weighting == "surgery")
        vocabulary = embed_classes(
            parsed.classes,
            encode_whole(lambda tokens: session.run(None, {"tokens": tokens})[0]),
            Tokenizer.from_json(tokenizer),
            load_templates(defaults.templates),
            model_sha256=text_model_sha256(model.checkpoint.state, tokenizer),
            background="none",
            context_length=model.architecture.context_length,
            progress=True,
        )
        file = f"vocabularies/{classes.stem}.safetensors"
        save_vocabulary(parsed.named(vocabulary), directory / file)
        files.append(file)
    return files


def _example_tokens(context: int) -> torch.Tensor:
    """Rows of several lengths: start token, random byte pairs, end token, zeros."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.zeros(4, context, dtype=torch.int64)
    for row, length in enumerate(min(most, context - 2) for most in (2, 5, 9, 14)):
        tokens[row, 0] = 49406
        tokens[row, 1 : 1 + length] = torch.randint(320, 49000, (length,), generator=generator)
        tokens[row, 1 + length] = 49407
    return tokens

"""`convert`: a baked file in another engine's format, kept only if its runtime gives the same result."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from scclip_rt.backends.onnxruntime.session import cpu_session
from scclip_rt.baking.converters.base import Converter, Run, Tensors, Weights
from scclip_rt.baking.library import load_onnx
from scclip_rt.baking.options import BakeOptions
from scclip_rt.baking.parity import as_input, check_images
from scclip_rt.cpus import default_threads
from scclip_rt.errors import BackendError, OptionError, did_you_mean
from scclip_rt.files import atomic_directory, atomic_path, check_replaceable_folder, output_error

CONVERTERS = {"openvino": "openvino", "mnn": "mnn", "rknn": "rknn"}
"""Target → module of this room."""
TORCH_TARGETS = ("litert", "executorch", "coreml")
"""Those that `scclip-export` makes, because their converters read torch programs."""
LEAST_AGREEMENT: dict[Weights, float] = {"fp32": 0.999, "fp16": 0.99, "int8": 0.97}
"""Share of pixels that must have ONNX Runtime's labels, by how weights are kept. Ties may fall either way."""
_TIE = 1e-6
"""Two maps no further apart than this, as a share of their value above 1, are a tie: either label is right."""
_LEAST_OF_NARROW = 0.99
"""The same for a file whose encoder is not fp32: two libraries round its values differently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionReport:
    """What was written.

    Attributes:
        target: the engine's name.
        version: of its library.
        weights: `fp32`, `fp16` or `int8`.
        files: the engine's own, then FILE.json with this report.
        bytes: of the engine's files.
        labels_agreement: share of pixels with ONNX Runtime's labels, on two images.
        max_abs: largest difference of a map's value; None where the result is labels.
    """

    target: str
    version: str
    weights: Weights
    files: tuple[str, ...]
    bytes: int
    labels_agreement: float
    max_abs: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BakedFile:
    """What a baked file says of itself."""

    path: Path
    tensors: Tensors
    options: BakeOptions
    precision: str

    @classmethod
    def read(cls, path: Path) -> BakedFile:
        """Read a file that `bake` wrote.

        Raises:
            BackendError: it is none, or its weights lie beside it.
        """
        onnx = load_onnx()
        from google.protobuf.message import DecodeError  # comes with onnx

        try:
            model = onnx.load(str(path), load_external_data=False)
            origin = json.loads(next(p.value for p in model.metadata_props if p.key == "scclip"))
        except (OSError, StopIteration, ValueError, DecodeError) as error:
            raise BackendError(
                f"{path} is no file that `scclip bake` wrote ({type(error).__name__})", field="file"
            ) from error
        if any(item.external_data for item in model.graph.initializer):
            raise BackendError(
                f"{path} has its weights beside it; bake it with --weights inside", field="file"
            )
        image, result = model.graph.input[0], model.graph.output[0].name
        lengths = [dim.dim_value for dim in image.type.tensor_type.shape.dim]
        sides = lengths[1:3] if origin["image"] == "uint8" else lengths[2:4]
        options = BakeOptions(
            size=(sides[0], sides[1]), pixels=origin["image"], result=result, batch=lengths[0] or None
        )
        tensors = Tensors(image=image.name, result=result)
        return cls(path=path, tensors=tensors, options=options, precision=origin["precision"])


def converter_of(target: str, known: Iterable[str] = CONVERTERS) -> Converter:
    """The module of a target.

    Args:
        target: its name.
        known: names for the message.

    Raises:
        OptionError: there is none here; says which there are.
    """
    if target in TORCH_TARGETS:
        raise OptionError(
            f"{target} is made from a torch program: scclip-export --baked FILE.onnx --to {target}",
            field="to",
        )
    if target not in CONVERTERS:
        names = ", ".join(known)
        raise OptionError(
            f"no converter to {target!r}; known: {names}{did_you_mean(target, known)}", field="to"
        )
    return cast("Converter", import_module(f"scclip_rt.baking.converters.{CONVERTERS[target]}"))


def convert(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    to: str,
    weights: Weights | None = None,
    chip: str | None = None,
    force: bool = False,
    converter: Converter | None = None,
) -> ConversionReport:
    """Write a baked file in another engine's format.

    The result is run in that engine's own runtime on the CPU, on two images; it gets its name only if its labels are
    those that ONNX Runtime gives to the baked file.

    Args:
        source: what `bake` wrote, weights inside.
        path: the file to write, with the engine's suffix (.xml, .mnn, .rknn).
        to: `openvino`, `mnn` or `rknn`.
        weights: how weights are kept; None takes the target's first: fp32, of rknn fp16. OpenVINO and MNN are compared
            in float32 in any case.
        chip: which of Rockchip's the file is for; None for rk3588. Other targets ignore it.
        force: replace files that exist.
        converter: of a target that is not this package's (`scclip_export.converters`); None looks `to` up.

    Raises:
        OptionError: no such target, or it has no such weights.
        BackendError: not installed, no baked file, or another result than ONNX Runtime's.
        OutputError: the files exist, or can't be written.

    Example:
        >>> convert("roofs.onnx", "roofs.mnn", to="mnn", weights="fp16").labels_agreement
        0.9998
    """
    converter, target = converter or converter_of(to), Path(path)
    weights = weights or converter.WEIGHTS[0]
    if weights not in converter.WEIGHTS:
        raise OptionError(
            f"{converter.NAME} keeps weights as {', '.join(converter.WEIGHTS)}; {weights!r} was asked for",
            field="weights",
        )
    suffix = converter.SUFFIXES[0]
    if target.suffix != suffix:
        raise OptionError(f"{converter.NAME}'s files end in {suffix}; got {target.name}", field="output")
    engine = tuple(target.with_suffix(suffix).name for suffix in converter.SUFFIXES)
    names = (*engine, target.name + ".json")
    for name in names:
        check_replaceable_folder(target.parent / name, force=force, own=_is_package)
    baked, version = BakedFile.read(Path(source)), converter.version()
    least = min(LEAST_AGREEMENT[weights], 1.0 if baked.precision == "fp32" else _LEAST_OF_NARROW)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tmp-convert-", dir=target.parent) as folder:
            staged = Path(folder) / target.name
            converter.convert(baked.path, staged, weights, chip)
            agreement, distance = _compare(converter, staged, baked)
            if not agreement >= least:
                raise BackendError(
                    f"{converter.NAME} {version} gives {agreement:.2%} of ONNX Runtime's labels with {weights} "
                    f"weights, and {least:.2%} are wanted; nothing is written"
                )
            report = ConversionReport(
                target=to,
                version=version,
                weights=weights,
                files=names,
                bytes=sum(_bytes(staged.with_name(name)) for name in engine),
                labels_agreement=agreement,
                max_abs=distance,
            )
            staged.with_name(names[-1]).write_text(json.dumps(asdict(report), indent=2) + "\n", "utf-8")
            for name in reversed(names):
                _publish(staged.with_name(name), target.parent / name, force=force)
    except OSError as error:
        raise output_error(target, error) from error
    return report


def onnxruntime_run(baked: BakedFile, threads: int) -> Run:
    """The baked file in ONNX Runtime, which converted files are compared with."""
    session = cpu_session(str(baked.path), threads=threads)

    def run(image: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(session.run([baked.tensors.result], {baked.tensors.image: image})[0])

    return run


def _is_package(folder: Path) -> bool:
    """Whether a folder is a file of an engine: Core ML's."""
    return (folder / "Manifest.json").exists()


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def _publish(staged: Path, target: Path, *, force: bool) -> None:
    """Give what was written its name."""
    if staged.is_dir():
        with atomic_directory(target, force=force, own=_is_package) as folder:
            shutil.copytree(staged, folder, dirs_exist_ok=True)
        return
    with atomic_path(target, force=force) as temporary:
        shutil.move(staged, temporary)


def _compare(converter: Converter, target: Path, baked: BakedFile) -> tuple[float, float | None]:
    """Share of equal labels, and the largest difference of a map's value, over the images of the check."""
    reference, options = onnxruntime_run(baked, default_threads()), baked.options
    shares, distances = [], []
    try:
        run = converter.open(target, baked.tensors, default_threads())
        results = [run(as_input(image, options)) for image in check_images(options.size or (0, 0))]
    except Exception as error:  # these libraries' errors share no base class
        reason = " ".join(str(error).split())[:300]
        raise BackendError(f"{converter.NAME} does not run what it converted: {reason}") from error
    for image, found in zip(check_images(options.size or (0, 0)), results, strict=True):
        wanted = reference(as_input(image, options))
        if found.shape != wanted.shape:
            return 0.0, None
        if options.result == "labels":
            shares.append(float((found == wanted).mean()))
            continue
        distances.append(
            float(np.abs(found - wanted).max())
        )  # NaN stays NaN, and its labels are compared below
        finite, best = np.isfinite(found).all(axis=1), wanted.max(axis=1)
        theirs = np.take_along_axis(wanted, found.argmax(axis=1)[:, None], axis=1)[:, 0]
        shares.append(float(((theirs >= best - _TIE * np.abs(best).clip(min=1)) & finite).mean()))
    return float(np.mean(shares)), max(distances) if distances else None

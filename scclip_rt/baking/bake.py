"""`bake`: a segmenter as one ONNX file, checked against it before it gets its name."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.backends.onnxruntime.session import cpu_session
from scclip_rt.baking.graph import IMAGE, Ingredients, baked_model
from scclip_rt.baking.library import load_onnx
from scclip_rt.baking.metadata import Card
from scclip_rt.baking.options import BakeOptions
from scclip_rt.baking.parity import as_input, check_images, labels_of
from scclip_rt.decode.plan import decode_plan, label_type
from scclip_rt.errors import BackendError, OptionError
from scclip_rt.files import atomic_path, check_replaceable, output_error
from scclip_rt.image.geometry import Tiling
from scclip_rt.precisions import PRECISIONS

if TYPE_CHECKING:
    from onnx import ModelProto

    from scclip_rt.bundle.manifest import EncoderSpec
    from scclip_rt.segmenter import Segmenter

_MOST_INSIDE = 2_000_000_000
"""Bytes of a protobuf file, a little under its limit of 2 GiB."""
LEAST_AGREEMENT = {"fp32": 0.999, "int8": 0.99, "fp16": 0.99, "bf16": 0.99}
"""Share of pixels that must have the labels of a segmenter of that precision. Ties may fall either way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BakeReport:
    """What was written.

    Attributes:
        files: the ONNX file first, then its weights and sidecars.
        input: shape of `image`, 0 for an open batch.
        result: name of the output.
        windows: per image.
        classes: how many.
        bytes: of all files.
        labels_agreement: share of pixels with the segmenter's labels, on the images of the check.
    """

    files: tuple[Path, ...]
    input: tuple[int, ...]
    result: str
    windows: int
    classes: int
    bytes: int
    labels_agreement: float


def bake(
    segmenter: Segmenter,
    path: str | os.PathLike[str],
    options: BakeOptions | None = None,
    *,
    force: bool = False,
) -> BakeReport:
    """Write a segmenter with its classes and options as one ONNX file: an image in, maps or labels out.

    Beside FILE.onnx this writes FILE.onnx.data (weights beside), FILE.onnx.json (geoai) and FILE.mlm.json (STAC). The
    file is run by ONNX Runtime before it gets its name, and its labels compared with the segmenter's.

    Args:
        segmenter: on ONNX Runtime; its vocabulary, thresholds and precision are baked.
        path: the ONNX file.
        options: the form of the file; None for the defaults.
        force: replace files that exist.

    Raises:
        OptionError: an option that a graph can't hold (PAMR; thresholds where the result has no place for them).
        BackendError: onnx is missing, or the file gave other labels than the segmenter.
        OutputError: the files exist, or can't be written.

    Example:
        >>> segment = Segmenter("vitb16.scclip", classes=["roof", "tree", "road"], backend="onnxruntime")
        >>> bake(segment, "roofs.onnx", BakeOptions(size=(512, 512), opset=17)).windows
        4
    """
    options = options or BakeOptions()
    target = Path(path)
    if target.suffix != ".onnx":
        raise OptionError(f"a baked file's name ends in .onnx; got {target.name}", field="output")
    onnx = load_onnx()
    parts = _ingredients(segmenter, options)
    spec = _encoder_for(segmenter, parts.tiling, options.precision)
    _check(segmenter, parts, options)
    card = Card(
        bundle=segmenter.bundle,
        encoder=spec.file,
        precision=spec.precision,
        classes=segmenter.vocabulary.classes,
        parts=parts,
        options=options,
    )
    sidecars = {target.with_suffix(".mlm.json").name: card.stac(target.name)}
    if card.takes_unit_tiles:
        sidecars[target.name + ".json"] = card.geoai()
    names = [target.name, *([target.name + ".data"] if options.weights == "beside" else []), *sidecars]
    for name in names:
        check_replaceable(target.parent / name, force=force)
    model = baked_model(onnx.load(str(segmenter.bundle.checked_graph(spec.file))), parts, options)
    onnx.helper.set_model_props(model, card.properties())
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tmp-bake-", dir=target.parent) as folder:
            staged = Path(folder)
            _save(model, staged / target.name, options)
            agreement = _agreement(staged / target.name, segmenter, parts, options, spec.precision)
            _write_json(staged, sidecars)
            for name in reversed(names):  # the graph last: who finds it finds the rest
                with atomic_path(target.parent / name, force=force) as temporary:
                    shutil.move(staged / name, temporary)
        for name in {target.name + ".data", target.name + ".json"}.difference(names) if force else ():
            (target.parent / name).unlink(missing_ok=True)  # of an earlier file of this name
    except OSError as error:
        raise output_error(target, error) from error
    files = tuple(target.parent / name for name in names)
    height, width = parts.size
    batch = options.batch or 0
    return BakeReport(
        files=files,
        input=(batch, height, width, 3) if options.channels_last else (batch, 3, height, width),
        result=options.result,
        windows=len(parts.tiling),
        classes=parts.settings.num_classes,
        bytes=sum(file.stat().st_size for file in files),
        labels_agreement=agreement,
    )


def _ingredients(segmenter: Segmenter, options: BakeOptions) -> Ingredients:
    side = segmenter.preparation.short_side
    size = options.size or (side, side)
    weighted = segmenter.options.class_weighting == "surgery"
    # Only the shape is looked at.
    loaded = segmenter.preparation.load(np.zeros((*size, 3), np.uint8))
    return Ingredients(
        size=size,
        tiling=loaded.tiling,
        plan=decode_plan(loaded.tiling, loaded.grid, size),
        settings=segmenter.vocabulary.decode_settings(segmenter.options),
        text=segmenter.vocabulary.embeddings,
        class_row=segmenter.bundle.decoding.class_weighting == "surgery",
        class_weights=weighted and not segmenter.vocabulary.has_empty_text,
    )


def _encoder_for(segmenter: Segmenter, tiling: Tiling, precision: str | None) -> EncoderSpec:
    """The encoder for these windows: the loaded one, one of another precision, or for small windows the dynamic one.

    Raises:
        OptionError: the bundle has none.
    """
    main, wanted = segmenter.backend.spec, precision or segmenter.backend.spec.precision
    others = [*segmenter.bundle.encoders_for(main.grid.kind), *segmenter.bundle.encoders_for("dynamic")]
    of_precision = [
        spec for spec in (main, *others) if spec.precision == wanted and spec.runs_on != ("tensorrt",)
    ]
    if not of_precision:
        known = ", ".join(dict.fromkeys(spec.precision for spec in segmenter.bundle.encoders))
        raise OptionError(
            f"{segmenter.bundle.path} has no {wanted} encoder; it has {known}", field="precision"
        )
    for spec in of_precision:
        shape = next(tensor.shape for tensor in spec.inputs if tensor.name == "windows")
        sides = zip(shape[1:3], tiling.input, strict=True)
        if all(isinstance(have, str) or have == want for have, want in sides):
            return spec
    height, width = tiling.input
    raise OptionError(
        f"windows of {width}×{height} pixels need an encoder of any size in {wanted}; export the bundle with "
        "--dynamic-grid",
        field="size",
    )


def _check(segmenter: Segmenter, parts: Ingredients, options: BakeOptions) -> None:
    """Refuse what the graph or its result has no place for."""
    settings = parts.settings
    if segmenter.options.refine is not None:
        raise OptionError("a baked graph has no PAMR; add --refine none (refine='none')", field="refine")
    if options.result == "logits" and (settings.soft or settings.drops):
        raise OptionError(
            "thresholds need probabilities: ask for probabilities or labels, or set the thresholds to 0",
            field="result",
        )
    if options.result == "probabilities" and settings.prob_threshold > 0 and settings.background is None:
        raise OptionError(
            f"no class takes the pixels under prob_threshold {settings.prob_threshold:g}: name a background, ask for "
            "labels, or set it to 0",
            field="prob_threshold",
        )


def _save(model: ModelProto, path: Path, options: BakeOptions) -> None:
    onnx = load_onnx()
    if options.weights == "beside":
        onnx.save_model(
            model,
            str(path),
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location=path.name + ".data",
            size_threshold=1024,
        )
        if not path.with_name(path.name + ".data").exists():  # a model without a large tensor
            path.with_name(path.name + ".data").touch()
        return
    if model.ByteSize() > _MOST_INSIDE:
        raise OptionError(
            f"the weights take {model.ByteSize() / 1e9:.1f} GB, and an ONNX file holds 2: put them beside it "
            "(--weights beside)",
            field="weights",
        )
    onnx.save_model(model, str(path))


def _agreement(
    path: Path, segmenter: Segmenter, parts: Ingredients, options: BakeOptions, precision: str
) -> float:
    """Share of pixels with the segmenter's labels, as ONNX Runtime runs the file; classes of equal texts are one.

    Raises:
        BackendError: too few, or ONNX Runtime does not take the file.
    """
    # ONNX Runtime 1.32 crashes on float16 graphs at its default level, its issue 28392.
    level = "ORT_ENABLE_EXTENDED" if precision == "fp16" else "ORT_ENABLE_ALL"
    same = precision == segmenter.backend.spec.precision
    least = LEAST_AGREEMENT[precision] if same else PRECISIONS[precision].pixels
    images = check_images(parts.size)
    try:
        session = cpu_session(str(path), level=level)
        found = [
            labels_of(
                session.run(None, {IMAGE: as_input(image, options)})[0], options, parts.settings.num_classes
            )
            for image in images
        ]
    except Exception as error:  # its errors share no base class
        reason = " ".join(str(error).split())[:300]
        raise BackendError(f"{path.name}: ONNX Runtime does not run what was baked: {reason}") from error
    wanted = [segmenter(image).labels for image in images]
    merged = _merged_twins(parts)
    agreement = float(np.mean([(merged[a] == merged[b]).mean() for a, b in zip(found, wanted, strict=True)]))
    if agreement < least:
        raise BackendError(
            f"{path.name}: {agreement:.2%} of the pixels have the segmenter's labels, and {least:.2%} are wanted; "
            "nothing is written"
        )
    return agreement


def _merged_twins(parts: Ingredients) -> NDArray[np.intp]:
    """Label → the first class with the same texts: which of such classes a pixel gets is rounding alone."""
    texts = np.unique(np.round(parts.text, 5), axis=0, return_inverse=True)[1]
    merged = np.arange(np.iinfo(label_type(parts.settings.num_classes)[0]).max + 1)
    first: dict[frozenset[int], int] = {}
    for label in range(parts.settings.num_classes):
        own = frozenset(texts[parts.settings.query_class == label].tolist())
        merged[label] = first.setdefault(own, label)
    return merged


def _write_json(folder: Path, documents: Mapping[str, dict[str, Any]]) -> None:
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")

"""bundle.json as typed, frozen values: the contract of docs/bundle.md, without any file access."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, cast

from scclip_rt.bundle.schemas import flaw
from scclip_rt.errors import BundleError
from scclip_rt.strict_json import parse_json

FORMAT_VERSIONS = (1, 2)
VERSION_1_METHODS = ("scclip", "maskclip", "none")
"""Calibrations that format version 1 knows."""

GridKind = Literal["window", "fixed", "dynamic"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A graph input or output: dtype `uint8`, `int64` or `float32`; a shape mixes lengths and axis names."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} ({', '.join(str(length) for length in self.shape)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisSpec:
    """The lengths a named axis can take: `min` to `max` (None: unbounded), in steps of `multiple_of`."""

    min: int
    max: int | None = None
    multiple_of: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GridSpec:
    """The patch grid an encoder works on; `rows` and `columns` are None where they follow the image."""

    kind: GridKind
    rows: int | None = None
    columns: int | None = None

    def __str__(self) -> str:
        return self.kind if self.rows is None else f"{self.kind} {self.rows}×{self.columns}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSpec:
    """What an ONNX graph takes and gives; `parity` holds what the export measured against torch."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    axes: Mapping[str, AxisSpec]
    parity: Mapping[str, object]

    def axis(self, name: str) -> AxisSpec:
        """The limits of a named axis; one that the manifest does not describe is unbounded."""
        return self.axes.get(name, AxisSpec(min=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec(GraphSpec):
    """One image encoder of a bundle."""

    precision: Precision
    grid: GridSpec
    opset: int
    runs_on: tuple[str, ...]

    @property
    def has_attention(self) -> bool:
        """Whether this is the form with ONNX's Attention (docs/bundle.md: `opset23` is a part of its name)."""
        return "opset23" in self.file.split(".")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextGraphs(GraphSpec):
    """The text encoder in one precision.

    `resumed` is the same tower from where a text with the same beginning left it; older bundles lack it.
    """

    resumed: GraphSpec | None = None

    @property
    def graphs(self) -> tuple[GraphSpec, ...]:
        """This graph, and `resumed` if there is one."""
        return (self,) if self.resumed is None else (self, self.resumed)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoderSpec(TextGraphs):
    """The text encoder in float32, and in `int8` where the bundle has that.

    A vocabulary embedded by another `model_sha256` does not fit.
    """

    context_length: int
    model_sha256: str
    int8: TextGraphs | None = None

    @property
    def precisions(self) -> dict[str, TextGraphs]:
        """The graphs by precision, fp32 first."""
        return {"fp32": self} if self.int8 is None else {"fp32": self, "int8": self.int8}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The checkpoint a bundle was exported from. `assumptions` lists what no tensor of it told.

    `mlp_width` is None in bundles that don't tell it. `sources` says of heads, activation, mean, std and others who
    told it; a guess begins with "assumed". It is None in bundles from before that was recorded.
    """

    backbone: str | None
    architecture: str
    pretrained: str | None
    checkpoint_sha256: str
    width: int
    layers: int
    heads: int
    patch_size: int
    image_size: int
    embed_dim: int
    activation: str
    assumptions: tuple[str, ...]
    mlp_width: int | None = None
    sources: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessingSpec:
    """How an image becomes windows: lengths in pixels, mean and std in 0..255 (folded into the graph).

    `padding` and `whole_image`: docs/bundle.md, "Format 2".
    """

    short_side: int
    long_side: int
    window: int
    stride: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    padding: Literal["none", "patch"] = "none"
    whole_image: Literal["nearest", "floor"] = "nearest"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingSpec:
    """The defaults from logits to labels; `area_threshold` None means that the area rule is off.

    The further fields: docs/bundle.md, "Format 2".
    """

    logit_scale: float
    prob_threshold: float
    area_threshold: float | None
    rest_class: int | None = None
    maps: Literal["cosine", "minmax"] = "cosine"
    class_weighting: Literal["none", "surgery"] = "none"
    refine: Literal["pamr"] | None = None
    templates: str = "imagenet"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkSpec:
    """What differs on a benchmark, see docs/bundle.md; None: nothing."""

    short_side: int | None = None
    stride: int | None = None
    logit_scale: float | None = None
    prob_threshold: float | None = None
    area_threshold: float | None = None
    rest_class: int | None = None
    whole_image: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSpec:
    """A file's SHA-256 (hexadecimal) and length in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All of bundle.json. File names are relative, as written; `Bundle` turns them into checked paths."""

    format_version: int
    name: str
    created_with: Mapping[str, str]
    model: ModelSpec
    calibration: Mapping[str, object]
    preprocessing: PreprocessingSpec
    decoding: DecodingSpec
    encoders: tuple[EncoderSpec, ...]
    text_encoder: TextEncoderSpec
    tokenizer: str
    vocabularies: tuple[str, ...]
    files: Mapping[str, FileSpec]
    benchmarks: Mapping[str, BenchmarkSpec] = field(default_factory=dict)
    engines: tuple[str, ...] = ()  # sidecars; scclip_rt.bundle.engine_fit reads them

    def references(self) -> tuple[str, ...]:
        """Every file that the manifest names outside its `files` table."""
        graphs = tuple(encoder.file for encoder in self.encoders)
        texts = tuple(graph.file for text in self.text_encoder.precisions.values() for graph in text.graphs)
        return (*graphs, *texts, self.tokenizer, *self.vocabularies, *self.engines)


def parse_manifest(text: str | bytes) -> Manifest:
    """Check the text of a bundle.json against the format and the tensor contract.

    Raises:
        BundleError: not JSON, another format version, a value the schema refuses (with its place), or tensors
            that disagree with the model's sizes.
    """
    try:
        document = parse_json(text)
    except ValueError as error:
        raise BundleError(
            f"bundle.json is not JSON ({error}); copy or export the bundle again", field="bundle.json"
        ) from error
    _check_version(document)
    _check_schema(document)
    manifest = _manifest(document)
    _check_members(manifest)
    for encoder in manifest.encoders:
        _check_encoder(encoder, manifest)
    for graphs in manifest.text_encoder.precisions.values():
        _check_text_graphs(graphs, manifest.model.embed_dim)
    return manifest


def _check_version(document: object) -> None:
    version = document.get("format_version") if isinstance(document, dict) else None
    if version is not None and (type(version) is not int or version not in FORMAT_VERSIONS):
        known = ", ".join(str(known) for known in FORMAT_VERSIONS)
        raise BundleError(
            f"bundle.json has format version {version!r}; this runtime reads {known}. "
            "Upgrade scclip-rt, or export the bundle again",
            field="format_version",
        )


def _check_members(manifest: Manifest) -> None:
    """Version 1 has nothing of version 2: an older runtime would pass over it and give other labels."""
    if manifest.format_version > 1:
        return
    used = [
        f"{name}.{item.name}"
        for name, spec in (("preprocessing", manifest.preprocessing), ("decoding", manifest.decoding))
        for item in fields(spec)
        if item.default is not MISSING and getattr(spec, item.name) != item.default
    ]
    used += ["benchmarks"] if manifest.benchmarks else []
    if manifest.calibration["method"] not in VERSION_1_METHODS or "residual" in manifest.calibration:
        used.append("calibration")
    if used:
        raise BundleError(
            f"bundle.json has {', '.join(used)}, which format version 1 doesn't know; export the bundle again",
            field=used[0],
        )


def _check_schema(document: object) -> None:
    error = flaw("bundle", document)
    if error is None:
        return
    place = error.json_path.removeprefix("$").removeprefix(".") or "the document"
    reason = " ".join(error.message.split())
    if len(reason) > 200:
        reason = f"{reason[:120]} … {reason[-70:]}"
    raise BundleError(f"bundle.json, {place}: {reason}; copy or export the bundle again", field=_field(error))


def _field(error: Any) -> str:
    """The place of a violation, outside of what only one of several alternatives would hold."""
    while error.parent is not None:
        error = error.parent
    return str(error.json_path).removeprefix("$").removeprefix(".") or "bundle.json"


def _tensors(items: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=t["name"], dtype=t["dtype"], shape=tuple(t["shape"])) for t in items)


def _graph(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "file": item["file"],
        "inputs": _tensors(item["inputs"]),
        "outputs": _tensors(item["outputs"]),
        "axes": {name: AxisSpec(**axis) for name, axis in item["axes"].items()},
        "parity": item["parity"],
    }


def _text_graphs(item: dict[str, Any]) -> dict[str, Any]:
    resumed = GraphSpec(**_graph(item["resumed"])) if "resumed" in item else None
    return _graph(item) | {"resumed": resumed}


def _encoder(item: dict[str, Any]) -> EncoderSpec:
    return EncoderSpec(
        **_graph(item),
        precision=item["precision"],
        grid=GridSpec(**item["grid"]),
        opset=item["opset"],
        runs_on=tuple(item["runs_on"]),
    )


def _known(kind: type, item: dict[str, Any]) -> dict[str, Any]:
    """The members that this version knows; a newer exporter may have added others. Lists become tuples."""
    names = kind.__dataclass_fields__  # type: ignore[attr-defined]
    return {key: tuple(v) if isinstance(v, list) else v for key, v in item.items() if key in names}


def _manifest(document: dict[str, Any]) -> Manifest:
    text = document["text_encoder"]
    return Manifest(
        format_version=document["format_version"],
        name=document["name"],
        created_with=document["created_with"],
        model=ModelSpec(**_known(ModelSpec, document["model"])),
        calibration=document["calibration"],
        preprocessing=PreprocessingSpec(**_known(PreprocessingSpec, document["preprocessing"])),
        decoding=DecodingSpec(**_known(DecodingSpec, document["decoding"])),
        encoders=tuple(_encoder(item) for item in document["encoders"]),
        text_encoder=TextEncoderSpec(
            **_text_graphs(text),
            context_length=text["context_length"],
            model_sha256=text["model_sha256"],
            int8=TextGraphs(**_text_graphs(text["int8"])) if "int8" in text else None,
        ),
        tokenizer=document["tokenizer"],
        vocabularies=tuple(document["vocabularies"]),
        files={name: FileSpec(**_known(FileSpec, item)) for name, item in document["files"].items()},
        benchmarks={
            name: BenchmarkSpec(**_known(BenchmarkSpec, item))
            for name, item in document.get("benchmarks", {}).items()
        },
        engines=tuple(document.get("engines", ())),
    )


def _tensor(graph: GraphSpec, side: Literal["inputs", "outputs"], name: str, dtype: str) -> TensorSpec:
    specs = cast("tuple[TensorSpec, ...]", getattr(graph, side))
    for spec in specs:
        if spec.name == name:
            if spec.dtype != dtype:
                raise BundleError(
                    f"{graph.file}: tensor {name!r} is {spec.dtype} in bundle.json; must be {dtype}",
                    field=graph.file,
                )
            return spec
    found = ", ".join(spec.name for spec in specs)
    raise BundleError(
        f"{graph.file}: bundle.json lists {side} {found}; {name!r} is missing. Export the bundle again",
        field=graph.file,
    )


def _check_shape(graph: GraphSpec, spec: TensorSpec, expected: tuple[int | None, ...]) -> None:
    """Compare a shape with the lengths the contract fixes; None stands for an axis that may be named."""
    agrees = len(spec.shape) == len(expected) and all(
        want is None or have == want for have, want in zip(spec.shape, expected, strict=True)
    )
    if not agrees:
        wanted = ", ".join("*" if length is None else str(length) for length in expected)
        raise BundleError(
            f"{graph.file}: bundle.json gives {spec}; the model's sizes need ({wanted}). "
            "Export the bundle again",
            field=graph.file,
        )


def _check_encoder(encoder: EncoderSpec, manifest: Manifest) -> None:
    model, grid = manifest.model, encoder.grid
    height: int | None = None
    width: int | None = None
    patches: int | None = None
    window = manifest.preprocessing.window
    if grid.rows is not None and grid.columns is not None:
        height, width = grid.rows * model.patch_size, grid.columns * model.patch_size
        patches = grid.rows * grid.columns + (manifest.decoding.class_weighting == "surgery")
        if grid.kind == "window" and manifest.preprocessing.padding == "patch":
            padded = -(-window // model.patch_size) * model.patch_size
            height, width = (window if side == padded else side for side in (height, width))
    if grid.kind == "window" and (height, width) != (window, window):
        raise BundleError(
            f"{encoder.file}: a grid of {grid.rows}×{grid.columns} patches of {model.patch_size} pixels is "
            f"not the window of {window} pixels that bundle.json names. Export the bundle again",
            field=encoder.file,
        )
    _check_shape(encoder, _tensor(encoder, "inputs", "windows", "uint8"), (None, height, width, 3))
    _check_shape(encoder, _tensor(encoder, "inputs", "text", "float32"), (None, model.embed_dim))
    _check_shape(
        encoder, _tensor(encoder, "outputs", "features", "float32"), (None, patches, model.embed_dim)
    )
    _check_shape(encoder, _tensor(encoder, "outputs", "logits", "float32"), (None, patches, None))


def _check_text_graphs(text: TextGraphs, embed_dim: int) -> None:
    _check_shape(text, _tensor(text, "inputs", "tokens", "int64"), (None, None))
    _check_shape(text, _tensor(text, "outputs", "embeddings", "float32"), (None, embed_dim))
    if text.resumed is not None:
        _check_resumed(text.resumed, embed_dim)


def _check_resumed(graph: GraphSpec, embed_dim: int) -> None:
    """The text encoder that goes on from known beginnings: what it takes is shaped as what it gives."""
    past = _tensor(graph, "inputs", "past", "float32")
    sizes = past.shape if len(past.shape) == 6 else (0,) * 6
    layers, heads, width = (size if isinstance(size, int) else 0 for size in (sizes[0], sizes[3], sizes[5]))
    _check_shape(graph, past, (layers, 2, None, heads, None, width))
    for layer in range(layers):
        for part in ("key", "value"):
            present = _tensor(graph, "outputs", f"present.{layer}.{part}", "float32")
            _check_shape(graph, present, (None, heads, None, width))
    _check_shape(graph, _tensor(graph, "inputs", "tokens", "int64"), (None, None))
    _check_shape(graph, _tensor(graph, "inputs", "past_lengths", "int64"), (None,))
    _check_shape(graph, _tensor(graph, "inputs", "beginnings", "int64"), (None,))
    _check_shape(graph, _tensor(graph, "outputs", "embeddings", "float32"), (None, embed_dim))

"""From an ONNX file to a serialised engine: parse, profile, configure, build, read the precisions back."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scclip_export.engines.libraries import EngineLibrary
from scclip_export.engines.monitor import make_logger, make_monitor
from scclip_export.engines.precisions import (
    Counts,
    check_engine,
    check_network,
    engine_precisions,
    network_precisions,
)
from scclip_export.engines.request import EngineRequest, Profile, Progress
from scclip_export.errors import ExportError
from scclip_rt.bundle.manifest import EncoderSpec
from scclip_rt.files import atomic_path


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEngine:
    """A serialised engine (a buffer) and the precisions read back from it."""

    plan: Any
    layer_precisions: Mapping[str, Counts]


class BuildError(ExportError):
    """The library parsed or built a graph without success; another form of the same encoder may still do."""


def engine_from_onnx(
    library: EngineLibrary,
    path: Path,
    encoder: EncoderSpec,
    *,
    profile: Profile,
    request: EngineRequest,
    progress: Progress,
    plugins: int = 0,
) -> BuiltEngine:
    """Build an engine from an encoder of a bundle.

    Args:
        library: what builds.
        path: the encoder's ONNX file, its weights beside it.
        encoder: its tensors and its precision.
        profile: (min, opt, max) of each named axis of its inputs.
        request: everything else.
        progress: is told of phases, warnings and errors.
        plugins: how many of the file's nodes are to become plug-ins.

    Returns:
        The engine and the precisions of its layers.

    Raises:
        BuildError: the library can't parse or build this file.
        ExportError: the engine does not compute in the encoder's precision.
        KeyboardInterrupt: Ctrl-C, as soon as the library lets go.
    """
    trt = library.trt
    logger = make_logger(trt, progress)
    with _kept_log(logger, request.log):
        builder = trt.Builder(logger)
        if builder is None:  # the bindings' factories answer None on failure
            raise BuildError(f"{library.name} {trt.__version__} makes no builder{_reasons(logger)}")
        network = library.create_network(builder)
        parser = _parse(trt, network, path, logger)
        precisions = network_precisions(network)
        check_network(precisions, encoder.precision, path.name)
        found = sum(precisions.layers.get("PLUGIN_V3", {}).values())
        if found != plugins:
            raise BuildError(
                f"{path.name} has {plugins} plug-in nodes; {library.name} made {found} plug-ins of them"
            )
        config = builder.create_builder_config()
        _configure(trt, builder, config, request, network, encoder, profile)
        library.configure(config, request)
        monitor = make_monitor(trt, progress)
        if monitor is not None:
            config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        del parser  # it holds the weights, and must outlive the build
        if monitor is not None and monitor.interrupted:
            raise KeyboardInterrupt
        if plan is None:
            raise BuildError(f"{library.name} {trt.__version__} can't build {path.name}{_reasons(logger)}")
        library.finish(config, request)
        layers = {"network": precisions.layers}
        inspected = library.inspect(plan, logger, host_code=request.version_compatible)
        if inspected is not None:
            layers["engine"] = engine_precisions(inspected)
            check_engine(layers["engine"], precisions, encoder.precision, path.name)
    return BuiltEngine(plan=plan, layer_precisions=layers)


def _parse(trt: Any, network: Any, path: Path, logger: Any) -> Any:
    parser = trt.OnnxParser(network, logger)
    # From the file: weights lie beside it, and a large model exceeds what a protobuf message may hold.
    if not parser.parse_from_file(str(path)):
        errors = dict.fromkeys(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise BuildError(f"{path.name} is not understood by the parser: {_short('; '.join(errors))}")
    return parser


def _configure(
    trt: Any,
    builder: Any,
    config: Any,
    request: EngineRequest,
    network: Any,
    encoder: EncoderSpec,
    profile: Profile,
) -> None:
    # On by default, and then fp32 products have fp16's mantissa: anomaly detection and similarities need all bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    if config.get_flag(trt.BuilderFlag.TF32):
        raise ExportError("the builder keeps TF32 on although it was turned off; no engine was built")
    if request.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace << 20)
    if request.builder_level is not None:
        config.builder_optimization_level = request.builder_level
    ranges = builder.create_optimization_profile()
    found = {network.get_input(index).name for index in range(network.num_inputs)}
    if found != {tensor.name for tensor in encoder.inputs}:
        raise BuildError(
            f"{encoder.file}: the graph's inputs are {', '.join(sorted(found))}, not bundle.json's"
        )
    for tensor in encoder.inputs:
        shapes = [profile_shape(tensor.shape, profile, index) for index in range(3)]
        ranges.set_shape(tensor.name, *shapes)
    if config.add_optimization_profile(ranges) < 0:
        raise BuildError(f"{encoder.file}: the profile {profile} was refused")


def profile_shape(shape: tuple[int | str, ...], profile: Profile, index: int) -> tuple[int, ...]:
    """A tensor's shape with each named axis at its min (`index` 0), opt (1) or max (2) length."""
    return tuple(length if isinstance(length, int) else profile[length][index] for length in shape)


@contextlib.contextmanager
def _kept_log(logger: Any, path: Path | None) -> Iterator[None]:
    """Write the library's messages to `path`, also after a failure: that is when they are wanted."""
    try:
        yield
    finally:
        if path is not None:
            with atomic_path(path, force=True) as temporary:
                text = "".join(f"{severity}: {message}\n" for severity, message in logger.lines)
                temporary.write_text(text, "utf-8")


def _reasons(logger: Any) -> str:
    errors = logger.errors()
    return f": {_short('; '.join(errors))}" if errors else ""


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 400 else f"{text[:400]}…"

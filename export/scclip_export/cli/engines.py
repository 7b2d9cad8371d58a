"""The engine options of `scclip-export`."""

import argparse

from scclip_export.engines.libraries import parse_compute_capability
from scclip_export.engines.request import ENGINE_PRECISIONS, EngineRequest
from scclip_export.errors import ExportError
from scclip_rt.bundle.engine_fit import Library
from scclip_rt.cli.parsers import Options

# Options that mean something with an engine alone: names in `args`.
ENGINE_DETAILS = (
    "compute_capability",
    "engine_precision",
    "engine_grid",
    "min_batch",
    "opt_batch",
    "max_batch",
    "opt_queries",
    "max_queries",
    "workspace",
    "builder_level",
    "version_compatible",
    "hardware_compatible",
    "timing_cache",
    "engine_log",
)


def _capabilities(text: str) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(parse_compute_capability(part) for part in text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a list such as 8.6,8.9,12.0; {error}") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Register the options."""
    group = Options(
        parser,
        "engines",
        "Built from the bundle's encoders and stored in it; several live side by side (docs/tensorrt.md).",
    )
    group.file(
        "--bundle",
        "BUNDLE",
        "add engines to this bundle instead of exporting: needs no checkpoint and no torch",
    )
    group.flag("--tensorrt", "for the NVIDIA GPU of this machine, by TensorRT")
    group.flag("--tensorrt-rtx", "ahead of time by TensorRT for RTX; needs no GPU")
    group.text(
        "--compute-capability",
        "LIST",
        "targets of --tensorrt-rtx, such as 8.6,8.9,12.0 (default: one engine for 8.0, 8.6, 8.9, 12.0 and "
        "later; 9.0 and 10.0 it does not know)",
        type=_capabilities,
    )
    group.text(
        "--engine-precision",
        "LIST",
        f"of the encoders to build from: {', '.join(ENGINE_PRECISIONS)} "
        "(default: the first of these that the bundle holds; with --fp8 fp16 and fp8)",
        type=_names,
    )
    group.text(
        "--engine-grid",
        "LIST",
        "window, or HxW for a whole-image encoder of that size (default: all but the dynamic one)",
        type=_names,
    )
    group.number("--min-batch", "N", "fewest windows at once (1)")
    group.number("--opt-batch", "N", "windows to tune for (6; whole images: 1)")
    group.number("--max-batch", "N", "most windows at once (16)")
    group.number("--opt-queries", "N", "queries to tune for (150)")
    group.number("--max-queries", "N", "most queries (1024)")
    group.number("--workspace", "MIB", "limit of device memory while a layer runs, in MiB")
    group.number("--builder-level", "N", "0 (builds fast) to 5 (tries most); default: the library's")
    group.flag("--version-compatible", "loads in later versions of TensorRT too")
    group.choice(
        "--hardware-compatible",
        ("ampere+", "same-compute-capability"),
        "--tensorrt: runs on other GPUs too, Ampere and later (default of this option) or of this GPU's "
        "compute capability; may be slower",
        nargs="?",
        const="ampere+",
    )
    group.file("--timing-cache", "FILE", "TensorRT's measurements (default: in the cache folder)")
    group.either(
        "--gpu-kernels",
        "compile the decode kernels too, for the GPUs of the bundle's engines (needs triton; default: with an "
        "engine, where triton is installed)",
    )
    group.either(
        "--tensorrt-plugins",
        "--tensorrt: the calibration on our Triton kernels as plug-ins inside the engine, from a file of its own "
        "in the bundle (default: where they were measured to be faster)",
    )
    group.file("--engine-log", "FILE", "keep the library's messages")


def requests_from(args: argparse.Namespace) -> tuple[EngineRequest, ...]:
    """The engines that a command line asks for; none if it names no library.

    Raises:
        ExportError: options that contradict each other or are out of range.
    """
    libraries: list[Library] = []
    if args.tensorrt:
        libraries.append("tensorrt")
    if args.tensorrt_rtx:
        libraries.append("tensorrt-rtx")
    if not libraries:
        given = [name for name in ENGINE_DETAILS if getattr(args, name) not in (None, False)]
        if given:
            raise ExportError(
                f"{', '.join('--' + name.replace('_', '-') for name in given)}: for which library? "
                "Add --tensorrt or --tensorrt-rtx"
            )
        if args.bundle is not None and args.tensorrt_plugins:
            raise ExportError(
                "--tensorrt-plugins is for --tensorrt; add it, or export again without --bundle"
            )
        others = (args.gpu_kernels, args.triton_repository, args.bake)
        if args.bundle is not None and not any(others):
            raise ExportError(
                "--bundle adds engines: say which with --tensorrt or --tensorrt-rtx (or --gpu-kernels, "
                "--triton-repository DIR or --bake CLASSES)"
            )
    if libraries == ["tensorrt-rtx"] and args.bundle is not None and args.tensorrt_plugins:
        raise ExportError("--tensorrt-plugins is for --tensorrt: TensorRT-RTX takes no such plug-ins")
    return tuple(_request(library, args) for library in libraries)


def _request(library: Library, args: argparse.Namespace) -> EngineRequest:
    return EngineRequest(
        library=library,
        # An fp8 encoder is there for nothing else than an engine.
        precisions=args.engine_precision or (("fp16", "fp8") if args.fp8 else ()),
        grids=args.engine_grid or (),
        compute_capabilities=args.compute_capability or (),
        min_batch=1 if args.min_batch is None else args.min_batch,
        opt_batch=args.opt_batch,
        max_batch=16 if args.max_batch is None else args.max_batch,
        opt_queries=args.opt_queries,
        max_queries=1024 if args.max_queries is None else args.max_queries,
        workspace=args.workspace,
        builder_level=args.builder_level,
        version_compatible=args.version_compatible,
        hardware_compatible=args.hardware_compatible,
        timing_cache=args.timing_cache,
        log=args.engine_log,
        plugins=args.tensorrt_plugins if library == "tensorrt" else None,
    )

"""The command `scclip-export`."""

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from scclip_export.checkpoint.backbones import BACKBONES
from scclip_export.checkpoint.find import weight_files
from scclip_export.cli.baking import OPTIONS as BAKE_OPTIONS
from scclip_export.cli.baking import Plan, add_bake_arguments, plan_from
from scclip_export.cli.engines import ENGINE_DETAILS, add_engine_arguments, requests_from
from scclip_export.cli.precisions import add_precision_arguments, int8_from, precisions_from
from scclip_export.engines import EngineRequest, add_engines, add_kernels, wants_kernels
from scclip_export.errors import ExportError
from scclip_export.methods import METHODS
from scclip_rt import __version__
from scclip_rt.cli.guard import Parser
from scclip_rt.cli.options import check_json_target, write_json
from scclip_rt.cli.parsers import Options, number, size

_METHOD = "method"
_COMMON = {
    "--help",
    "--help-all",
    "--backbone",
    "--checkpoint",
    "--calibration",
    "--dynamic-grid",
    "--fp16",
    "--int8",
    "--calibration-images",
    "--bundle",
    "--tensorrt",
    "--vocabulary",
    "--bake",
    "--to",
    "--output",
}
"""What `--help` shows; `--help-all` shows the rest under their headings."""

_EXAMPLES = """\
examples:
  scclip-export --backbone vitb16
      download OpenAI's ViT-B/16 and write vitb16.scclip
  scclip-export --backbone vitl14 --checkpoint ViT-L-14.pt --output large.scclip
      the same from a file, without a download
  scclip-export --checkpoint model.safetensors --output mine.scclip
      sizes from the tensors; heads, activation, mean and std from the configurations beside it or its metadata
  scclip-export --backbone vitb16 --dynamic-grid --image-size 336x448
      add encoders for whole images (scclip segment --whole-image)
  scclip-export --bundle vitb16.scclip --tensorrt-rtx --compute-capability 8.6,8.9
      build TensorRT-RTX engines into an existing bundle; needs no GPU, no torch
  scclip-export --bundle vitb16.scclip --triton-repository triton
      a model repository for NVIDIA Triton from an existing bundle
  scclip-export --bundle vitb16.scclip --bake "roof; tree; road" --bake-output roofs.onnx
      one ONNX file with the classes inside, from an existing bundle; add --to litert for another engine's
  scclip-export --model ViT-B-16 --pretrained datacomp_xl_s13b_b90k
      any other open_clip ViT
"""


def _layer_range(name: str) -> Callable[[str], tuple[int, int]]:
    index = number(name)

    def parse(text: str) -> tuple[int, int]:
        start, colon, end = text.partition(":")
        if not colon:
            raise argparse.ArgumentTypeError(
                f"expected A:B, two block indices (B exclusive); got {text[:40]!r}"
            )
        return int(index(start)), int(index(end))

    return parse


def _colour(text: str) -> tuple[float, ...]:
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected R,G,B, such as 0.5,0.5,0.5; got {text!r}") from None
    return red, green, blue


def build_parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser of `scclip-export`, with the options of the method that `argv` names."""
    parser = Parser(
        prog="scclip-export",
        description="Export a CLIP ViT, calibrated by SC-CLIP, to a bundle that scclip-rt serves without torch.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", "-V", action="version", version=f"scclip-export {__version__}")
    _add_source(parser)
    _add_calibration(parser, _chosen_method(argv))
    _add_geometry(parser)
    add_precision_arguments(parser)
    add_engine_arguments(parser)
    _add_output(parser)
    parser.add_argument("--help-all", action="help", help="show every option")
    if "--help-all" not in argv:
        named = any(word.split("=")[0] == "--calibration" for word in argv)
        _shorten_help(parser, keep_method=named)
    return parser


def _shorten_help(parser: argparse.ArgumentParser, *, keep_method: bool) -> None:
    """Leave in `--help` what most people need; every option still works.

    Args:
        parser: with all its options.
        keep_method: whether a method was named, whose options are then shown too.
    """
    parser.usage = "scclip-export (--backbone NAME | --checkpoint FILE | --bundle BUNDLE) [option …]"
    for group in parser._action_groups:  # argparse has no public way to look at them
        if keep_method and group.title == _METHOD:
            continue
        for action in group._group_actions:
            if not set(action.option_strings) & _COMMON:
                action.help = argparse.SUPPRESS
        group.description = None


def _add_source(parser: argparse.ArgumentParser) -> None:
    group = Options(parser, "model")
    group.text("--backbone", "NAME", f"one of {', '.join(BACKBONES)}")
    group.text("--model", "NAME", "any other ViT of open_clip, with --pretrained")
    group.text("--pretrained", "TAG", "open_clip's name of the weights of --model")
    group.file(
        "--checkpoint",
        "FILE",
        "read the weights from FILE, no download: OpenAI's .pt, a state dict (.pt, .safetensors) in OpenAI's, "
        "open_clip's or Hugging Face's layout, an index of shards, or a folder (docs/checkpoints.md)",
    )
    group.number("--heads", "N", "attention heads of the image tower")
    group.number("--text-heads", "N", "attention heads of the text tower")
    group.choice("--activation", ("quickgelu", "gelu", "gelu_tanh"), "activation of both towers' MLPs")
    for name in ("mean", "std"):
        about = f"the training's {name} of each channel: fractions, or in 0..255 units"
        group.text(f"--{name}", "R,G,B", about, type=_colour)


def _add_calibration(parser: argparse.ArgumentParser, chosen: str) -> None:
    group = Options(
        parser,
        _METHOD,
        "The options are the chosen method's: --calibration NAME --help shows them. SC-CLIP's defaults are the paper's "
        "for ViT-B/16 and ViT-L/14; other depths are extrapolated from ViT-L/14.",
    )
    titles = "; ".join(f"{method.name}: {method.title}" for method in METHODS.values())
    group.text("--calibration", "NAME", titles, choices=tuple(METHODS), default="scclip")
    for name, item in METHODS[chosen].flags().items():
        _add_flag(group, name, item)


def _add_flag(group: Options, name: str, item: Any) -> None:
    """An option of a method as a flag; absent, it is None and the method's default holds."""
    default, flag = item.default, "--" + name.replace("_", "-")
    text = item.metadata["help"]
    if default is not None and default is not False:
        shown = ":".join(map(str, default)) if isinstance(default, tuple) else default
        text += f" (default: {shown})"
    if default is False:
        group.flag(flag, text, default=None)
    elif item.metadata["choices"]:
        group.choice(flag, item.metadata["choices"], text)
    else:
        metavar, limit = item.metadata["metavar"], item.metadata["limit"] or name
        kind = _layer_range(limit) if metavar == "A:B" else number(limit)
        group.text(flag, metavar, text, type=kind)


def _chosen_method(argv: Sequence[str]) -> str:
    """The method that a command line names, so that the parser has its options; an unknown one is refused later."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--calibration", nargs="?", default="scclip")
    name = peek.parse_known_args(argv)[0].calibration
    return name if name in METHODS else "scclip"


def _misplaced(argv: Sequence[str], chosen: str) -> None:
    """Refuse an option of another method, by name.

    Raises:
        ExportError: says which method has it.
    """
    own = METHODS[chosen].flags()
    owners: dict[str, list[str]] = {}
    for method in METHODS.values():
        for name in method.flags().keys() - own.keys():
            owners.setdefault("--" + name.replace("_", "-"), []).append(method.name)
    for word in argv:
        if (flag := word.split("=")[0]) in owners:
            known = ", ".join("--" + name.replace("_", "-") for name in own) or "none"
            raise ExportError(
                f"{flag} is an option of --calibration {' and '.join(owners[flag])}, not of {chosen} "
                f"(which has: {known})"
            )


def _add_geometry(parser: argparse.ArgumentParser) -> None:
    group = Options(parser, "geometry, in pixels of the resized image")
    group.number("--window", "N", "window side (default: the method's; mostly the model's training size)")
    group.number("--stride", "N", "window stride (default: the method's; mostly half the window)")
    group.number("--short-side", "N", "short side of a resized image (default: the method's; mostly 336)")
    group.flag("--dynamic-grid", "add an encoder for whole images of any size")
    group.text(
        "--image-size",
        "HxW",
        "add an encoder for whole images of this size (multiples of the patch); may be repeated",
        type=size(),
        action="append",
        default=[],
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = Options(parser, "output")
    group.file("--output -o", "NAME.scclip", "the bundle (default: the model's name)")
    group.flag("--force", "replace an existing bundle or repository")
    group.file(
        "--triton-repository",
        "DIR",
        "also write a model repository for NVIDIA Triton, and for OpenVINO Model Server (docs/serving.md)",
    )
    group.text("--repository-precision", "NAME", "of its ONNX encoder (fp32)")
    group.text("--text-precision", "NAME", "of its text encoder: fp32, or int8 of --int8-text (fp32)")
    add_bake_arguments(group)
    group.number("--opset", "N", "ONNX opset, 18 to 23 (20)", default=20)
    group.file(
        "--vocabulary",
        "CLASSES",
        "embed a class file into the bundle as a ready vocabulary; may be repeated",
        action="append",
        default=[],
    )
    group.flag("--debug-outputs", "the encoders also return `outliers`")
    group.file("--verify-images", "DIR", "check parity on these images (default: generated ones)")
    group.text(
        "--json",
        "FILE",
        "print the manifest, with the parity figures, as JSON: to standard output, or to FILE (--force replaces it)",
        nargs="?",
        const="-",
    )


def run(argv: list[str] | None = None) -> int:
    """Run the command; return the exit code: 0, 2 for anything the user can mend, 130 for Ctrl-C."""
    from scclip_rt.cli.guard import guard

    words = sys.argv[1:] if argv is None else argv

    def action() -> int:
        _misplaced(words, _chosen_method(words))
        return _run(build_parser(words).parse_args(words))

    return guard("scclip-export", action)


def main() -> NoReturn:
    """Entry point of the `scclip-export` script."""
    from scclip_rt.cli.guard import leave

    leave(run())


def _run(args: argparse.Namespace) -> int:
    check_json_target(args.json, force=args.force)
    plan = plan_from(args)
    _check_repository(args)
    if args.baked is not None:
        return _run_converters(args, plan)
    engines, progress = requests_from(args), _progress()
    if args.bundle is not None:
        return _run_engines(args, engines, plan, progress)
    if args.checkpoint is not None:
        weight_files(args.checkpoint)  # importing torch takes seconds
    # Read when torch loads. Its idle threads spin else: on two busy cores parity took 16 s of processor time, not 3.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Read when torch first allocates: pages of 2 MB. Else 4 KB each are asked for, a fifth of the processor time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    _import_torch()
    from scclip_export.checkpoint.load_model import Source
    from scclip_export.options import ExportConfig
    from scclip_export.pipeline import export_bundle

    overrides: dict[str, Any] = {
        name: value
        for name in METHODS[args.calibration].flags()
        if (value := getattr(args, name)) is not None
    }
    config = ExportConfig(
        source=Source(
            backbone=args.backbone,
            model=args.model,
            pretrained=args.pretrained,
            checkpoint=args.checkpoint,
            heads=args.heads,
            text_heads=args.text_heads,
            activation=args.activation,
            mean=args.mean,
            std=args.std,
        ),
        output=args.output,
        force=args.force,
        method=args.calibration,
        calibration=overrides,
        window=args.window,
        stride=args.stride,
        short_side=args.short_side,
        opset=args.opset,
        precisions=precisions_from(args),
        int8=int8_from(args),
        int8_text=args.int8_text,
        dynamic_grid=args.dynamic_grid,
        image_sizes=tuple(args.image_size),
        debug_outputs=args.debug_outputs,
        verify_images=args.verify_images,
        vocabularies=tuple(args.vocabulary),
        engines=engines,
        gpu_kernels=wants_kernels(args.gpu_kernels, engines, progress),
        plugins=args.tensorrt_plugins,
    )
    report = export_bundle(config, progress)
    _print_summary(report, args)
    _write_repository(args, report.path)
    plan.run(report.path)
    return 0


def _import_torch() -> None:
    """Import all that an export needs, without timm: open_clip does without it, and nothing here is timm's.

    What is there then is not looked at for garbage, neither now nor later: 5 % of tracing.

    Raises:
        ScclipError: a package is not installed.
    """
    timm = sys.modules.get("timm")
    sys.modules["timm"] = timm  # type: ignore[assignment]  # None: whoever imports it gets an ImportError
    gc.disable()
    try:
        import onnxscript  # noqa: F401  the exporter's own dependency, missing without the extra
        import open_clip  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        from scclip_rt.errors import ScclipError, install

        raise ScclipError(f"scclip-export needs {error.name}: {install('export')}") from error
    else:
        import scclip_export.pipeline  # noqa: F401
    finally:
        gc.enable()
        if timm is None:
            del sys.modules["timm"]
    gc.freeze()


def _check_repository(args: argparse.Namespace) -> None:
    """Refuse a repository's options without one, and precisions that the export beside it doesn't make.

    Raises:
        ExportError: says which option.
    """
    options = {"--repository-precision": args.repository_precision, "--text-precision": args.text_precision}
    given = {option: precision for option, precision in options.items() if precision is not None}
    if given and args.triton_repository is None:
        raise ExportError(f"{' and '.join(given)}: only with --triton-repository DIR")
    if args.bundle is not None:
        return
    made = {
        "--repository-precision": ("fp32", *precisions_from(args)),
        "--text-precision": ("fp32", "int8") if args.int8_text else ("fp32",),
    }
    for option, precision in given.items():
        if precision not in made[option]:
            raise ExportError(f"{option} {precision}: this export makes {', '.join(made[option])}")


def _write_repository(args: argparse.Namespace, bundle: Path) -> None:
    """The model repository, if one is asked for."""
    if args.triton_repository is None:
        return
    from scclip_export.triton_repository import write_repository
    from scclip_rt.bundle.bundle import Bundle

    # The name as it was given: `demo` is the packaged bundle's.
    opened = Bundle.open(str(bundle))
    report = write_repository(
        opened,
        args.triton_repository,
        force=args.force,
        precision=args.repository_precision or "fp32",
        text_precision=args.text_precision or "fp32",
    )
    if args.json != "-":
        print(f"{report.path}: {', '.join(report.models)}, with {report.engine or 'ONNX encoders'}")


def _progress() -> Callable[[str], None]:
    started = time.monotonic()

    def progress(line: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {line}", file=sys.stderr, flush=True)

    return progress


def _given(args: argparse.Namespace, ours: set[str]) -> str:
    """The options that a command line has beside some, for a message."""
    defaults = vars(build_parser().parse_args([]))
    names = [name for name, value in vars(args).items() if name not in ours and value != defaults.get(name)]
    return ", ".join("--" + name.replace("_", "-") for name in names)


def _run_converters(args: argparse.Namespace, plan: Plan) -> int:
    """Convert a baked file that exists."""
    if options := _given(args, {"baked", "to", "to_options", "force"}):
        raise ExportError(f"--baked converts a file that exists; {options} would need another one")
    plan.run_converters(args.baked)
    return 0


def _run_engines(
    args: argparse.Namespace,
    engines: tuple[EngineRequest, ...],
    plan: Plan,
    progress: Callable[[str], None],
) -> int:
    """Add engines to an existing bundle. Whatever asks for an export beside it would be ignored: refuse it."""
    ours = {"bundle", "tensorrt", "tensorrt_rtx", "tensorrt_plugins", "gpu_kernels", "json", *ENGINE_DETAILS}
    if args.triton_repository is not None:
        ours |= {"triton_repository", "repository_precision", "text_precision", "force"}
    if plan.bake is not None:
        ours |= {*BAKE_OPTIONS, "force"}
    if args.json is not None:
        ours.add("force")
    if options := _given(args, ours):
        raise ExportError(
            f"--bundle adds engines to a bundle that exists; {options} would need another export"
        )
    with_kernels = wants_kernels(args.gpu_kernels, engines, progress)
    reports = add_engines(args.bundle, engines, progress) if engines or with_kernels else []
    kernels = add_kernels(args.bundle, progress) if with_kernels else []
    document = {
        "bundle": str(args.bundle),
        "engines": [asdict(report) for report in reports],
        "kernels": kernels,
    }
    _write_json(document, args)
    if args.json != "-":
        for report in reports:
            print(f"{args.bundle}/{report.sidecar}: {report.bytes / 1e6:.0f} MB in {report.seconds:.0f} s")
    _write_repository(args, args.bundle)
    plan.run(args.bundle)
    return 0


def _write_json(document: Any, args: argparse.Namespace) -> None:
    """Print a document, write it to a file, or do nothing, as `--json` says."""
    if args.json is not None:
        write_json(document, args.json, force=args.force)


def _print_summary(report: Any, args: argparse.Namespace) -> None:
    manifest = report.manifest
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    for line in manifest["model"]["assumptions"]:
        print(f"assumed {line}", file=sys.stderr)
    calibration = manifest["calibration"]
    if calibration.get("source") == "extrapolated":
        print("the calibration is extrapolated: the paper has no values for this model", file=sys.stderr)
    _write_json(manifest, args)
    if args.json == "-":
        return
    encoders = len(manifest["encoders"])
    print(f"{report.path}: {encoders} encoder(s), calibration {calibration['method']}, {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()

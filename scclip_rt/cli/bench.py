"""`scclip bench`: how fast bundles, precisions and backends are here, and how near to the machine's limit."""

import argparse
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from scclip_rt.cli.options import PRESET_HELP, add_output_options, check_json_target, tell
from scclip_rt.cli.parsers import Options, add_command
from scclip_rt.errors import OptionError, install
from scclip_rt.files import atomic_path, check_replaceable

if TYPE_CHECKING:
    from scclip_rt.bench import Case

_DESCRIPTION = """\
Measure one image: preparing, encoding, decoding and all of it; images per second, peak memory, and the
encoder's share of the rate at which its library multiplies matrices here.

Each target runs in a process of its own. First a correctness gate: finite, unit length, a batch equal to its
single windows, and the reference (the fp32 file on ONNX Runtime, one window at a time) within the precision's limits.
Nothing that fails it is timed. Then the targets take turns, round by round, and ratios are of the same
round. The image is in memory: reading its file is not timed.

A target is BUNDLE@PART@PART: after the bundle a precision, a backend, `whole` for whole-image encoding,
preset=NAME, stride=PIXELS or short_side=PIXELS.
"""

_EPILOG = """\
examples:
  scclip bench demo
  scclip bench vitb16.scclip@fp32 vitb16.scclip@int8 vitb16.scclip@int8@openvino --queries 20,150
  scclip bench vitb16.scclip vitb16.scclip@whole --image photo.jpg --plot whole.png
  scclip bench vitb16.scclip@preset=exact vitb16.scclip@preset=balanced vitb16.scclip@preset=fast
  scclip bench vitb16.scclip --batch 1,2,6 --json=batch.json --samples
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "bench",
        run,
        "measure speed and memory, compare bundles, precisions and backends",
        _DESCRIPTION,
        _EPILOG,
    )
    options = Options(parser)
    options.text(
        "targets",
        "BUNDLE",
        "bundle directory, or demo for the packaged one, with @PRECISION, @BACKEND or @whole behind it",
        nargs="+",
    )
    _add_workload_options(parser)
    _add_inference_options(parser)
    _add_run_options(parser)
    add_output_options(parser, force=True)


def _add_workload_options(parser: argparse.ArgumentParser) -> None:
    group = Options(parser, "workload")
    group.text("--image", "FILE", "an image (default: the rendered scene in the package)")
    group.text(
        "--image-size", "HxW,…", "resize the image to this first (default: 375x500; a FILE's own size)"
    )
    group.text("--queries", "N,…", "random unit queries, a class each (default: 20)")
    group.text("--vocabulary", "FILE", "instead of --queries, what `scclip embed` wrote")
    group.number("--short-side", "PIXELS", "as for scclip segment")
    group.number("--stride", "PIXELS", "as for scclip segment")
    group.text("--preset", "NAME", PRESET_HELP)
    group.choice("--refine", ["pamr", "none"], "as for scclip segment (default: the bundle's)")
    group.flag("--whole-image", "for all targets: encode the image in one pass")


def _add_inference_options(parser: argparse.ArgumentParser) -> None:
    group = Options(parser, "inference, for targets that don't say otherwise")
    group.text("--backend", "NAME", "as for scclip segment (default: auto)", default="auto")
    group.text("--device", "NAME", "auto, cpu or cuda:N (default: auto)", default="auto")
    group.text("--precision", "NAME", "fp32, int8, … (default: auto)", default="auto")
    group.text("--ort-provider", "NAME", "ONNX Runtime's cpu, cuda, cuda-graphs or tensorrt")
    group.text("--threads", "N,…", "CPU threads (default: the cores)")
    group.text("--batch", "N,…", "most windows encoded at once (default: the backend's)")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    group = Options(parser, "measurement")
    group.number("--warmup", "N", "images first (default: %(default)s)", default=3)
    group.number("--iterations", "N", "rounds (default: %(default)s)", default=20)
    group.number("--stream", "N", "also N images as a folder goes: batched and overlapped", default=0)
    group.flag("--no-limit", "don't measure the limit of matrix products")
    group.flag("--samples", "every single duration in --json")
    group.file("--plot", "FILE", "draw the result (png, svg, pdf); needs matplotlib")


def run(args: argparse.Namespace) -> int:
    """Measure what the command line says."""
    from scclip_rt.bench import Bench, Plan, document, entries, sweep, table
    from scclip_rt.bench.case import DEFAULT_QUERIES, parse_counts, parse_image_size
    from scclip_rt.bench.plot import check_plot, plot

    _check(args)
    if args.plot is not None:
        check_plot(args.plot)
    targets = _targets(args)
    plan = Plan(warmup=args.warmup, iterations=args.iterations, limit=_limit(args))
    groups = sweep(
        targets,
        sizes=[None]
        if args.image_size is None
        else [parse_image_size(text) for text in args.image_size.split(",")],
        queries=[DEFAULT_QUERIES] if args.queries is None else parse_counts("--queries", args.queries),
        batches=[None] if args.batch is None else parse_counts("--batch", args.batch),
        threads=[None] if args.threads is None else parse_counts("--threads", args.threads),
    )
    bench = Bench(plan, progress=_progress)
    results = [bench.run(entries(group)) for group in groups]
    _progress("")
    report = document(results, plan, samples=args.samples)
    tell(report, table(report), args.json, force=args.force)
    if args.plot is not None:
        with atomic_path(args.plot, force=args.force) as temporary:
            plot(report, temporary)
    return 0


def _limit(args: argparse.Namespace) -> bool:
    """Whether the limit of matrix products is measured: it needs the package onnx, and says so where that lacks."""
    if args.no_limit or importlib.util.find_spec("onnx") is not None:
        return not args.no_limit
    print(
        f"note: the machine's limit is left out; it needs onnx: {install('bench')}",
        file=sys.stderr,
    )
    return False


def _check(args: argparse.Namespace) -> None:
    """Refuse what does not go together, before any work.

    Raises:
        OptionError: says which options.
        OutputError: an output exists and there is no --force.
    """
    if args.queries is not None and args.vocabulary is not None:
        raise OptionError(
            "--queries and --vocabulary exclude each other: random queries, or a file of real ones"
        )
    if args.samples and args.json is None:
        raise OptionError("--samples go into --json, which is not given")
    check_json_target(args.json, force=args.force)
    if args.plot is not None:
        check_replaceable(args.plot, force=args.force)


def _targets(args: argparse.Namespace) -> "list[Case]":
    from scclip_rt.bench import Case, Workload, parse_target

    base = Case(
        bundle="",
        backend=args.backend,
        device=args.device,
        precision=args.precision,
        ort_provider=args.ort_provider,
        whole_image=args.whole_image,
        short_side=args.short_side,
        stride=args.stride,
        preset=args.preset,
        refine=args.refine,
        workload=Workload(image=args.image, vocabulary=args.vocabulary, stream=args.stream),
    )
    targets = [parse_target(target, base) for target in args.targets]
    for index, case in enumerate(targets):
        if case in targets[:index]:
            raise OptionError(f"{args.targets[index]} is named twice; targets must differ")
    return targets


def _progress(line: str) -> None:
    """One line on a terminal, overwritten; nothing where nobody watches."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[2K{line}")
        sys.stderr.flush()

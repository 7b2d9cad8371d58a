"""`scclip batch`: folders, Parquet, WebDataset or Lance in, labels in Parquet, tars or PNGs out; resumable."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scclip_rt.cli.options import (
    add_backend_options,
    add_class_options,
    add_image_options,
    add_label_options,
    check_embedding_options,
    check_json_target,
    class_source,
    segmenter_options,
    template_source,
    text_precision,
    write_json,
)
from scclip_rt.cli.parsers import Options, add_command
from scclip_rt.errors import OptionError

if TYPE_CHECKING:
    from scclip_rt.batch.engine import Engine
    from scclip_rt.batch.run import BatchReport, ProgressBar

_DESCRIPTION = """\
Segment very many images, with several processes here or on a Ray cluster. What was interrupted, even by
kill -9, goes on with --resume: no image is done twice, none is lost.

INPUT is a folder (searched through), a glob in quotes, a list of files (.txt, a path a line), or
  .parquet  a column of bytes, or Hugging Face's struct of bytes and path
  .tar      WebDataset: 0001.jpg, 0001.json, …
  .lance    a column of bytes (pip install pylance)
The output has one part for each shard of the input, as
  parquet     key, source, height, width, labels_png, shares, error: a row an image
  webdataset  KEY.labels.png and KEY.json
  png         KEY.labels.png, and rows/*.jsonl with shares and errors
  coco, …     what `scclip segment --format` knows (docs/formats.md), a folder a shard
An image that can't be read is a row with its error; they are counted at the end.
"""

_EPILOG = """\
examples:
  scclip batch photos/ --bundle vitb16.scclip --classes voc.txt --output out
  scclip batch 'shards/*.tar' --bundle vitb16.scclip --classes voc.txt --output out --resume
  scclip batch train/*.parquet --bundle vitb16.scclip --vocabulary voc.safetensors --output out --actors 4
  scclip batch /mnt/tars/ --bundle /mnt/vitb16.scclip --classes voc.txt --output /mnt/out --engine ray --address auto
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "batch",
        run,
        "segment very many images: Parquet, WebDataset, folders; resumable, on Ray if wanted",
        _DESCRIPTION,
        _EPILOG,
    )
    options = Options(parser)
    options.text("inputs", "INPUT", "what to segment", nargs="+")
    options.text("--bundle", "BUNDLE", "bundle directory, or demo for the packaged one", required=True)
    options.file("--output", "DIR", "folder for the results, made if missing", required=True)
    _add_run_options(parser)
    add_class_options(parser, vocabulary=True)
    add_image_options(parser)
    add_label_options(parser)
    add_backend_options(parser)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    group = Options(parser, "run")
    group.flag("--resume", "go on with the run that the output holds")
    group.text(
        "--format",
        "NAME",
        "parquet, webdataset, png, or one of docs/formats.md, a folder a shard (default: parquet)",
        default="parquet",
    )
    group.number(
        "--shard-size",
        "N",
        "images done again at most, by each worker, after a crash (default: 256)",
        default=256,
    )
    group.text(
        "--column", "NAME", "the images' column of Parquet or Lance, or suffix in a tar: jpg (default: found)"
    )
    group.text("--key", "NAME", "column of Parquet or Lance that names the images (default: numbered)")
    group.choice(
        "--engine",
        ["local", "ray"],
        "processes on this machine, or actors of a Ray cluster that sees the same files (default: local)",
        default="local",
    )
    group.text("--address", "ADDRESS", "of the Ray cluster, auto for the one this machine is in "
                       "(default: start Ray on this machine)")  # fmt: skip
    group.number("--actors", "N", "workers (default: one for each four CPUs, or for each GPU)")
    group.number("--gpus-per-actor", "N", "with --engine ray (default: 0)")
    group.text(
        "--json", "FILE", "tell what was done as JSON, on standard output or in FILE", nargs="?", const="-"
    )


def run(args: argparse.Namespace) -> int:
    """Run the job that the command line describes."""
    from scclip_rt.batch.item import InputOptions
    from scclip_rt.batch.run import BatchJob, run_batch

    engine = _engine(args)
    check_embedding_options(args)
    check_json_target(args.json, force=False)
    options = segmenter_options(args)
    for name in ("device", "threads"):  # the engine divides these
        del options[name]
    job = BatchJob(
        inputs=args.inputs,
        bundle=args.bundle,
        output=args.output,
        classes=class_source(args),
        vocabulary=args.vocabulary,
        templates=template_source(args),
        background=args.background,
        background_words=args.background_words,
        text_precision=text_precision(args),
        format=args.format,
        reading=InputOptions(shard_size=args.shard_size, column=args.column, key=args.key),
        resume=args.resume,
        options=options,
        cache=not args.no_cache,
    )
    with _bar() as progress:
        report = run_batch(job, engine, progress=progress)
    if args.json is not None:
        write_json({"schema": "scclip-batch-report/1", **asdict(report)}, args.json, force=False)
    if args.json != "-":
        _print(report, args.output)
    return 2 if report.failed or report.errors == report.images else 0


def _engine(args: argparse.Namespace) -> "Engine":
    devices = () if args.device == "auto" else tuple(args.device.split(","))
    if args.engine == "local":
        if args.address is not None or args.gpus_per_actor is not None:
            raise OptionError("--address and --gpus-per-actor are for --engine ray")
        from scclip_rt.batch.local import LocalEngine

        return LocalEngine(workers=args.actors, devices=devices, threads=args.threads)
    from scclip_rt.integrations.ray import RayEngine

    if len(devices) > 1:
        raise OptionError("--device with several names is for --engine local; Ray gives each actor its GPU")
    return RayEngine(
        address=args.address,
        actors=args.actors,
        gpus_per_actor=args.gpus_per_actor or 0,
        threads=args.threads,
        device=devices[0] if devices else None,
    )


@contextmanager
def _bar() -> "Iterator[ProgressBar]":
    """Images done, per second, and the time that is left; errors so far."""
    from tqdm import tqdm

    # Into a log, a line now and then; on a terminal, ten a second.
    with tqdm(
        unit="image",
        desc="segmenting",
        file=sys.stderr,
        smoothing=0.05,
        mininterval=0.1 if sys.stderr.isatty() else 10,
    ) as bar:

        def progress(done: int, errors: int, total: int) -> None:
            if (
                bar.total != total
            ):  # the first call: what earlier runs did counts for the bar and not for the rate
                bar.reset(total)
                bar.initial = bar.n = bar.last_print_n = done
            if errors:
                bar.set_postfix_str(f"{errors:,} errors", refresh=False)
            bar.update(done - bar.n)

        yield progress


def _print(report: "BatchReport", output: Path) -> None:
    again = f", {report.before:,} of them before" if report.before else ""
    print(f"{report.images:,} images in {output}{again}")
    if report.errors:
        print(f"{report.errors:,} of them could not be read and are rows with an error, such as")
        for example in report.examples:
            print(f"  {example}")
    for reason in report.failed:
        print(f"scclip: error: {reason}; --resume tries this shard again", file=sys.stderr)

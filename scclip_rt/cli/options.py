"""Options that several commands share, and where `--json` goes."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scclip_rt.cli.image_options import add_image_options, add_label_options, image_settings, number
from scclip_rt.errors import OptionError, OutputError
from scclip_rt.files import atomic_path, check_replaceable

if TYPE_CHECKING:
    from scclip_rt.bundle.bundle import Bundle

__all__ = [
    "add_backend_options",
    "add_class_options",
    "add_image_options",
    "add_label_options",
    "add_output_options",
    "check_json_target",
    "class_settings",
    "class_source",
    "number",
    "segmenter_options",
    "template_source",
    "write_json",
]

CLASS_FILE_SUFFIXES = (".txt", ".csv", ".names", ".list")
TEMPLATE_SETS = ("imagenet", "surgery", "photo", "none")


def add_class_options(parser: argparse.ArgumentParser, *, vocabulary: bool) -> None:
    """`--classes` (with `--vocabulary` as the alternative, if wanted) and how names are embedded."""
    group = parser.add_argument_group("classes")
    source = group.add_mutually_exclusive_group(required=not vocabulary)
    source.add_argument(
        "--classes",
        metavar="FILE|NAMES",
        help='the names, synonyms after commas: "sky; grass, lawn; dog"; or a file with a line per class: what exists '
        "as a file, contains a slash, or ends in .txt, .csv, .names or .list is one",
    )
    source.add_argument(
        "--classes-file", metavar="FILE", type=Path, help="a file with a line per class, whatever its name"
    )
    if vocabulary:
        source.add_argument(
            "--vocabulary",
            metavar="FILE",
            type=Path,
            help="embedded classes, written by `scclip embed` "
            "(default without --classes: the bundle's own, if it carries one)",
        )
    group.add_argument(
        "--templates",
        metavar="NAME|FILE",
        help="prompts around each name: imagenet (80 of them), surgery (85), photo (one), none, or a file with one per "
        "line, {} for the name (default: the bundle's, mostly imagenet)",
    )
    group.add_argument(
        "--background",
        metavar="NAME",
        help='the class that takes what no class claims, or "none" (default: the class called "background", '
        "if there is one)",
    )
    group.add_argument(
        "--background-words",
        metavar="NAME",
        help="with --classes: words that find the background, voc, coco-object or clip-es; adds a class "
        '"background" where there is none (docs/classes.md)',
    )
    group.add_argument(
        "--no-cache", action="store_true", help="neither read nor keep class embeddings on disk"
    )


def add_backend_options(parser: argparse.ArgumentParser) -> None:
    """What runs the encoder, where and how."""
    group = parser.add_argument_group("inference")
    group.add_argument(
        "--backend",
        metavar="NAME",
        default="auto",
        help="onnxruntime, openvino, tensorrt, tensorrt-rtx, or auto: what suits the bundle and the machine "
        "(default: auto)",
    )
    group.add_argument(
        "--device",
        metavar="NAME",
        default="auto",
        help="auto, cpu or cuda:N (default: auto, the CPU, or the GPU that an engine of the bundle fits)",
    )
    group.add_argument(
        "--precision",
        metavar="NAME",
        default="auto",
        help="fp32, bf16, int8, … as the bundle and the backend have them; auto: the most accurate that suits the "
        "device; fast: the fastest there is, at the loss that the export measured (default: auto)",
    )
    group.add_argument(
        "--ort-provider",
        metavar="NAME",
        help="ONNX Runtime's provider: cpu, cuda, cuda-graphs or tensorrt (default: as --device). "
        "What is not available is an error, never replaced in silence",
    )
    group.add_argument(
        "--threads",
        metavar="N",
        type=number("threads"),
        help="CPU threads (default: the cores this process may use)",
    )
    group.add_argument(
        "--batch",
        metavar="N",
        type=number("batch"),
        help="most windows encoded at once (default: 8 of 14×14 patches on a CPU)",
    )


def segmenter_options(args: argparse.Namespace) -> dict[str, Any]:
    """What the groups of images, labels and inference say, as options of `Segmenter`."""
    names = ("backend", "device", "precision", "ort_provider", "threads", "batch")
    return {name: getattr(args, name) for name in names} | image_settings(args)


def add_output_options(parser: argparse.ArgumentParser, *, force: bool) -> None:
    """`--json` and, for commands that write files, `--force`."""
    group = parser.add_argument_group("reports and files")
    if force:
        group.add_argument("--force", action="store_true", help="replace outputs that exist")
    group.add_argument(
        "--json",
        metavar="FILE",
        nargs="?",
        const="-",
        help="tell what was done as JSON, on standard output or in FILE (--json=FILE before a positional)",
    )


def class_source(args: argparse.Namespace) -> "str | Path | None":
    """The class names or the file that `--classes` and `--classes-file` name; only a command line guesses which.

    Raises:
        OptionError: both of them.
    """
    if getattr(args, "classes_file", None) is not None:
        return Path(args.classes_file)
    names: str | None = args.classes
    if names is None or ";" in names or "\n" in names or len(names) > 4096:
        return names
    # A path that doesn't exist must not turn into a class of that name.
    is_file = os.sep in names or names.strip().lower().endswith(CLASS_FILE_SUFFIXES) or _exists(names)
    return Path(names) if is_file else names


def template_source(args: argparse.Namespace) -> "str | Path | None":
    """The name of a template set, or the file that `--templates` names; None if it is not given."""
    name: str | None = args.templates
    return name if name is None or name in TEMPLATE_SETS else Path(name)


def class_settings(args: argparse.Namespace, bundle: "Bundle") -> dict[str, Any]:
    """What `Segmenter` is to be told of the options of `add_class_options`.

    Raises:
        OptionError: no classes anywhere, or templates beside a vocabulary that is embedded already.
    """
    classes, templates = class_source(args), template_source(args)
    if classes is None and args.vocabulary is None and not bundle.manifest.vocabularies:
        raise OptionError(
            "no classes: pass --classes FILE|NAMES or --vocabulary FILE "
            f"({bundle.path} carries no vocabulary of its own)",
            field="classes",
        )
    if classes is None and templates is not None:
        raise OptionError(
            "--templates go with --classes: a ready vocabulary is embedded already. Leave them out",
            field="templates",
        )
    return {
        "classes": classes,
        "vocabulary": args.vocabulary,
        "templates": templates,
        "background": args.background,
        "background_words": args.background_words,
        "cache": not args.no_cache,
    }


def _exists(name: str) -> bool:
    try:
        return Path(name).is_file() or Path(name).is_fifo()
    except (OSError, ValueError):  # too long for a name, or a null byte
        return False


def check_json_target(target: str | None, *, force: bool) -> None:
    """Refuse a report file that exists, before any work.

    Raises:
        OutputError: it exists and `force` is not given.
        OptionError: it is an empty name.
    """
    if target == "":
        raise OptionError("--json= names no file; leave out the sign for standard output")
    if target not in (None, "-"):
        check_replaceable(Path(str(target)), force=force)


def write_json(document: dict[str, Any], target: str, *, force: bool) -> None:
    """Write a report to standard output (`-`) or a file, whole; where it can't go, it is kept in a temporary file.

    Raises:
        OutputError: it could not go where it was to; the message says where it is.
    """
    # A file name that is not UTF-8 has lone surrogates, which JSON can escape and UTF-8 can't hold.
    data = (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
    try:
        if target != "-":
            with atomic_path(target, force=force) as temporary:
                temporary.write_bytes(data)
        elif sys.stdout is None:
            raise OutputError("standard output is closed", field="json")
        else:
            sys.stdout.write(data.decode("utf-8"))
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (OutputError, OSError) as error:
        raise _kept(data, error) from error


def _kept(data: bytes, error: Exception) -> OutputError:
    """Hours of work may be in a report: if it can't be written where it was to go, it goes where it can."""
    try:
        descriptor, name = tempfile.mkstemp(prefix="scclip-report-", suffix=".json")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except OSError:
        return OutputError(f"the report is lost: {error}", field="json")
    return OutputError(f"{error}; the report is in {name} instead", field="json")

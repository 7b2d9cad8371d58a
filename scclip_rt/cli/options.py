"""Options that several commands share, and where `--json` goes."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scclip_rt.cli.parsers import Options
from scclip_rt.errors import OptionError, OutputError
from scclip_rt.files import atomic_path, check_replaceable

if TYPE_CHECKING:
    from scclip_rt.bundle.bundle import Bundle

CLASS_FILE_SUFFIXES = (".txt", ".csv", ".names", ".list")
TEMPLATE_SETS = ("imagenet", "surgery", "photo", "none")
PRESET_HELP = (
    "exact, balanced or fast: points between quality and speed (docs/performance.md); or a benchmark that the bundle's "
    "method has settings for (`scclip inspect` lists them); or one of each: voc21,fast. What is given beside it goes "
    "first"
)


def add_class_options(parser: argparse.ArgumentParser, *, vocabulary: bool) -> None:
    """`--classes` (with `--vocabulary` as the alternative, if wanted) and how names are embedded."""
    group = Options(parser, "classes")
    source = group.alternatives(required=not vocabulary)
    source.text(
        "--classes",
        "FILE|NAMES",
        'the names, synonyms after commas: "sky; grass, lawn; dog"; or a file with a line per class: what exists '
        "as a file, contains a slash, or ends in .txt, .csv, .names or .list is one",
    )
    source.file("--classes-file", "FILE", "a file with a line per class, whatever its name")
    if vocabulary:
        source.file(
            "--vocabulary",
            "FILE",
            "embedded classes, written by `scclip embed` "
            "(default without --classes: the bundle's own, if it carries one)",
        )
    add_prompt_options(group, prefix="with --classes: ")
    group.text(
        "--background",
        "NAME",
        'the class that takes what no class claims, or "none" (default: the class called "background", '
        "if there is one)",
    )
    group.text(
        "--background-words",
        "NAME",
        "with --classes: words that find the background, voc, coco-object or clip-es; adds a class "
        '"background" where there is none (docs/classes.md)',
    )
    group.flag("--no-cache", "neither read nor keep class embeddings on disk")


def add_prompt_options(group: Options, *, prefix: str = "") -> None:
    """`--templates` and `--text-precision`; read them with `template_source` and `text_precision`.

    Args:
        group: gets them.
        prefix: what their help begins with.
    """
    group.text(
        "--templates",
        "NAME|FILE",
        f"{prefix}prompts around each name, imagenet (80 of them), surgery (85), photo (one), none, or a file with "
        "one per line, {} for the name (default: the bundle's, mostly imagenet)",
    )
    group.text(
        "--text-precision",
        "NAME",
        f"{prefix}of the text encoder, fp32, or int8 where the bundle was exported with --int8-text "
        "(default: fp32)",
    )


def add_image_options(parser: argparse.ArgumentParser, *, default: str = "the bundle's") -> Options:
    """Sizes, whole images, and the limits on what an image may cost.

    Args:
        parser: of the command.
        default: what an option that is not given takes, in words.
    """
    group = Options(parser, "images")
    group.number("--short-side", "PIXELS", f"resize the short side to this (default: {default})")
    group.number("--stride", "PIXELS", "distance between windows (default: the bundle's)")
    group.either(
        "--whole-image",
        "encode the image in one pass; the bundle must have been exported with --dynamic-grid or --image-size",
    )
    group.number("--max-pixels", "N", "refuse larger images (default: 128 million)")
    group.number("--max-windows", "N", "refuse images of more windows (default: 1024)")
    group.number(
        "--max-memory",
        "MB",
        "refuse images that would take more memory than this (default: four fifths of what is free)",
    )
    return group


def add_label_options(parser: argparse.ArgumentParser, *, default: str = "the bundle's") -> Options:
    """From features to labels; `default` as for `add_image_options`."""
    group = Options(parser, "labels")
    group.text("--preset", "NAME", PRESET_HELP)
    group.number("--logit-scale", "X", f"factor on cosines before the softmax (default: {default})")
    group.number(
        "--prob-threshold",
        "P",
        f"pixels of lower probability become background, or unlabelled (default: {default})",
    )
    group.number(
        "--area-threshold",
        "SHARE",
        f"drop classes of at most this share of the foreground; 0 is off (default: {default})",
    )
    group.number(
        "--class-threshold",
        "P",
        "drop classes whose best pixel in the image has a lower probability: names that the image doesn't show "
        "(default: 0, none)",
    )
    group.choice(
        "--refine",
        ["pamr", "none"],
        "follow the image's edges more closely, at some cost (default: the bundle's, mostly none)",
    )
    return group


def image_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What `Segmenter` is to be told of both groups; an option that was not given is not in it."""
    settings: dict[str, Any] = {
        name: value
        for name in (
            "short_side",
            "stride",
            "preset",
            "max_pixels",
            "max_windows",
            "logit_scale",
            "prob_threshold",
            "area_threshold",
            "class_threshold",
            "refine",
        )
        if (value := getattr(args, name)) is not None
    }
    if args.max_memory is not None:
        settings["max_memory"] = args.max_memory * 1_000_000
    return settings | {"whole_image": args.whole_image}


def add_backend_options(parser: argparse.ArgumentParser) -> None:
    """What runs the encoder, where and how."""
    group = Options(parser, "inference")
    group.text(
        "--backend",
        "NAME",
        "onnxruntime, openvino, tensorrt, tensorrt-rtx, or auto: what suits the bundle and the machine "
        "(default: auto)",
        default="auto",
    )
    group.text(
        "--device",
        "NAME",
        "auto, cpu or cuda:N (default: auto, the CPU, or the GPU that an engine of the bundle fits)",
        default="auto",
    )
    group.text(
        "--precision",
        "NAME",
        "fp32, bf16, int8, … as the bundle and the backend have them; auto: the most accurate that suits the "
        "device; fast: the fastest there is, at the loss that the export measured (default: auto)",
        default="auto",
    )
    group.text(
        "--ort-provider",
        "NAME",
        "ONNX Runtime's provider: cpu, cuda, cuda-graphs or tensorrt (default: as --device). "
        "What is not available is an error, never replaced in silence",
    )
    group.number("--threads", "N", "CPU threads (default: the cores this process may use)")
    group.number("--batch", "N", "most windows encoded at once (default: 8 of 14×14 patches on a CPU)")


def segmenter_options(args: argparse.Namespace) -> dict[str, Any]:
    """What the groups of images, labels and inference say, as options of `Segmenter`."""
    return backend_settings(args) | image_settings(args)


def backend_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the options of `add_backend_options` say, by the names that `Segmenter` has for them."""
    names = ("backend", "device", "precision", "ort_provider", "threads", "batch")
    return {name: getattr(args, name) for name in names}


def add_output_options(parser: argparse.ArgumentParser, *, force: bool) -> None:
    """`--json` and, for commands that write files, `--force`."""
    group = Options(parser, "reports and files")
    if force:
        group.flag("--force", "replace outputs that exist")
    group.text(
        "--json",
        "FILE",
        "tell what was done as JSON, on standard output or in FILE (--json=FILE before a positional)",
        nargs="?",
        const="-",
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
        OptionError: no classes anywhere, or how to embed them beside a vocabulary that is embedded already.
    """
    classes = class_source(args)
    if classes is None and args.vocabulary is None and not bundle.manifest.vocabularies:
        raise OptionError(
            "no classes: pass --classes FILE|NAMES or --vocabulary FILE "
            f"({bundle.path} carries no vocabulary of its own)",
            field="classes",
        )
    check_embedding_options(args)
    return {
        "classes": classes,
        "vocabulary": args.vocabulary,
        "templates": template_source(args),
        "background": args.background,
        "background_words": args.background_words,
        "text_precision": text_precision(args),
        "cache": not args.no_cache,
    }


def text_precision(args: argparse.Namespace) -> str:
    """Of the text encoder: `--text-precision` has no default, so that one beside a ready vocabulary shows."""
    return args.text_precision or "fp32"


def check_embedding_options(args: argparse.Namespace) -> None:
    """Refuse how to embed names where `--classes` names none.

    Raises:
        OptionError: `--templates` or `--text-precision` beside a vocabulary that is embedded already.
    """
    if class_source(args) is not None:
        return
    if args.templates is not None:
        raise OptionError(
            "--templates go with --classes: a ready vocabulary is embedded already. Leave them out",
            field="templates",
        )
    if args.text_precision is not None:
        raise OptionError(
            "--text-precision goes with --classes: a ready vocabulary is embedded already. Leave it out",
            field="text_precision",
        )


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


def tell(document: dict[str, Any], text: str, target: str | None, *, force: bool) -> None:
    """Write a report where `--json` says, if anywhere, and print its text unless standard output has the report.

    Raises:
        OutputError: as `write_json`.
    """
    if target is not None:
        write_json(document, target, force=force)
    if target != "-":
        print(text)


def _kept(data: bytes, error: Exception) -> OutputError:
    """Hours of work may be in a report: if it can't be written where it was to go, it goes where it can."""
    try:
        descriptor, name = tempfile.mkstemp(prefix="scclip-report-", suffix=".json")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except OSError:
        return OutputError(f"the report is lost: {error}", field="json")
    return OutputError(f"{error}; the report is in {name} instead", field="json")

"""`scclip vocabulary`: what is wrong with a class list, from its words and from images without labels."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scclip_rt.cli.notes import tell_names_that_demo_does_not_know
from scclip_rt.cli.options import (
    add_backend_options,
    add_class_options,
    add_output_options,
    backend_settings,
    check_json_target,
    class_settings,
    tell,
)
from scclip_rt.cli.parsers import Options, add_bundle, add_command
from scclip_rt.errors import OptionError, VocabularyError, printable
from scclip_rt.files import atomic_path, check_replaceable
from scclip_rt.vocabulary.classes import EMPTY_TEXT, parse_classes, shorten

if TYPE_CHECKING:
    from scclip_rt.evaluation.class_advice import Advice, Pair
    from scclip_rt.evaluation.class_use import ClassUse
    from scclip_rt.segmenter import Segmenter
    from scclip_rt.vocabulary.file import Vocabulary

_DESCRIPTION = """\
Look at a class list before it labels anything. The words alone tell which classes nearly mean the same; images, which
need no labels, tell which classes are never picked and which are mixed up.
"""

_INSPECT = """\
Show the nearest classes by the cosine of their names and, with --images, for each class its share of the pixels, the
images in which it is picked and its best probability, and the pairs that contest the same patches.
"""

_SUGGEST = """\
Suggest changes: classes to merge, whose names are near and (with --images) which the images mix up, and classes to
leave out, which no image picks. --output writes the changed list, for you to read before you use it.
"""

_EPILOG = """\
examples:
  scclip vocabulary inspect vitb16.scclip --classes classes.txt
  scclip vocabulary suggest vitb16.scclip --classes classes.txt --images photos/ --output better.txt
"""

_SHOWN = 10
"""Pairs in the table."""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "vocabulary",
        help="find near-duplicate, unused and mixed up classes",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, short, text, action in (
        ("inspect", "show near-duplicates, and what images pick and mix up", _INSPECT, run_inspect),
        ("suggest", "suggest classes to merge and to leave out", _SUGGEST, run_suggest),
    ):
        made = add_command(actions, name, action, short, text, _EPILOG)
        add_bundle(made)
        add_class_options(made, vocabulary=True)
        group = Options(made, "what to look at")
        group.file("--images", "PATH", "images or folders", nargs="+")
        group.number("--limit", "N", "only the first N images")
        group.number(
            "--near",
            "COSINE",
            "names from this cosine on count as near-duplicates (default: %(default)s)",
            default=0.9,
        )
        if action is run_suggest:
            group.file("--output -o", "FILE.txt", "write the changed class list")
        add_backend_options(made)
        add_output_options(made, force=True)


def run_inspect(args: argparse.Namespace) -> int:
    """Show what the words and the images say."""
    check_json_target(args.json, force=args.force)
    segmenter, use, pairs = _look(args)
    document = {
        "schema": "scclip-vocabulary-inspect/1",
        **_document(segmenter, use),
        "near": args.near,
        "pairs": [_pair(pair, segmenter.vocabulary) for pair in _worth_showing(pairs, args.near)],
    }
    lines = map(printable, _inspection(segmenter.vocabulary, use, pairs, args.near))
    tell(document, "\n".join(lines), args.json, force=args.force)
    return 0


def run_suggest(args: argparse.Namespace) -> int:
    """Tell what to change, and write the changed list."""
    from scclip_rt.evaluation.class_advice import advise

    check_json_target(args.json, force=args.force)
    if args.output is not None:
        check_replaceable(args.output, force=args.force)
    segmenter, use, pairs = _look(args)
    vocabulary = segmenter.vocabulary
    advice = advise(vocabulary, pairs, use, near=args.near)
    if args.output is not None:
        with atomic_path(args.output, force=args.force) as temporary:
            temporary.write_text(_class_file(advice, vocabulary), "utf-8")
            _check_class_file(temporary, advice)
    document = {
        "schema": "scclip-vocabulary-suggest/1",
        **_document(segmenter, use),
        "near": args.near,
        "merge": [_pair(pair, vocabulary) for pair in advice.merged],
        "leave_out": [vocabulary.classes[index] for index in advice.unused],
        "suggested": [list(names) for names in advice.classes],
        "output": None if args.output is None else str(args.output),
    }
    lines = map(printable, _suggestion(vocabulary, use, advice, args.output))
    tell(document, "\n".join(lines), args.json, force=args.force)
    return 0


def _look(args: argparse.Namespace) -> "tuple[Segmenter, ClassUse | None, list[Pair]]":
    if args.limit is not None and args.images is None:
        raise OptionError("--limit goes with --images PATH", field="limit")
    from scclip_rt.bundle.bundle import Bundle
    from scclip_rt.cli.inputs import find_images
    from scclip_rt.evaluation.class_advice import nearest_pairs
    from scclip_rt.evaluation.class_use import class_use
    from scclip_rt.segmenter import Segmenter

    paths = [item.path for item in find_images(args.images or [])][: args.limit]
    bundle = Bundle.open(args.bundle)
    segmenter = Segmenter(bundle, **class_settings(args, bundle), **backend_settings(args), progress=True)
    tell_names_that_demo_does_not_know(bundle, segmenter.vocabulary)
    use = None
    if paths:
        from tqdm import tqdm

        use = class_use(segmenter, tqdm(paths, desc="looking at images", unit="image"))
    return segmenter, use, nearest_pairs(segmenter.vocabulary, use)


def _worth_showing(pairs: "list[Pair]", near: float) -> "list[Pair]":
    """The nearest pairs and those that images mix up most, near-duplicates all of them."""
    mixed = sorted((pair for pair in pairs if pair.mixed), key=lambda pair: -(pair.mixed or 0.0))[:_SHOWN]
    return [
        pair for place, pair in enumerate(pairs) if place < _SHOWN or pair.cosine >= near or pair in mixed
    ]


def _inspection(
    vocabulary: "Vocabulary", use: "ClassUse | None", pairs: "list[Pair]", near: float
) -> Iterator[str]:
    yield f"{len(vocabulary)} classes, {len(vocabulary.queries)} names, templates: {vocabulary.templates}"
    if use is not None:
        yield ""
        yield from _use_table(vocabulary, use)
    yield ""
    yield f"  {'nearest classes':<44} {'cosine':>7}" + (f" {'contested':>10}" if use is not None else "")
    for pair in _worth_showing(pairs, near):
        mixed = "" if pair.mixed is None else f" {100 * pair.mixed:8.1f} %"
        note = "  near-duplicate" if pair.cosine >= near else ""
        yield f"  {_both(pair, vocabulary):<44} {pair.cosine:7.3f}{mixed}{note}"


def _use_table(vocabulary: "Vocabulary", use: "ClassUse") -> Iterator[str]:
    yield f"  {'class':<28} {'pixels':>8} {'images':>7} {'best':>6}"
    for index in (-use.shares).argsort(kind="stable"):
        never = "  never picked" if use.seen[index] == 0 else ""
        yield (
            f"  {shorten(vocabulary.classes[index], 28):<28} {100 * use.shares[index]:6.2f} % "
            f"{int(use.seen[index]):7} {float(use.best[index]):6.3f}{never}"
        )
    yield (
        f"{use.images} images; {100 * use.unsure:.1f} % of the pixels have a probability below one half, "
        f"{100 * use.unlabelled:.1f} % no class"
    )


def _suggestion(
    vocabulary: "Vocabulary", use: "ClassUse | None", advice: "Advice", output: Path | None
) -> Iterator[str]:
    for pair in advice.merged:
        first, second = vocabulary.classes[pair.first], vocabulary.classes[pair.second]
        mixed = (
            ""
            if pair.mixed is None
            else f", and {100 * pair.mixed:.0f} % of the rarer one's patches contested"
        )
        yield (
            f"merge {shorten(second)!r} into {shorten(first)!r}: {shorten(pair.names[0])!r} and "
            f"{shorten(pair.names[1])!r} have cosine {pair.cosine:.3f}{mixed}"
        )
    for index in advice.unused:
        best = "" if use is None else f"; its best probability is {float(use.best[index]):.3f}"
        images = 0 if use is None else use.images
        yield f"leave out {shorten(vocabulary.classes[index])!r}: none of {images} images picks it{best}"
    if not advice.merged and not advice.unused:
        yield "nothing to change"
    kept = f"{len(advice.classes)} of {len(vocabulary)} classes are left"
    yield f"{kept}: {output}" if output is not None else kept


def _class_file(advice: "Advice", vocabulary: "Vocabulary") -> str:
    """A class list as `--classes` reads it; a comment names the background where it needs `--background`."""
    lines = [", ".join(names) for names in advice.classes if names != EMPTY_TEXT]
    background = None if advice.background is None else advice.classes[advice.background]
    if background is not None and background != EMPTY_TEXT and background[0].lower() != "background":
        lines.insert(0, f"# --background {background[0]!r}")
    head = f"# suggested from {len(vocabulary)} classes by scclip vocabulary suggest"
    unused = [f"# no image picked: {vocabulary.classes[index]}" for index in advice.unused]
    return "\n".join([head, *lines, *unused]) + "\n"


def _check_class_file(path: Path, advice: "Advice") -> None:
    """Refuse a list that would be read as another one: a class file has no way to write some names.

    Raises:
        OptionError: such as one with a comma inside, which a list of lists in Python may have.
    """
    wanted = tuple(names for names in advice.classes if names != EMPTY_TEXT)
    try:
        found = parse_classes(path)
    except VocabularyError:
        found = ()
    if found != wanted:
        raise OptionError(
            "--output can't hold these names: in a class file commas and semicolons separate, and # begins a comment. "
            "Leave it out; the report (--json) has the suggested list",
            field="output",
        )


def _document(segmenter: "Segmenter", use: "ClassUse | None") -> dict[str, Any]:
    vocabulary = segmenter.vocabulary
    rows: list[dict[str, Any]] = [{"name": name} for name in vocabulary.classes]
    if use is not None:
        for index, row in enumerate(rows):
            row |= {
                "share": round(float(use.shares[index]), 6),
                "images": int(use.seen[index]),
                "best": round(float(use.best[index]), 6),
            }
    return {
        "bundle": {"path": str(segmenter.bundle.path), "name": segmenter.bundle.name},
        "images": 0 if use is None else use.images,
        "unsure": None if use is None else round(use.unsure, 6),
        "classes": rows,
    }


def _pair(pair: "Pair", vocabulary: "Vocabulary") -> dict[str, Any]:
    return {
        "classes": [vocabulary.classes[pair.first], vocabulary.classes[pair.second]],
        "names": list(pair.names),
        "cosine": round(pair.cosine, 6),
        "contested": None if pair.mixed is None else round(pair.mixed, 6),
    }


def _both(pair: "Pair", vocabulary: "Vocabulary") -> str:
    def shown(index: int, name: str) -> str:
        owner = vocabulary.classes[index]
        return shorten(name, 20) if name == owner else f"{shorten(name, 20)} ({shorten(owner, 12)})"

    return f"{shown(pair.first, pair.names[0])} – {shown(pair.second, pair.names[1])}"

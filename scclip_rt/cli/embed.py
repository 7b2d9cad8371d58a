"""`scclip embed`: class names in, a vocabulary file out."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scclip_rt.cli.notes import tell_names_that_demo_does_not_know
from scclip_rt.cli.options import (
    add_class_options,
    add_output_options,
    check_json_target,
    class_source,
    tell,
    template_source,
    text_precision,
)
from scclip_rt.cli.parsers import Options, add_bundle, add_command
from scclip_rt.errors import OptionError
from scclip_rt.files import check_replaceable

if TYPE_CHECKING:
    from scclip_rt.bundle.bundle import Bundle
    from scclip_rt.vocabulary.file import Vocabulary

_DESCRIPTION = """\
Embed class names once and keep them in a file. A vocabulary file needs no text encoder and no
time when it is used, and carries the classes, their synonyms and which of them is the background.
It fits every bundle that was exported from the same checkpoint.
"""

_EPILOG = """\
examples:
  scclip embed vitb16.scclip --classes classes.txt --output classes.safetensors
  scclip embed vitb16.scclip --classes "background; person, man; dog" --output three.safetensors
  scclip embed vitb16.scclip --classes classes.txt --template-images photos/ -o chosen.safetensors
  scclip segment vitb16.scclip photos/ --vocabulary classes.safetensors --output out
"""


_TEMPLATE_COUNT = 4


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Register the command."""
    parser = add_command(
        subparsers, "embed", run, "embed class names into a vocabulary file", _DESCRIPTION, _EPILOG
    )
    add_bundle(parser)
    options = Options(parser)
    options.file("--output -o", "FILE.safetensors", "the vocabulary file to write", required=True)
    add_class_options(parser, vocabulary=False)
    group = Options(parser, "choice of templates")
    group.file(
        "--template-images",
        "PATH",
        "unlabelled images or folders: each class keeps only the templates whose predictions on them have the "
        "least entropy (docs/classes.md says what that gained and lost)",
        nargs="+",
    )
    group.number("--template-count", "N", f"templates that a class keeps (default: {_TEMPLATE_COUNT})")
    options.number("--threads", "N", "CPU threads (default: the cores this process may use)")
    add_output_options(parser, force=True)


def run(args: argparse.Namespace) -> int:
    """Embed what the command line names."""
    check_replaceable(args.output, force=args.force)
    check_json_target(args.json, force=args.force)
    if args.template_count is not None and args.template_images is None:
        raise OptionError(
            "--template-count goes with --template-images PATH: images choose the templates",
            field="template_count",
        )

    from scclip_rt.bundle.bundle import Bundle
    from scclip_rt.vocabulary.file import save_vocabulary
    from scclip_rt.vocabulary.open import EmbeddingOptions, resolve_vocabulary

    images = _template_images(args)
    bundle = Bundle.open(args.bundle)
    options = EmbeddingOptions(
        templates=template_source(args),
        cache=not args.no_cache,
        progress=True,
        threads=args.threads,
        background_words=args.background_words,
        text_precision=text_precision(args),
    )
    vocabulary = resolve_vocabulary(bundle, options, classes=class_source(args), background=args.background)
    tell_names_that_demo_does_not_know(bundle, vocabulary)
    if images:
        vocabulary = _chosen(bundle, vocabulary, images, args)
    save_vocabulary(vocabulary, args.output, force=args.force)
    report = {
        "schema": "scclip-embed/1",
        "bundle": {"path": str(bundle.path), "name": bundle.name},
        "output": str(args.output),
        "classes": list(vocabulary.classes),
        "queries": len(vocabulary.queries),
        "background": vocabulary.background,
        "templates": vocabulary.templates,
        "text_model_sha256": vocabulary.text_model_sha256,
    }
    background = vocabulary.background
    named = "none" if background is None else vocabulary.classes[background]
    counts = f"{len(vocabulary.classes)} classes, {len(vocabulary.queries)} queries, background: {named}"
    tell(report, f"{args.output}: {counts}", args.json, force=args.force)
    return 0


def _template_images(args: argparse.Namespace) -> list[Path]:
    from scclip_rt.cli.inputs import find_images

    return [item.path for item in find_images(args.template_images or [])]


def _chosen(
    bundle: "Bundle", vocabulary: "Vocabulary", images: list[Path], args: argparse.Namespace
) -> "Vocabulary":
    """The vocabulary with each class's own templates."""
    from tqdm import tqdm

    from scclip_rt.evaluation.class_use import check_probabilities
    from scclip_rt.evaluation.template_choice import choose_templates, template_entropies
    from scclip_rt.segmenter import Segmenter
    from scclip_rt.vocabulary.embedding import embed_each_template
    from scclip_rt.vocabulary.open import TextTower
    from scclip_rt.vocabulary.templates import load_templates

    check_probabilities(bundle, "template_images")
    templates = load_templates(template_source(args) or bundle.decoding.templates)
    count = args.template_count or _TEMPLATE_COUNT
    if count > len(templates.patterns):
        raise OptionError(
            f"--template-count {count} is more than the {len(templates.patterns)} templates of "
            f"{templates.name}",
            field="template_count",
        )
    tower = TextTower(bundle, precision=text_precision(args), threads=args.threads)
    single = embed_each_template(
        vocabulary.queries,
        tower.prompts,
        tower.tokenizer,
        templates,
        context_length=bundle.text_encoder.context_length,
        progress=True,
    )
    segmenter = Segmenter(bundle, vocabulary=vocabulary, threads=args.threads)
    entropies = template_entropies(segmenter, single, tqdm(images, desc="choosing templates", unit="image"))
    return choose_templates(vocabulary, single, entropies, count)

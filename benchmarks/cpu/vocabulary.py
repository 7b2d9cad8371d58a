"""What the tools for class lists do, on the demo scenes with distractor classes added.

    python -m benchmarks.cpu.vocabulary [--scenes 300] [--images 60] [--json benchmarks/results/vocabulary.json]

Four lists: the 24 materials; with 20 of their synonyms as classes of their own; with the 20 things of PASCAL VOC, which
no scene shows; with both. Each as it is, and with `--class-threshold`, `--background-words`, `scclip vocabulary
suggest` and `scclip embed --template-images`. Those that look at images look at scenes of another split. mIoU is over
the materials: a pixel given to anything else is wrong. The gate before: the plain list must have the labels of the
packaged vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.harness import Row, parser, write_report
from scclip_rt import Segmenter
from scclip_rt.demo.materials import MATERIALS
from scclip_rt.demo.scenes import CLASSES, TEST_SCENES, test_scene, tuning_scene
from scclip_rt.evaluation.class_advice import advise, nearest_pairs
from scclip_rt.evaluation.class_use import class_use
from scclip_rt.evaluation.datasets.benchmarks import BENCHMARKS
from scclip_rt.evaluation.metrics import ConfusionMatrix
from scclip_rt.evaluation.template_choice import choose_templates, template_entropies
from scclip_rt.vocabulary.embedding import embed_each_template
from scclip_rt.vocabulary.open import TextTower
from scclip_rt.vocabulary.templates import load_templates

CLASS_THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
TEMPLATE_COUNTS = (1, 4, 16)
WRONG = len(CLASSES)
"""What a pixel counts as that is given to no material."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Variant:
    """A class list and what was done about it; `to_material` (C + 1,) maps its labels, the last for none."""

    listing: str
    treatment: str
    segmenter: Segmenter
    to_material: np.ndarray
    matrix: ConfusionMatrix

    @classmethod
    def of(cls, listing: str, treatment: str, segmenter: Segmenter) -> Variant:
        """With an empty confusion matrix."""
        vocabulary = segmenter.vocabulary
        to_material = np.full(len(vocabulary) + 1, WRONG)
        for query, owner in zip(vocabulary.queries, vocabulary.query_class, strict=True):
            # A class is the material by whose name it is found; the background is none.
            if query in CLASSES and owner != vocabulary.background:
                to_material[owner] = CLASSES.index(query)
        return cls(
            listing=listing,
            treatment=treatment,
            segmenter=segmenter,
            to_material=to_material,
            matrix=ConfusionMatrix(len(CLASSES)),
        )


def lists() -> dict[str, list[str]]:
    """Class lists by name."""
    synonyms = [name for material in MATERIALS for name in material.synonyms]
    foreign = [names[0] for names in BENCHMARKS["voc20"].prompts()]
    plain = list(CLASSES)
    return {
        "24 materials": plain,
        f"and {len(synonyms)} synonyms": [*plain, *synonyms],
        f"and {len(foreign)} foreign words": [*plain, *foreign],
        "and both": [*plain, *synonyms, *foreign],
    }


def variants(base: Segmenter, listing: str, names: list[str], images: int) -> Iterator[Variant]:
    """A list as it is, then with each of the tools."""
    plain = base.with_classes(names, background="none")
    yield Variant.of(listing, "as it is", plain)
    for threshold in CLASS_THRESHOLDS:
        strict = plain.with_options(replace(plain.options, class_threshold=threshold))
        yield Variant.of(listing, f"--class-threshold {threshold}", strict)
    worded = Segmenter("demo", classes=names, background_words="voc", encoder=base.backend)
    yield Variant.of(listing, "--background-words voc", worded)
    use = class_use(plain, (tuning_scene(index).image for index in range(images)))
    for text, looked in (("vocabulary suggest", None), ("vocabulary suggest --images", use)):
        advice = advise(plain.vocabulary, nearest_pairs(plain.vocabulary, looked), looked)
        changed = base.with_classes(list(advice.classes), background="none")
        yield Variant.of(listing, text, changed)
    tower = TextTower(base.bundle)
    templates = load_templates(base.bundle.decoding.templates)
    single = embed_each_template(plain.vocabulary.queries, tower.prompts, tower.tokenizer, templates)
    scenes = (tuning_scene(index).image for index in range(images))
    entropies = template_entropies(plain, single, scenes)
    for count in TEMPLATE_COUNTS:
        chosen = choose_templates(plain.vocabulary, single, entropies, count)
        yield Variant.of(listing, f"--template-count {count}", base.with_classes(vocabulary=chosen))


def main() -> None:
    """Parse, measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--scenes", type=int, default=TEST_SCENES, help="held-out scenes (%(default)s)")
    options.add_argument("--images", type=int, default=60, help="unlabelled scenes (%(default)s)")
    args = options.parse_args()
    base = Segmenter("demo")
    made = [
        variant
        for listing, names in lists().items()
        for variant in variants(base, listing, names, args.images)
    ]
    check = test_scene(0).image
    if not np.array_equal(base(check).labels, made[0].segmenter(check).labels):
        sys.exit("error: the plain list has other labels than the packaged vocabulary")
    for index in range(args.scenes):
        scene = test_scene(index)
        encoded = base.encode(scene.image)
        for variant in made:
            labels = variant.segmenter.decode(encoded).labels
            given = variant.to_material[np.minimum(labels, len(variant.to_material) - 1)]
            variant.matrix.update(scene.mask, given, unlabelled=WRONG)
        if index % 25 == 24:
            print(f"{index + 1} scenes", file=sys.stderr, flush=True)
    rows = [row(variant) for variant in made]
    for found in rows:
        print(f"{found['list']:<24} {found['treatment']:<30} {found['classes']:>4} {found['miou']:6.2f}")
    question = "what the tools for class lists do"
    write_report(args.json, question, scenes=args.scenes, images=args.images, rows=rows)


def row(variant: Variant) -> Row:
    """The figures of a variant, in percent."""
    scores = variant.matrix.scores()
    return {
        "list": variant.listing,
        "treatment": variant.treatment,
        "classes": len(variant.segmenter.vocabulary),
        "miou": round(scores.miou, 2),
        "accuracy": round(scores.aacc, 2),
    }


if __name__ == "__main__":
    main()

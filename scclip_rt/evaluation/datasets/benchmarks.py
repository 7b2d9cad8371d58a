"""The eight benchmarks: layout, classes and published settings of each."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from scclip_rt.evaluation.datasets.base import Dataset
from scclip_rt.evaluation.datasets.layouts import Layout
from scclip_rt.evaluation.datasets.masks import MaskRule
from scclip_rt.evaluation.errors import DatasetError
from scclip_rt.evaluation.presets import Preset, published
from scclip_rt.vocabulary.classes import Classes, ClassSource, parse_classes

_VOC = Layout(
    title="PASCAL VOC 2012",
    folders=("", "VOC2012", "VOCdevkit/VOC2012"),
    images="JPEGImages",
    masks="SegmentationClass",
    split="ImageSets/Segmentation/val.txt",
)
_CONTEXT = Layout(
    title="PASCAL Context",
    folders=("", "VOC2010", "VOCdevkit/VOC2010"),
    images="JPEGImages",
    masks="SegmentationClassContext",
    split="ImageSets/SegmentationContext/val.txt",
    hint="mmsegmentation's pascal_context.py makes its masks and lists from trainval_merged.json",
)
_STUFF = Layout(
    title="COCO-Stuff 164k",
    folders=("", "coco_stuff164k"),
    images="images/val2017",
    masks="annotations/val2017",
    mask_suffix="_labelTrainIds.png",
    hint="mmsegmentation's coco_stuff164k.py makes *_labelTrainIds.png from stuffthingmaps_trainval2017.zip",
)
_OBJECT = Layout(
    title="COCO-Object",
    folders=("", "coco_object", "coco_stuff164k"),
    images="images/val2017",
    masks="annotations/val2017",
    mask_suffix="_instanceTrainIds.png",
    hint="`scclip convert-coco-object COCO_STUFF` makes *_instanceTrainIds.png from the masks of COCO-Stuff 164k",
)
_CITYSCAPES = Layout(
    title="Cityscapes",
    folders=("", "cityscapes"),
    images="leftImg8bit/val",
    masks="gtFine/val",
    image_suffix="_leftImg8bit.png",
    mask_suffix="_gtFine_labelTrainIds.png",
    hint="csCreateTrainIdLabelImgs of cityscapesscripts makes *_gtFine_labelTrainIds.png",
)
_ADE = Layout(
    title="ADE20K",
    folders=("", "ADEChallengeData2016", "ade/ADEChallengeData2016"),
    images="images/validation",
    masks="annotations/validation",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: as on the command line; its class list is `classes/NAME.txt`.
        layout: its files.
        num_classes: C, with the background where it counts.
        preset: the published settings.
        background: class 0 is the background and counts.
        reduce_zero_label: label 0 of the masks does not count, and 1 is the first class.
    """

    name: str
    layout: Layout
    num_classes: int
    preset: Preset
    background: bool = False
    reduce_zero_label: bool = False

    def open(self, root: Path, *, classes: ClassSource | None = None, names: Path | None = None) -> Dataset:
        """Find the files.

        Args:
            root: the dataset's folder, or one above it that mmsegmentation's layout has.
            classes: other names for the same classes, in the same order; None takes the list of the package.
            names: a list of images to use instead of the validation split.

        Raises:
            DatasetError: files are missing, or another number of classes.
            VocabularyError: the class list can't be read.
        """
        prompts = self.prompts() if classes is None else parse_classes(classes)
        if len(prompts) != self.num_classes:
            raise DatasetError(
                f"{self.name} has {self.num_classes} classes; {_name(classes)} has {len(prompts)}. "
                "Give a line for each, in the order of the masks' labels"
            )
        display = [synonyms[0] for synonyms in prompts]
        if self.background:
            display[0] = "background"
        rule = MaskRule(num_classes=self.num_classes, reduce_zero_label=self.reduce_zero_label)
        return Dataset(
            name=self.name,
            title=f"{self.layout.title} ({self.num_classes} classes)",
            prompts=prompts,
            classes=tuple(display),
            samples=self.layout.samples(root, rule, names),
            preset=self.preset,
            background=prompts[0][0] if self.background else "none",
        )

    def prompts(self) -> Classes:
        """The names that the package looks for the classes by."""
        listing = resources.files("scclip_rt.evaluation").joinpath("classes", f"{self.name}.txt")
        with resources.as_file(listing) as path:
            return parse_classes(path)


_ALL = (
    Benchmark(
        name="voc21",
        layout=_VOC,
        num_classes=21,
        background=True,
        preset=published(logit_scale=50.0, prob_threshold=(0.15, 0.2), area_threshold=0.1),
    ),
    Benchmark(name="voc20", layout=_VOC, num_classes=20, preset=published(), reduce_zero_label=True),
    Benchmark(
        name="context60",
        layout=_CONTEXT,
        num_classes=60,
        background=True,
        preset=published(prob_threshold=(0.15, 0.15)),
    ),
    Benchmark(name="context59", layout=_CONTEXT, num_classes=59, preset=published(), reduce_zero_label=True),
    Benchmark(
        name="coco-object",
        layout=_OBJECT,
        num_classes=81,
        background=True,
        preset=published(logit_scale=55.0, prob_threshold=(0.35, 0.25)),
    ),
    Benchmark(name="coco-stuff", layout=_STUFF, num_classes=171, preset=published()),
    Benchmark(name="cityscapes", layout=_CITYSCAPES, num_classes=19, preset=published(short_side=560)),
    Benchmark(name="ade20k", layout=_ADE, num_classes=150, preset=published(), reduce_zero_label=True),
)
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}


def _name(source: ClassSource | None) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else "the list of classes"

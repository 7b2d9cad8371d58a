"""What is to be measured: one bundle under one set of options on one workload; and how several differ."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from scclip_rt.backends import BACKENDS
from scclip_rt.bundle.manifest import Precision
from scclip_rt.errors import OptionError
from scclip_rt.image.geometry import MAX_PIXELS
from scclip_rt.limits import in_range, parse_number, parse_size

DEFAULT_SIZE = (375, 500)
"""Height and width of a PASCAL VOC photo."""
DEFAULT_QUERIES = 20
MAX_QUERIES = 65_000
_WHOLE = "whole"
_SIZES = ("stride", "short_side")
_PRECISIONS = (*get_args(Precision), "fast")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One image and one vocabulary: only figures of the same workload are compared.

    Attributes:
        image: a file; None takes the rendered scene that comes with the package.
        image_size: (height, width) the image is resized to first; None keeps a file's own size.
        queries: random unit query vectors, a class each; ignored with a vocabulary.
        vocabulary: a file that `scclip embed` wrote.
        stream: images of the throughput measurement; 0 leaves it out.
    """

    image: str | None = None
    image_size: tuple[int, int] | None = None
    queries: int = DEFAULT_QUERIES
    vocabulary: str | None = None
    stream: int = 0

    def __post_init__(self) -> None:
        _at_least("--queries", self.queries, 1)
        _at_least("--stream", self.stream, 0)
        if self.queries > MAX_QUERIES:
            raise OptionError(
                f"--queries takes at most {MAX_QUERIES:,} (labels are 16 bit); got {self.queries:,}"
            )
        if self.image_size is not None and min(self.image_size) < 1:
            raise OptionError(
                f"--image-size must be at least 1x1; got {self.image_size[0]}x{self.image_size[1]}"
            )

    @property
    def size(self) -> tuple[int, int] | None:
        """The size to resize to; the packaged scene has a default one."""
        return self.image_size or (DEFAULT_SIZE if self.image is None else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A contender and its workload; options are those of `Segmenter`."""

    bundle: str
    backend: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    ort_provider: str | None = None
    threads: int | None = None
    batch: int | None = None
    whole_image: bool = False
    short_side: int | None = None
    stride: int | None = None
    preset: str | None = None
    refine: Literal["pamr", "none"] | None = None
    workload: Workload = field(default_factory=Workload)

    def __post_init__(self) -> None:
        for option, value in (("--threads", self.threads), ("--batch", self.batch)):
            if value is not None:
                _at_least(option, value, 1)

    def options(self) -> dict[str, Any]:
        """Keyword arguments of `Segmenter`; a preset may say that images are encoded whole."""
        return {name: getattr(self, name) for name in OPTIONS} | {"whole_image": self.whole_image or None}


OPTIONS = tuple(option.name for option in fields(Case) if option.name not in ("bundle", "workload"))


def parse_target(target: str, base: Case) -> Case:
    """`BUNDLE@PRECISION@BACKEND@whole`, each part after the bundle optional and in any order, over common options.

    Further parts are `preset=NAME`, `stride=PIXELS` and `short_side=PIXELS`. A path that exists is a bundle as it
    stands, whatever it contains.

    Raises:
        OptionError: an empty bundle, a part that is none of these, or two of a kind.
    """
    name, *parts = [target] if Path(target).exists() else target.split("@")
    if not name:
        raise OptionError(
            f"{target!r} names no bundle; write BUNDLE@PRECISION, for example vitb16.scclip@int8"
        )
    said: dict[str, Any] = {}
    for part in parts:
        option, equals, value = part.partition("=")
        made: tuple[str, Any]
        if part in _PRECISIONS:
            made = "precision", part
        elif part in BACKENDS:
            made = "backend", part
        elif part == _WHOLE:
            made = "whole_image", True
        elif option == "preset" and equals:
            made = option, value
        elif option in _SIZES and equals:
            made = option, parse_number(option, value)
        else:
            known = ", ".join([*_PRECISIONS, *BACKENDS, _WHOLE, "preset=NAME", *(f"{s}=N" for s in _SIZES)])
            raise OptionError(f"{target}: {part!r} after @ is none of {known}, and there is no such file")
        if made[0] in said:
            raise OptionError(f"{target}: {part!r} is the second {made[0]} after @; leave one of them out")
        said[made[0]] = made[1]
    return replace(base, bundle=name, **said)


def sweep(
    targets: Sequence[Case],
    *,
    sizes: Sequence[tuple[int, int] | None] = (None,),
    queries: Sequence[int] = (DEFAULT_QUERIES,),
    batches: Sequence[int | None] = (None,),
    threads: Sequence[int | None] = (None,),
) -> list[list[Case]]:
    """Every combination, grouped by workload.

    Returns:
        For each workload its cases: targets by batches by threads.
    """
    groups = []
    for size, count in itertools.product(sizes, queries):
        group = []
        for target, batch, thread in itertools.product(targets, batches, threads):
            workload = replace(target.workload, image_size=size, queries=count)
            group.append(replace(target, batch=batch, threads=thread, workload=workload))
        groups.append(group)
    return groups


def parse_image_size(text: str) -> tuple[int, int]:
    """`HxW` in pixels, of an image that may be loaded.

    Raises:
        OptionError: another form, or too many pixels.
    """
    height, width = parse_size(text)
    if height * width > MAX_PIXELS:
        raise OptionError(
            f"--image-size must have at most {MAX_PIXELS / 1e6:.0f} million pixels; got {text!r}",
            field="image_size",
        )
    return height, width


def parse_counts(option: str, text: str) -> list[int]:
    """A list of whole numbers, separated by commas.

    Raises:
        OptionError: names the option and what is no number of at least 1.
    """
    counts = []
    for part in text.split(","):
        if re.fullmatch(r"\d{1,9}", part.strip()) is None or int(part) < 1:
            raise OptionError(
                f"{option} takes whole numbers of at least 1, separated by commas; got {text!r}"
            )
        counts.append(int(in_range(option.removeprefix("--"), int(part))))
    return list(dict.fromkeys(counts))


def labels(cases: Sequence[Case]) -> list[str]:
    """A short name for each case: its bundle, and what tells it from the others.

    Returns:
        Names in the order of `cases`, different for different cases.
    """
    varying = [name for name in OPTIONS if len({getattr(case, name) for case in cases}) > 1]
    stems = {case.bundle: Path(case.bundle).name.removesuffix(".scclip") or case.bundle for case in cases}
    if len(set(stems.values())) < len(stems):
        stems = {bundle: bundle for bundle in stems}
    return [" ".join([stems[case.bundle], *_words(case, varying)]) for case in cases]


def _words(case: Case, varying: Sequence[str]) -> list[str]:
    words = []
    for name in (item.name for item in fields(case)):
        value = getattr(case, name)
        if name not in varying:
            continue
        if name == "whole_image":
            words.append(_WHOLE if value else "windows")
        elif name in ("batch", "threads", "short_side", "stride", "preset"):
            words.append(f"{name.replace('_', ' ')} {value or 'auto'}")
        else:
            words.append(str(value))
    return words


def _at_least(option: str, value: int, least: int) -> None:
    if value < least:
        raise OptionError(f"{option} must be at least {least}; got {value}")

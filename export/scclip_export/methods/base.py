"""What a method is to the exporter: options for its parts, and the numbers that its official code decodes with."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # with torch, which the help does without
    from scclip_export.model.encoder import Parts

Benchmark = Mapping[str, object]
"""Settings of one benchmark that differ from the bundle's: members of docs/bundle.md's `benchmarks`."""


def option(
    default: Any, text: str, *, choices: tuple[str, ...] = (), metavar: str = "X", limit: str | None = None
) -> Any:
    """A field of a method's options that is a flag of `scclip-export`, `--field-name`.

    Args:
        default: its value.
        text: its help; the default is added.
        choices: what a text may be.
        metavar: stands for a number in the help.
        limit: a number's entry in `scclip_rt.limits`; None: the field's name.
    """
    return field(
        default=default, metadata={"help": text, "choices": choices, "metavar": metavar, "limit": limit}
    )


def scaled(block: int, layers: int, *, needs: int) -> int:
    """A block of a 12-block model, or the like of it before the last block of a model that is too shallow.

    Args:
        block: index from 0.
        layers: blocks of the model.
        needs: least blocks that a method's numbers fit as they are.
    """
    return block if layers >= needs else min(round(block * layers / 12), layers - 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """How a method's official code prepares and decodes images, for bundle.json (docs/bundle.md).

    Attributes:
        window: side of a window, pixels; None: the model's training size.
        stride: of windows; None: half the window.
        short_side: pixels.
        long_side: pixels.
        whole_image: `nearest` or `floor` multiple of the patch.
        logit_scale: factor on cosines.
        prob_threshold: least probability of a label.
        area_threshold: least share of the foreground, or None.
        maps: `cosine`, or `minmax` where each class's map is stretched to 0..1 over the image.
        class_weighting: `none`, or `surgery`.
        refine: `pamr` where that is on by default.
        templates: the prompt templates of its texts.
        benchmarks: what differs on a benchmark, by its name.
    """

    window: int | None = None
    stride: int | None = None
    short_side: int = 336
    long_side: int = 2048
    whole_image: Literal["nearest", "floor"] = "floor"
    logit_scale: float = 40.0
    prob_threshold: float = 0.0
    area_threshold: float | None = None
    maps: Literal["cosine", "minmax"] = "cosine"
    class_weighting: Literal["none", "surgery"] = "none"
    refine: Literal["pamr"] | None = None
    templates: str = "imagenet"
    benchmarks: Mapping[str, Benchmark] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodOptions:
    """Options of a method; the subclasses' fields are made by `option`."""

    def parts(self, *, layers: int, patch_size: int) -> "Parts":
        """The description that the encoder is built from.

        Args:
            layers: blocks of the model.
            patch_size: pixels.

        Raises:
            ValueError: an option that doesn't fit the model.
        """
        raise NotImplementedError

    def idle(self) -> Mapping[str, str]:
        """Options that change nothing beside the others: field → why, in words."""
        return {}

    def defaults(self, *, layers: int, patch_size: int) -> Defaults:  # noqa: ARG002
        """How images are prepared and decoded unless the user says otherwise."""
        return Defaults()


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method by its name.

    Attributes:
        name: of `--calibration`.
        title: one line for the help: what it does, and where it was published.
        options: the class of its options.
    """

    name: str
    title: str
    options: type[MethodOptions]

    def flags(self) -> dict[str, Any]:
        """The fields that are flags, by name."""
        return {item.name: item for item in fields(self.options) if "help" in item.metadata}

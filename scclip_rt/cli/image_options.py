"""What happens to an image, as options: one set for every command that segments."""

import argparse
from collections.abc import Callable
from typing import Any

from scclip_rt.errors import OptionError
from scclip_rt.limits import parse_number


def number(name: str) -> Callable[[str], int | float]:
    """A `type=` for argparse: the number that `scclip_rt.limits` allows for an option."""

    def parse(text: str) -> int | float:
        try:
            return parse_number(name, text)
        except OptionError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def add_image_options(
    parser: argparse.ArgumentParser, *, default: str = "the bundle's"
) -> "argparse._ArgumentGroup":
    """Sizes, whole images, and the limits on what an image may cost.

    Args:
        parser: of the command.
        default: what an option that is not given takes, in words.
    """
    group = parser.add_argument_group("images")
    group.add_argument(
        "--short-side",
        metavar="PIXELS",
        type=number("short_side"),
        help=f"resize the short side to this (default: {default})",
    )
    group.add_argument(
        "--stride",
        metavar="PIXELS",
        type=number("stride"),
        help="distance between windows (default: the bundle's)",
    )
    group.add_argument(
        "--whole-image",
        action=argparse.BooleanOptionalAction,
        help="encode the image in one pass; the bundle must have been exported with --dynamic-grid or --image-size",
    )
    group.add_argument(
        "--max-pixels",
        metavar="N",
        type=number("max_pixels"),
        help="refuse larger images (default: 128 million)",
    )
    group.add_argument(
        "--max-windows",
        metavar="N",
        type=number("max_windows"),
        help="refuse images of more windows (default: 1024)",
    )
    group.add_argument(
        "--max-memory",
        metavar="MB",
        type=number("max_memory"),
        help="refuse images that would take more memory than this (default: four fifths of what is free)",
    )
    return group


def add_label_options(
    parser: argparse.ArgumentParser, *, default: str = "the bundle's"
) -> "argparse._ArgumentGroup":
    """From features to labels; `default` as for `add_image_options`."""
    group = parser.add_argument_group("labels")
    group.add_argument(
        "--preset",
        metavar="NAME",
        help="the settings that the bundle's method has for a benchmark; `scclip inspect` lists them",
    )
    group.add_argument(
        "--logit-scale",
        metavar="X",
        type=number("logit_scale"),
        help=f"factor on cosines before the softmax (default: {default})",
    )
    group.add_argument(
        "--prob-threshold",
        metavar="P",
        type=number("prob_threshold"),
        help=f"pixels of lower probability become background, or unlabelled (default: {default})",
    )
    group.add_argument(
        "--area-threshold",
        metavar="SHARE",
        type=number("area_threshold"),
        help=f"drop classes of at most this share of the foreground; 0 is off (default: {default})",
    )
    group.add_argument(
        "--class-threshold",
        metavar="P",
        type=number("class_threshold"),
        help="drop classes whose best pixel in the image has a lower probability: names that the image doesn't show "
        "(default: 0, none)",
    )
    group.add_argument(
        "--refine",
        choices=["pamr", "none"],
        help="follow the image's edges more closely, at some cost (default: the bundle's, mostly none)",
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

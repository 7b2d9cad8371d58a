"""Every numeric option at its ends, past them, and at what is no number."""

import argparse
import math

import pytest

from parsers import NO_NUMBERS, numeric_options
from scclip_rt.baking.options import BakeOptions
from scclip_rt.cli import build_parser
from scclip_rt.errors import OptionError
from scclip_rt.limits import LIMITS, in_range, parse_number, parse_size


@pytest.mark.parametrize("name", LIMITS)
def test_the_ends_are_allowed_and_what_lies_past_them_is_not(name: str) -> None:
    limit = LIMITS[name]
    kind = int if limit.whole else float
    for value in (kind(limit.least), kind(limit.most)):
        assert in_range(name, value) == parse_number(name, repr(value)) == value
    step = 1 if limit.whole else 1e-9
    past = [
        kind(limit.least) - step,
        kind(limit.most) * 2,
        -1e6 - 1,
        math.nan,
        math.inf,
        -math.inf,
        1e308,
        10**400,
    ]
    for value in past:
        with pytest.raises(OptionError, match=name) as caught:
            in_range(name, value)
        assert caught.value.field == name
        assert len(str(caught.value)) < 160
        if not isinstance(value, int) or value < 10**300:
            with pytest.raises(OptionError, match=name):
                parse_number(name, repr(value))


@pytest.mark.parametrize("name", LIMITS)
def test_zero_is_allowed_only_where_the_table_says_so(name: str) -> None:
    if LIMITS[name].least > 0:
        with pytest.raises(OptionError):
            in_range(name, 0)
    else:
        assert in_range(name, 0) == 0


@pytest.mark.parametrize("text", ["", "many", "0x10", "1e3", "١٢x", "9" * 5000])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="threads must be a whole number"):
        parse_number("threads", text)


@pytest.mark.parametrize("action", numeric_options(build_parser()), ids=lambda action: action.dest)
def test_no_option_of_a_command_takes_a_number_that_no_table_limits(action: argparse.Action) -> None:
    for text in NO_NUMBERS:
        with pytest.raises(argparse.ArgumentTypeError, match="must be a"):
            action.type(text)  # type: ignore[misc]


def test_a_flag_is_no_number() -> None:
    with pytest.raises(OptionError):
        in_range("threads", True)


def test_sizes_have_one_form_everywhere() -> None:
    assert parse_size("375x500") == parse_size(" 375×500 ") == parse_size("375X500") == (375, 500)
    assert parse_size("512", square=True) == (512, 512)
    assert parse_size("12x34", square=True) == (12, 34)


@pytest.mark.parametrize(
    "text", ["", "512", "1x2x3", "x5", "5x", "-1x5", "1.5x2", "375 x 500", "١x٢", "a" * 500]
)
def test_another_form_is_no_size(text: str) -> None:
    with pytest.raises(OptionError, match="expected HxW in pixels, such as 375x500") as caught:
        parse_size(text)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("text", ["0x5", "5x65537", "1x" + "9" * 400])
def test_a_side_outside_the_table_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="image_side must be a whole number from 1 to 65,536"):
        parse_size(text, square=True)


@pytest.mark.parametrize(
    ("option", "limit"),
    [("batch", "batch"), ("opset", "baked_opset"), ("ir", "ir"), ("resolution", "baked_resolution")],
)
def test_baking_has_the_tables_ranges_in_python_too(option: str, limit: str) -> None:
    kind = int if LIMITS[limit].whole else float
    for value in (LIMITS[limit].least, LIMITS[limit].most):
        assert getattr(BakeOptions(**{option: kind(value)}), option) == value
    for value in (LIMITS[limit].least / 2 - 1, LIMITS[limit].most * 2):
        with pytest.raises(OptionError, match=f"{limit} must be"):
            BakeOptions(**{option: kind(value)})


def test_a_baked_images_sides_have_the_tables_range() -> None:
    assert BakeOptions(size=(1, 65_536)).size == (1, 65_536)
    for size in ((0, 5), (5, 65_537)):
        with pytest.raises(OptionError, match="image_side must be"):
            BakeOptions(size=size)

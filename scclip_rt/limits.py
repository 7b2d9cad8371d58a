"""The range of every numeric option, in one table: command line, `Segmenter` and C++ (cpp/src/options.cpp) agree."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from scclip_rt.errors import OptionError

_BYTES = 1 << 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """`least` to `most`, both allowed; `whole`: integers alone."""

    least: float
    most: float
    whole: bool = True

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} from {self.least:,.15g} to {self.most:,.15g}"


LIMITS: Mapping[str, Range] = MappingProxyType(
    {
        "threads": Range(least=1, most=1024),
        "batch": Range(least=1, most=65536),
        "short_side": Range(least=1, most=1 << 16),
        "stride": Range(least=1, most=1 << 16),
        "window": Range(least=1, most=1 << 16),
        "max_pixels": Range(least=1, most=1 << 40),
        "max_windows": Range(least=1, most=1 << 20),
        "max_memory": Range(least=1, most=_BYTES),
        # From 1e4 on, a difference of cosines becomes 0 or 1 in the softmax; far above, all pixels get the first class.
        "logit_scale": Range(least=1e-6, most=1e4, whole=False),
        "prob_threshold": Range(least=0, most=1, whole=False),
        "area_threshold": Range(least=0, most=1, whole=False),
        "class_threshold": Range(least=0, most=1, whole=False),
        "limit": Range(least=1, most=1 << 40),
        "worst": Range(least=0, most=10_000),
        "ignore_label": Range(least=0, most=65535),
        "warmup": Range(least=0, most=100_000),
        "iterations": Range(least=1, most=1_000_000),
        "stream": Range(least=0, most=1_000_000),
        "queries": Range(least=1, most=65534),
    }
)
"""Option → range, by the name it has in Python."""


def in_range(name: str, value: Any) -> Any:
    """The value, if the table allows it.

    Raises:
        OptionError: outside the range, not a number, or NaN; `field` is the option.
    """
    limit = LIMITS[name]
    number = isinstance(value, int if limit.whole else int | float) and not isinstance(value, bool)
    # An int is compared exactly, whatever its size; NaN compares with nothing.
    if not number or not limit.least <= value <= limit.most:
        shown = (
            repr(value) if not isinstance(value, int) or abs(value) < 10**20 else f"{len(str(value))} digits"
        )
        raise OptionError(f"{name} must be {limit}; got {shown}", field=name)
    return value


def parse_number(name: str, text: str) -> int | float:
    """The number that a text holds, if the table allows it.

    Raises:
        OptionError: as `in_range`.
    """
    limit = LIMITS[name]
    try:
        value: int | float = int(text) if limit.whole else float(text)
    except ValueError:
        raise OptionError(f"{name} must be {limit}; got {text[:40]!r}", field=name) from None
    if isinstance(value, float) and not math.isfinite(value):
        raise OptionError(f"{name} must be {limit}; got {text[:40]!r}", field=name)
    return in_range(name, value)  # type: ignore[no-any-return]

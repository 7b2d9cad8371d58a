"""The range of every numeric option, in one table: command lines, Python and C++ (cpp/src/options.cpp) agree."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from scclip_rt.errors import OptionError

_BYTES = 1 << 50
_COUNT = 1 << 40  # of images and the like: more than anyone has
_SIDE = 1 << 16  # pixels
_BATCH = 65536
_DAY = 86_400.0  # seconds


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
        "batch": Range(least=1, most=_BATCH),
        "short_side": Range(least=1, most=_SIDE),
        "stride": Range(least=1, most=_SIDE),
        "window": Range(least=1, most=_SIDE),
        "image_side": Range(least=1, most=_SIDE),  # of HxW
        "max_pixels": Range(least=1, most=_COUNT),
        "max_windows": Range(least=1, most=1 << 20),
        "max_memory": Range(least=1, most=_BYTES),
        # From 1e4 on, a difference of cosines becomes 0 or 1 in the softmax; far above, all pixels get the first class.
        "logit_scale": Range(least=1e-6, most=1e4, whole=False),
        "prob_threshold": Range(least=0, most=1, whole=False),
        "area_threshold": Range(least=0, most=1, whole=False),
        "class_threshold": Range(least=0, most=1, whole=False),
        # eval and bench
        "limit": Range(least=1, most=_COUNT),
        "worst": Range(least=0, most=10_000),
        "ignore_label": Range(least=0, most=65535),
        "warmup": Range(least=0, most=100_000),
        "iterations": Range(least=1, most=1_000_000),
        "stream": Range(least=0, most=1_000_000),
        "seconds": Range(least=1, most=_DAY, whole=False),
        "near": Range(least=0, most=1, whole=False),
        "template_count": Range(least=1, most=10_000),
        "queries": Range(least=1, most=65534),
        # serve
        "port": Range(least=0, most=65535),
        "grpc_port": Range(least=0, most=65535),
        "workers": Range(least=1, most=1024),
        "grace": Range(least=0, most=_DAY, whole=False),
        "watch": Range(least=0, most=_DAY, whole=False),
        "timeout": Range(least=1e-3, most=_DAY, whole=False),
        "queue": Range(least=1, most=1_000_000),
        "max_bytes": Range(least=1, most=_BYTES),
        "max_classes": Range(least=1, most=1_000_000),
        "embeddings": Range(least=1, most=1024),
        "cache_mb": Range(least=0, most=_BYTES >> 20),
        "cache_bytes": Range(least=0, most=_BYTES),
        "max_vocabularies": Range(least=1, most=1_000_000),
        # batch
        "shard_size": Range(least=1, most=_COUNT),
        "actors": Range(least=1, most=_BATCH),
        "gpus_per_actor": Range(least=0, most=1024, whole=False),
        # Ray Serve
        "num_replicas": Range(least=1, most=_BATCH),
        "num_cpus": Range(least=0, most=1024, whole=False),
        "num_gpus": Range(least=0, most=1024, whole=False),
        # video and rasters; lengths in metres, or in pixels without a CRS
        "every": Range(least=1, most=_COUNT),
        "frames": Range(least=1, most=_COUNT),
        "resolution": Range(least=1e-6, most=1e7, whole=False),
        "min_area": Range(least=0, most=1e15, whole=False),
        "simplify": Range(least=0, most=1e7, whole=False),
        "tile": Range(least=1, most=_SIDE),
        # scclip bake
        "baked_opset": Range(least=17, most=23),  # LayerNormalization came with 17
        "ir": Range(least=8, most=13),
        "baked_resolution": Range(
            least=1e-4, most=1e9, whole=False
        ),  # centimetres, which QGIS's Deepness reads
        # scclip-export
        "heads": Range(least=1, most=1024),
        "text_heads": Range(least=1, most=1024),
        "opset": Range(least=18, most=23),
        "calibration_windows": Range(least=1, most=4096),
        "int8_float_share": Range(least=0, most=1, whole=False),
        "min_batch": Range(least=1, most=_BATCH),
        "opt_batch": Range(least=1, most=_BATCH),
        "max_batch": Range(least=1, most=_BATCH),
        "opt_queries": Range(least=1, most=65534),
        "max_queries": Range(least=1, most=65534),
        "workspace": Range(least=1, most=1 << 24),
        "builder_level": Range(least=0, most=5),
        # the methods' own options
        "pre_layer": Range(least=0, most=1023),
        "post_layer": Range(least=0, most=1023),
        "fusion_layers": Range(least=0, most=1024),
        "cross_blocks": Range(least=0, most=1024),
        "blocks": Range(least=1, most=1024),
        "self_iterations": Range(least=0, most=64),
        "cls_residual": Range(least=-100, most=100, whole=False),
        "class_weight": Range(least=-1e3, most=1e3, whole=False),
        "cross_weight": Range(least=0, most=1e3, whole=False),
        # Above, rounding decides whether a patch is similar to itself.
        "similarity_floor": Range(least=-1, most=0.999, whole=False),
        "outlier_neighbors": Range(least=1, most=_SIDE),
        "outlier_fraction": Range(least=0, most=0.999, whole=False),
        "max_outliers": Range(least=1, most=_SIDE),
        "salience": Range(least=0, most=1e6, whole=False),
        "sigma": Range(least=1e-3, most=1e3, whole=False),
        "temperature": Range(least=1e-3, most=1e3, whole=False),
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


def parse_size(text: str, *, square: bool = False) -> tuple[int, int]:
    """`HxW` in pixels: (height, width).

    Args:
        text: two whole numbers with `x`, `X` or `×` between them.
        square: whether one number alone is a square.

    Raises:
        OptionError: another form, or a side outside the table.
    """
    match = re.fullmatch(
        r"(\d+)[xX×](\d+)" if not square else r"(\d+)(?:[xX×](\d+))?", text.strip(), re.ASCII
    )
    if match is None:
        form = "N or HxW in pixels, such as 512 or 375x500" if square else "HxW in pixels, such as 375x500"
        raise OptionError(f"expected {form}; got {text[:40]!r}", field="image_side")
    height, width = (int(parse_number("image_side", side)) for side in (match[1], match[2] or match[1]))
    return height, width

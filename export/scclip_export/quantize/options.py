"""What int8 is asked to be: the options of `scclip-export --int8`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scclip_export.errors import ExportError
from scclip_export.quantize.ranges import RangeRule
from scclip_rt.limits import in_range

Progress = Callable[[str], None]
Method = Literal["tuned", "smooth", "minmax", "percentile", "entropy"]
# Whether channels are rescaled (SmoothQuant), and how ranges are chosen: compared by benchmarks/cpu/int8.py.
METHODS: Mapping[Method, tuple[bool, RangeRule | Literal["error"]]] = {
    "tuned": (True, "error"),
    "smooth": (True, "minmax"),
    "minmax": (False, "minmax"),
    "percentile": (False, "percentile"),
    "entropy": (False, "entropy"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Options:
    """How an encoder is quantised.

    Attributes:
        method: a key of `METHODS`; `tuned` rescales channels and chooses ranges by the error of each product's output.
        images: a folder of calibration images; None: rendered demo scenes.
        windows: how many windows are looked at.
        keep_float: shell patterns of module names that stay float32, such as `blocks.11.*`.
        error_limit: a product whose output's relative error is larger stays float32, the worst first, …
        float_share: … as long as they are not more than this share of all multiplications.
        sensitivity: also measure what each layer costs when only it is quantised, and print it.
    """

    method: Method = "tuned"
    images: Path | None = None
    windows: int = 48
    keep_float: tuple[str, ...] = ()
    error_limit: float = 0.05
    float_share: float = 0.10
    sensitivity: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ExportError(f"the int8 method must be one of {', '.join(METHODS)}; got {self.method!r}")
        in_range("calibration_windows", self.windows)
        in_range("int8_float_share", self.float_share)

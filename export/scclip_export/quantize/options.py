"""What int8 is asked to be: the options of `scclip-export --int8`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scclip_rt.limits import in_range

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Options:
    """How an encoder is quantised.

    Attributes:
        images: a folder of calibration images; None: rendered demo scenes.
        windows: how many windows are looked at.
        keep_float: shell patterns of module names that stay float32, such as `blocks.11.*`.
        error_limit: a product whose output's relative error is larger stays float32, the worst first, …
        float_share: … as long as they are not more than this share of all multiplications.
        sensitivity: also measure what each layer costs when only it is quantised, and print it.
    """

    images: Path | None = None
    windows: int = 48
    keep_float: tuple[str, ...] = ()
    error_limit: float = 0.05
    float_share: float = 0.10
    sensitivity: bool = False

    def __post_init__(self) -> None:
        in_range("calibration_windows", self.windows)
        in_range("int8_float_share", self.float_share)

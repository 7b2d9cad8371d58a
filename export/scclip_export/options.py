"""What an export is asked for: the options of `scclip-export` as one value."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scclip_export.checkpoint.load_model import Source
from scclip_export.engines import EngineRequest
from scclip_export.errors import ExportError
from scclip_export.methods import METHODS, MethodOptions
from scclip_export.quantize import Int8Options
from scclip_export.quantize.fp8 import MIN_OPSET as FP8_MIN_OPSET
from scclip_rt.limits import in_range

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Everything an export is asked for; None means the model's own value."""

    source: Source
    output: Path | None = None
    force: bool = False
    method: str = "scclip"  # a key of METHODS
    calibration: dict[str, Any] = field(default_factory=dict)  # by field of the method's options
    window: int | None = None
    stride: int | None = None
    short_side: int | None = None
    opset: int = 20
    precisions: tuple[str, ...] = ()  # beside fp32, each a key of `writers.WRITERS`
    int8: Int8Options = field(default_factory=Int8Options)
    int8_text: bool = False
    dynamic_grid: bool = False
    image_sizes: tuple[tuple[int, int], ...] = ()  # (height, width) in pixels
    debug_outputs: bool = False
    verify_images: Path | None = None
    vocabularies: tuple[Path, ...] = ()  # class files to embed into the bundle
    engines: tuple[EngineRequest, ...] = ()  # to build from the finished encoders
    gpu_kernels: bool = False
    plugins: bool | None = None  # encoders with plug-in nodes; None: where measured to be faster in an engine

    def method_options(self, **stored: Any) -> MethodOptions:
        """The options of the method.

        Args:
            stored: what the checkpoint says of SC-CLIP's parameters.

        Raises:
            ExportError: an option that the method doesn't have or that changes nothing, or a value out of range.
        """
        method = METHODS[self.method]
        unknown = self.calibration.keys() - method.flags().keys()
        if unknown:
            known = ", ".join(method.flags()) or "none"
            raise ExportError(
                f"--calibration {self.method} has no option {', '.join(sorted(unknown))}; its options: {known}"
            )
        try:
            extra = {"stored": tuple(stored.items())} if stored and self.method == "scclip" else {}
            options = method.options(**self.calibration, **extra)
        except ValueError as error:
            raise ExportError(str(error)) from error
        for name, why in options.idle().items():
            if name in self.calibration:
                flag = name.replace("_", "-")
                raise ExportError(f"--{flag} changes nothing: {why}. Leave one of them out")
        return options

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ExportError(f"unknown method {self.method!r}; known: {', '.join(METHODS)}")
        in_range("opset", self.opset)
        if "fp8" in self.precisions and self.opset < FP8_MIN_OPSET:
            raise ExportError(
                f"--fp8 needs --opset {FP8_MIN_OPSET} or later, which has float8; got {self.opset}"
            )

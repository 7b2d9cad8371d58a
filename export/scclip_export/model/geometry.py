"""How images become windows, and the pixel statistics that CLIP was trained with."""

from dataclasses import dataclass

# In 0..255 units, as the reference preprocessing states them (METHOD: CLIP's mean and std times 255).
CLIP_MEAN = (122.771, 116.746, 104.094)
CLIP_STD = (68.501, 66.632, 70.323)


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How an image becomes windows, in pixels of the resized image (METHOD §1)."""

    window: int
    stride: int
    short_side: int = 336
    long_side: int = 2048
    pads: bool = False  # windows are padded to whole patches inside the graph

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.window:
            raise ValueError(
                f"--stride must be in 1..window, or pixels between windows are never seen; got stride {self.stride} "
                f"for window {self.window}"
            )
        if not 0 < self.short_side <= self.long_side:
            raise ValueError(f"--short-side must be in 1..{self.long_side}; got {self.short_side}")

    def check(self, patch_size: int) -> None:
        """Raise ValueError unless the window is a multiple of the patch, or padded to one."""
        if self.window % patch_size and not self.pads:
            near = max(self.window // patch_size, 1) * patch_size
            raise ValueError(
                f"--window must be a multiple of the patch ({patch_size} pixels); got {self.window}, "
                f"the nearest below is {near}"
            )

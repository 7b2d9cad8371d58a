"""What an image will take in memory, before it is encoded, and what there is."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scclip_rt.errors import ImageError
from scclip_rt.image.geometry import Tiling

SHARE_OF_FREE = 0.8
_MATRICES = 20
"""Arrays of patches × patches float32 that an encoder holds at its peak, up to 12 heads.

Measured with ONNX Runtime 1.32: 20 at 6,084 patches of 6 heads, 18 at 7,788 patches of 12.
"""
_ACTIVATIONS = 24
"""Arrays of patches × width float32 beside them: block inputs, queries, keys, values, the MLP's four widths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderCost:
    """What the memory of an encoder depends on: heads and width of the model, patches of 4 bytes, windows at once."""

    heads: int
    width: int
    batch: int

    def workspace(self, windows: int, patches: int) -> int:
        """Bytes that encoding so many windows of so many patches takes at its peak, without inputs and outputs."""
        tokens = patches + 1
        matrices = _MATRICES * max(self.heads, 12) // 12
        at_once = min(self.batch, windows)
        return 4 * at_once * tokens * (matrices * tokens + _ACTIVATIONS * self.width)


def image_bytes(height: int, width: int) -> int:
    """Bytes of an image as loaded, by Pillow (four a pixel), with its overlay and its labels."""
    return height * width * (3 + 3 + 4 + 2)


def held_bytes(height: int, width: int, tiling: Tiling, patches: int, embed_dim: int) -> int:
    """Bytes that an image keeps alive from its loading to its labels: pixels, windows and features."""
    windows = len(tiling)
    pixels = 3 * tiling.height * tiling.width + 3 * windows * tiling.window[0] * tiling.window[1]
    return image_bytes(height, width) + pixels + 4 * windows * patches * embed_dim


def check_memory(need: int, limit: int | None, name: str, *, whole: bool) -> None:
    """Refuse an image that would take more than `limit` bytes; None: more than most of what is free.

    Raises:
        ImageError: says how much it takes, how much there is, and the ways out; `field` is `max_memory`.
    """
    if need < 256 << 20 and limit is None:
        return  # asking the system for every photo would cost more than it tells
    free = None if limit is not None else free_memory()
    most = limit if limit is not None else None if free is None else int(SHARE_OF_FREE * free)
    if most is None or need <= most:
        return
    there = (
        f"the limit is {_size(most)}" if limit is not None else f"{_size(most)} of what is free may be used"
    )
    way = (
        "lower --short-side (short_side=) or segment in windows"
        if whole
        else "lower --short-side (short_side=)"
    )
    raise ImageError(
        f"{name} would take about {_size(need)} of memory and {there}: {way}, or raise the limit with --max-memory "
        "(max_memory=)",
        field="max_memory",
    )


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take: the system's, or a container's if it has less; None where unknown."""
    return min([*_cgroup_free(root), *_system_free(root)], default=None)


def _system_free(root: Path) -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024


def _cgroup_free(root: Path) -> Iterator[int]:
    for limit, usage in (
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
            yield max(int((root / limit).read_text("ascii")) - int((root / usage).read_text("ascii")), 0)


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"

"""Settings that no tensor tells: who says what of them, and which value holds.

Heads, activation, normalisation and a few others are in no tensor. The command line, the file's metadata, a
configuration beside it, open_clip's table and the tensors' own shapes each say something. All of it is a `Claim`; two
that differ are an error, because a model with the wrong one runs without a complaint and segments worse.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scclip_export.errors import ExportError
from scclip_export.model.geometry import CLIP_MEAN, CLIP_STD

Value = bool | int | float | str | tuple[float, ...]

# Pixels, of 255: configurations round mean and std differently.
_SAME_PIXELS = 0.01
# The option that tells a setting, for messages.
OPTIONS: Mapping[str, str] = {
    "heads": "--heads N",
    "text_heads": "--text-heads N",
    "activation": "--activation quickgelu|gelu",
    "mean": "--mean R,G,B",
    "std": "--std R,G,B",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What one source says of one setting.

    Attributes:
        setting: a field of `Architecture`, or `mean` or `std` (RGB, in 0..255 units).
        value: what it says.
        source: who says it, in words, without a folder's name: `bundle.json` keeps it.
        firm: False for a default that gives way to whoever knows better.
    """

    setting: str
    value: Value
    source: str
    firm: bool = True


def settle(claims: Iterable[Claim]) -> dict[str, Claim]:
    """Return the claim that holds of each setting: the first firm one, else the first.

    Raises:
        ExportError: two firm claims differ.
    """
    settled: dict[str, Claim] = {}
    conflicts: list[str] = []
    for claim in claims:
        held = settled.get(claim.setting)
        if held is None or (claim.firm and not held.firm):
            settled[claim.setting] = claim
        elif claim.firm and not _same(held.value, claim.value):
            conflicts.append(
                f"{claim.setting.replace('_', ' ')} {_shown(held.value)} ({held.source}) or "
                f"{_shown(claim.value)} ({claim.source})"
            )
    if conflicts:
        raise ExportError(
            f"two sources contradict each other: {'; '.join(conflicts[:4])}. "
            "One of them is not about this model: leave it out or correct it"
        )
    return settled


def pixel_values(values: Sequence[float], *, scale: float = 255.0) -> tuple[float, ...]:
    """Return a mean or std in 0..255 units; CLIP's own as the method states it, which is rounded.

    Args:
        values: three numbers, R, G, B.
        scale: what one unit of them is in pixels.
    """
    pixels = tuple(scale * float(value) for value in values)
    for known in (CLIP_MEAN, CLIP_STD):
        if _same(pixels, known):
            return known
    return pixels


def normalisation_claims(
    mean: Sequence[float], std: Sequence[float], source: str, *, scale: float = 255.0
) -> list[Claim]:
    """Return the claims of a mean and a std.

    Raises:
        ExportError: not three finite numbers each, or a std that is not positive.
    """
    for name, values in (("mean", mean), ("std", std)):
        numbers = isinstance(values, Sequence) and all(
            isinstance(value, int | float) and math.isfinite(value) for value in values
        )
        if not numbers or len(values) != 3 or (name == "std" and min(values) <= 0):
            raise ExportError(f"{source}: {name} must be three numbers (std above 0); got {values!r}")
    return [
        Claim(setting=name, value=pixel_values(values, scale=scale), source=source)
        for name, values in (("mean", mean), ("std", std))
    ]


def _same(first: Value, second: Value) -> bool:
    if isinstance(first, tuple) and isinstance(second, tuple):
        return all(abs(a - b) <= _SAME_PIXELS for a, b in zip(first, second, strict=True))
    return first == second


def _shown(value: Value) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(f"{number:.3f}" for number in value) + ")"
    return str(value)

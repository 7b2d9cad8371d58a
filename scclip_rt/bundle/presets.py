"""Presets: the settings of a benchmark, and a dial between speed and quality.

The dial's points are those of the Pareto front of the demo model (docs/performance.md, benchmarks/cpu/pareto.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType

from scclip_rt.bundle.manifest import BenchmarkSpec, Manifest
from scclip_rt.errors import OptionError, did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class DialPoint:
    """A point of the dial.

    Attributes:
        precision: `auto` or `fast`, as options of that name.
        overlap: whether windows overlap as the bundle says; False puts them side by side, fewer of them.
    """

    precision: str
    overlap: bool


DIAL: Mapping[str, DialPoint] = MappingProxyType(
    {
        "exact": DialPoint(precision="auto", overlap=True),
        "balanced": DialPoint(precision="fast", overlap=True),
        "fast": DialPoint(precision="fast", overlap=False),
    }
)
"""Names that no benchmark of a bundle can have, the most accurate first; libscclip has the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetSpec(BenchmarkSpec):
    """A benchmark's settings with a point of the dial over them; None: nothing."""

    precision: str | None = None


def preset(names: str | None, manifest: Manifest) -> PresetSpec:
    """What a preset stands for.

    Args:
        names: see `Bundle.preset`.
        manifest: of the bundle.

    Raises:
        OptionError: no such name, or two of a kind.
    """
    benchmark, point = split(names)
    known = manifest.benchmarks
    if benchmark is not None and benchmark not in known:
        offered = (
            f"benchmarks {', '.join(sorted(known))}" if known else "no benchmark, as its method has none"
        )
        raise OptionError(
            f"no preset {benchmark!r}{did_you_mean(benchmark, [*DIAL, *known])}; there are {', '.join(DIAL)}, and in "
            f"this bundle {offered}",
            field="preset",
        )
    settings = asdict(known[benchmark]) if benchmark is not None else {}
    if point is not None:
        settings["precision"] = DIAL[point].precision
        if not DIAL[point].overlap:
            settings["stride"] = manifest.preprocessing.window
    return PresetSpec(**settings)


def split(names: str | None) -> tuple[str | None, str | None]:
    """The benchmark and the point of the dial that a preset names.

    Raises:
        OptionError: two of a kind, or an empty name.
    """
    if names is not None and not isinstance(names, str):
        raise OptionError(f"a preset is a name, or two with a comma between; got {names!r}", field="preset")
    words = [] if names is None else [word.strip() for word in names.split(",")]
    points = [word for word in words if word in DIAL]
    benchmarks = [word for word in words if word not in DIAL]
    if len(points) > 1 or len(benchmarks) > 1 or "" in words:
        raise OptionError(
            f"preset {names!r}: name at most one benchmark and at most one of {', '.join(DIAL)}, with a comma between",
            field="preset",
        )
    return next(iter(benchmarks), None), next(iter(points), None)

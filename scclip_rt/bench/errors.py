"""The errors of benchmarks."""

from scclip_rt.errors import ScclipError


class BenchError(ScclipError):
    """A contender that is wrong, or whose process ended: nothing of it is timed."""

"""How many threads this process may run: the one rule for every pool, of encoders, decoding and workers."""

import functools
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from scclip_rt.limits import in_range


def usable_cpus() -> set[int]:
    """Numbers of the CPUs this process may use; all there are where the system doesn't say (macOS, Windows)."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def default_threads() -> int:
    """The physical cores this process may use (its CPU affinity), or a container's quota if that is less."""
    # Two hyper-threads share one set of multipliers: matrix products gain nothing from the second.
    cores = {physical_core(cpu) for cpu in usable_cpus()}
    quota = cpu_quota()
    return max(1, len(cores) if quota is None else min(len(cores), math.ceil(quota)))


def worker_threads(threads: int | None) -> int:
    """The number asked for, else `default_threads`.

    Raises:
        OptionError: outside of what the table of limits allows.
    """
    return default_threads() if threads is None else int(in_range("threads", threads))


@functools.cache
def physical_core(cpu: int) -> str:
    """The core that a CPU number belongs to, by the numbers that share it."""
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return path.read_text("ascii").strip()
    except OSError:
        return str(cpu)


@functools.cache
def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs that a container may use at a time (`docker run --cpus`), which the affinity does not show.

    The least of the process's control group and those above it, of version 2 or 1; None without a limit.
    """
    return min(_quotas(root), default=None)


def _quotas(root: Path) -> Iterator[float]:
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    fields = (line.split(":", 2) for line in lines if line.count(":") > 1)
    groups = [(controllers, path) for _, controllers, path in fields]
    # Inside a container the path may be that of the host, while only the mount's root is there: it is read as well.
    for controllers, path in [*groups, ("", "/"), ("cpu", "/")]:
        if controllers == "":
            yield from _up(root / "sys/fs/cgroup", path, _version_2)
        elif "cpu" in controllers.split(","):
            for mount in ("cpu", "cpu,cpuacct"):
                yield from _up(root / "sys/fs/cgroup" / mount, path, _version_1)


def _up(mount: Path, path: str, read: Callable[[Path], float | None]) -> Iterator[float]:
    parts = [part for part in path.split("/") if part and part != ".."]
    for depth in range(len(parts) + 1):
        quota = read(mount.joinpath(*parts[:depth]))
        if quota is not None:
            yield quota


def _version_2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text("ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _version_1(group: Path) -> float | None:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text("ascii"))
        return None if quota <= 0 else quota / int((group / "cpu.cfs_period_us").read_text("ascii"))
    except (OSError, ValueError, ZeroDivisionError):
        return None

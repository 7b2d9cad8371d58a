"""The processor this process may use: cores, and which narrow arithmetic they have."""

import functools
import math
from pathlib import Path

from scclip_rt.decode.threads import usable_cpus

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "avx_ne_convert"})
"""Instruction sets with bf16 arithmetic that OpenVINO's CPU plugin uses."""
INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Instruction sets that multiply and add int8 in one step."""


def default_threads() -> int:
    """The physical cores this process may use (its CPU affinity), or a container's quota if that is less."""
    # Two hyper-threads share one set of multipliers: matrix products gain nothing from the second.
    cores = {_physical_core(cpu) for cpu in usable_cpus()}
    quota = _cgroup_cpus()
    return max(1, len(cores) if quota is None else min(len(cores), math.ceil(quota)))


def _physical_core(cpu: int) -> str:
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return path.read_text("ascii").strip()
    except OSError:
        return str(cpu)


def _cgroup_cpus() -> float | None:
    """The CPU quota of a container (`docker run --cpus`), which the affinity does not show; cgroup v2."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


@functools.cache
def processor_flags() -> frozenset[str]:
    """The kernel's names of the instruction sets (`avx2`, `avx512_vnni`, `amx_bf16`, …); empty where unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return frozenset(value.split())
    return frozenset()

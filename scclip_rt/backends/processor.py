"""The processor this process may use: which narrow arithmetic it has."""

import functools
from pathlib import Path

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "avx_ne_convert"})
"""Instruction sets with bf16 arithmetic that OpenVINO's CPU plugin uses."""
INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Instruction sets that multiply and add int8 in one step."""


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

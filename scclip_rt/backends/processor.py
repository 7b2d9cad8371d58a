"""The processor this process may use: which narrow arithmetic it has."""

import functools
import os
from collections.abc import Set as AbstractSet
from pathlib import Path

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "avx_ne_convert"})
"""Instruction sets with bf16 arithmetic that OpenVINO's CPU plugin uses."""
_GAINS = frozenset({"amx_bf16"})
_AMD_GAINS = _GAINS | {"avx512_bf16"}
INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Instruction sets that multiply and add int8 in one step."""
ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Variables that hold oneDNN, and with it OpenVINO, to older instructions."""
_ISAS_WITHOUT_BF16 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"})


def processor_flags() -> frozenset[str]:
    """The kernel's names of the instruction sets (`avx2`, `avx512_vnni`, `amx_bf16`, …); empty where unknown.

    Those with bf16 are left out where `ISA_LIMITS` keep oneDNN from them: OpenVINO says that it has bf16 even then, and
    can't compile a graph in it.
    """
    fields = _cpuinfo()
    flags = frozenset(fields.get("flags", fields.get("Features", "")).split())
    held = any(os.environ.get(name, "").upper() in _ISAS_WITHOUT_BF16 for name in ISA_LIMITS)
    return flags - BF16_FLAGS if held else flags


def processor_vendor() -> str:
    """`AuthenticAMD`, `GenuineIntel`, …; empty where the kernel doesn't say."""
    return _cpuinfo().get("vendor_id", "")


def gaining_bf16(flags: AbstractSet[str], vendor: str) -> frozenset[str]:
    """Those of the instruction sets that make a model faster in bf16 than in float32.

    AMX's do, and AVX-512's on AMD: on an Intel processor with AVX-512's alone OpenVINO's bf16 was 0.64 times as fast
    as float32 (docs/backends.md). avx_ne_convert only converts, and was not measured.

    Args:
        flags: the kernel's names of instruction sets.
        vendor: as `processor_vendor` gives it.
    """
    return frozenset(flags & (_AMD_GAINS if vendor == "AuthenticAMD" else _GAINS))


def processor_identity() -> str:
    """Text that is another for another kind of processor: its names and its instruction sets.

    libscclip makes the same text (cpp/src/backends/processor.cpp).
    """
    fields = _cpuinfo()
    names = [fields.get(key, "") for key in ("model name", "cpu family", "model", "CPU part")]
    return "\n".join([*names, *sorted(processor_flags())])


@functools.cache
def _cpuinfo() -> dict[str, str]:
    """What the kernel says of the first processor; empty where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields

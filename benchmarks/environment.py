"""What a row of results was measured on."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

_PACKAGES = (
    "scclip-rt",
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "torch",
    "open_clip_torch",
    "openvino",
)


def environment() -> dict[str, object]:
    """Return processor, cores, library versions and git revision."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions,
        "git_revision": _git_revision(),
    }


def _processor() -> str:
    fields = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    wide = [
        flag
        for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
        if flag in fields.get("flags", "")
    ]
    name = fields.get("model name", platform.machine())
    return f"{name}, family {fields.get('cpu family', '?')} ({' '.join(wide)})"


def _git_revision() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    return done.stdout.strip() or "unknown"

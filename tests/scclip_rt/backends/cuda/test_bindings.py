"""The CUDA layer through the real cuda.bindings: how arguments are packed, structures laid out, results returned.

A libcuda of a few hundred lines of C on host memory (tests/stand_ins/libcuda/stub.c) is what the bindings load, in a
process of its own. What the fake of the other tests believes about the bindings is tried here.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

STUB = Path(__file__).parents[3] / "stand_ins/libcuda"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the stand-in is a libcuda.so.1")
def test_the_real_bindings_carry_out_what_the_runtime_asks(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for the stand-in of libcuda")
    library = tmp_path / "libcuda.so.1"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Wno-pedantic", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([compiler, *flags, "-o", library, STUB / "stub.c"], check=True)
    run = subprocess.run(
        [sys.executable, STUB / "session.py", library],
        capture_output=True,
        text=True,
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)},
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    assert run.stdout.strip() == "all of it"

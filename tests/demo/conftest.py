import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "demo"
MODULES = ("checkpoint", "data", "evaluate", "model", "muon", "plot", "train", "tune")


@pytest.fixture(scope="session")
def demo():
    """The scripts of benchmarks/demo, which are no package, as attributes; forgotten again afterwards."""
    pytest.importorskip("torch")
    pytest.importorskip("open_clip")
    sys.path.insert(0, str(BENCHMARK))
    try:
        yield SimpleNamespace(folder=BENCHMARK, **{name: importlib.import_module(name) for name in MODULES})
    finally:
        sys.path.remove(str(BENCHMARK))
        for name in MODULES:
            sys.modules.pop(name, None)

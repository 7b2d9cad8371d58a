import importlib
from types import SimpleNamespace

import pytest

MODULES = ("checkpoint", "data", "evaluate", "model", "muon", "train", "tune")


@pytest.fixture(scope="session")
def demo():
    """The scripts of benchmarks/demo as attributes."""
    pytest.importorskip("torch")
    pytest.importorskip("open_clip")
    return SimpleNamespace(**{name: importlib.import_module(f"benchmarks.demo.{name}") for name in MODULES})

"""The packaged demo model in int8, made from its float32 file: no tracing."""

from pathlib import Path

import numpy as np
import pytest

from scclip_export.model.geometry import Geometry
from scclip_export.quantize import Int8Options, Plan, calibration_windows, quantize_encoder

DEMO = Path(__file__).parents[3] / "scclip_rt" / "demo.scclip" / "encoder.fp32.onnx"


@pytest.fixture(scope="session")
def demo_windows() -> np.ndarray:
    """Twelve calibration windows, uint8 (12, 224, 224, 3)."""
    return calibration_windows(None, Geometry(window=224, stride=112), count=12)[0]


@pytest.fixture(scope="session")
def demo_int8(tmp_path_factory: pytest.TempPathFactory, demo_windows: np.ndarray) -> tuple[Path, Plan]:
    """The window encoder of the demo bundle in int8, and its plan."""
    path = tmp_path_factory.mktemp("int8") / "encoder.int8.onnx"
    return path, quantize_encoder(DEMO, path, demo_windows, Int8Options())


@pytest.fixture(scope="session")
def demo_fp32() -> Path:
    return DEMO

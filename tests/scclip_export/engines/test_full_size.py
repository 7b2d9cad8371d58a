"""ViT-B/16 and ViT-L/14 at full size, fp32 and fp16, become TensorRT-RTX engines on a machine without a GPU."""

import gc
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from scclip_export.checkpoint.architecture import build_clip, infer_architecture
from scclip_export.engines import EngineRequest
from scclip_export.engines.build import engine_from_onnx
from scclip_export.engines.libraries import open_library
from scclip_export.model.calibration import calibration_for
from scclip_export.model.dtypes import POLICIES
from scclip_export.model.encoder import CalibratedEncoder
from scclip_export.onnx.trace import onnx_from_encoder
from scclip_rt.bundle.manifest import EncoderSpec, GridSpec, TensorSpec
from synthetic import clip_state_dict

pytestmark = [
    pytest.mark.slow,
    pytest.mark.tensorrt,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 is not installed"
    ),
]
BLOCKS = {"vitb16": 12, "vitl14": 24}


def write(architecture: str, precision: str, path: Path) -> EncoderSpec:
    """Trace an encoder with synthetic weights, windows of 224 pixels."""
    state = {name: torch.from_numpy(np.array(value)) for name, value in clip_state_dict(architecture).items()}
    found, _ = infer_architecture(state)
    side = found.image_size // found.patch_size
    encoder = CalibratedEncoder(
        build_clip(found, state).visual,
        calibration_for(found.layers, found.patch_size),
        grid=(side, side),
        mean=(122.8, 116.7, 104.1),
        std=(68.5, 66.6, 70.3),
        policy=POLICIES[precision],
    ).eval()
    onnx_from_encoder(encoder, path, opset=20, example_size=(found.image_size, found.image_size))
    windows = TensorSpec(
        name="windows", dtype="uint8", shape=("batch", found.image_size, found.image_size, 3)
    )
    text = TensorSpec(name="text", dtype="float32", shape=("queries", found.embed_dim))
    return EncoderSpec(
        file=path.name,
        inputs=(windows, text),
        outputs=(),
        axes={},
        parity={},
        precision=precision,  # type: ignore[arg-type]
        grid=GridSpec(kind="window", rows=side, columns=side),
        opset=20,
        runs_on=("cuda",),
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("architecture", list(BLOCKS))
def test_an_engine_of_a_full_size_model_builds(architecture: str, precision: str, tmp_path: Path) -> None:
    path = tmp_path / f"encoder.{precision}.onnx"
    encoder = write(architecture, precision, path)
    gc.collect()  # what was traced refers to itself, and to the weights
    request = EngineRequest(library="tensorrt-rtx", compute_capabilities=("8.6", "8.9", "12.0"))
    built = engine_from_onnx(
        open_library("tensorrt-rtx"),
        path,
        encoder,
        profile=request.profile(encoder.grid),
        request=request,
        progress=print,
    )
    weights = sum(file.stat().st_size for file in tmp_path.iterdir())  # the graph and its .data
    assert 0.9 * weights < memoryview(built.plan).nbytes < 1.1 * weights

    layers = built.layer_precisions["network"]
    narrow = {"fp32": "FLOAT", "fp16": "HALF"}[precision]
    assert layers["MATRIX_MULTIPLY"][narrow] >= 6 * BLOCKS[architecture]
    assert set(layers["SOFTMAX"]) == set(layers["NORMALIZATION"]) == set(layers["TOPK"]) == {"FLOAT"}
    if precision == "fp16":
        assert layers["MATRIX_MULTIPLY"]["FLOAT"] <= 6  # distances, similarities, cosines

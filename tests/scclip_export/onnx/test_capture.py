"""A module is captured in one pass; the graph has the operators of torch.onnx's own way."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch.onnx._internal.exporter import _fx_passes

from scclip_export.methods import METHODS
from scclip_export.model.calibration import calibration_for
from scclip_export.model.dtypes import POLICIES
from scclip_export.model.encoder import CalibratedEncoder, Parts
from scclip_export.model.text_encoder import ResumedTextEncoder, TextEncoder
from scclip_export.onnx import trace
from scclip_export.onnx.capture import capture, translated_as_it_is

SCCLIP = calibration_for(4, 16)


def computed(path: Path) -> Counter[str]:
    """Every value of a graph by what it is computed from, weights by their bytes: whatever the names and the order."""
    model = onnx.load(str(path))
    known = {value.name: value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        known[tensor.name] = str(hash(numpy_helper.to_array(tensor).tobytes()))
    rows = Counter[str]()
    for node in model.graph.node:
        attributes = sorted(item.SerializeToString() for item in node.attribute)
        row = str(
            hash((node.domain, node.op_type, *attributes, *(known.get(name, "") for name in node.input)))
        )
        rows[row] += 1
        known.update({name: f"{row}.{index}" for index, name in enumerate(node.output)})
    return rows


def image_encoder(
    clip: nn.Module, path: Path, *, precision: str, grid: tuple[int, int] | None, parts: Parts = SCCLIP
) -> None:
    encoder = CalibratedEncoder(
        clip.visual, parts, grid=grid, debug_outputs=True, policy=POLICIES[precision]
    ).eval()
    trace.onnx_from_encoder(encoder, path, opset=20, example_size=(96, 160))


PADDED = METHODS["clearclip"].options().parts(layers=4, patch_size=16)
FORMS: dict[str, Callable[[nn.Module, Path], None]] = {
    "fp32": lambda clip, path: image_encoder(clip, path, precision="fp32", grid=(6, 10)),
    "bf16": lambda clip, path: image_encoder(clip, path, precision="bf16", grid=(6, 10)),
    "dynamic": lambda clip, path: image_encoder(clip, path, precision="fp32", grid=None),
    "padded": lambda clip, path: image_encoder(clip, path, precision="fp32", grid=None, parts=PADDED),
    "text": lambda clip, path: trace.onnx_from_text_encoder(TextEncoder(clip).eval(), path, opset=20),
    "resumed": lambda clip, path: trace.onnx_from_resumed_text_encoder(
        ResumedTextEncoder(TextEncoder(clip).eval()), path, opset=20
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_operators_are_those_of_torchs_own_way(
    form: str, micro_clip: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decomposed(*_: object) -> None:
        raise AssertionError("decomposed once more")

    with monkeypatch.context() as patch, torch.inference_mode():
        patch.setattr(_fx_passes, "decompose_with_registry", decomposed)
        FORMS[form](micro_clip, tmp_path / "ours.onnx")
    monkeypatch.setattr(trace, "capture", lambda *_, **__: None)
    with torch.inference_mode():
        FORMS[form](micro_clip, tmp_path / "theirs.onnx")
    ours, theirs = computed(tmp_path / "ours.onnx"), computed(tmp_path / "theirs.onnx")
    assert ours.total() > 40
    assert ours == theirs


class Refusing(nn.Module):
    """What can't be captured."""

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError(f"not {x.shape}")


def test_what_cannot_be_captured_is_left_to_torch() -> None:
    assert capture(Refusing(), (torch.ones(3),), None, opset=20) is None


def test_torch_is_as_it_was_afterwards() -> None:
    before = _fx_passes.decompose_with_registry
    with translated_as_it_is(captured=True):
        assert _fx_passes.decompose_with_registry is not before
    assert _fx_passes.decompose_with_registry is before


def test_values_of_symbolic_sizes_are_not_kept() -> None:
    kept = []

    class Sees(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mode = detect_fake_mode()
            kept.append(mode is None or mode.cache_enabled)
            return x + 1

    axes = {"x": {0: torch.export.Dim("batch", min=1)}}
    assert capture(Sees().eval(), (torch.zeros(3, 2),), axes, opset=20) is not None
    assert set(kept) == {False}

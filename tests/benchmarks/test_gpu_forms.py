"""The forms of an encoder that benchmarks/gpu times beside each other."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import scclip_rt
from benchmarks.gpu.bundles import GPU_CONTENDERS, measure_bundle
from benchmarks.gpu.forms import write_form
from scclip_rt.backends import open_backend
from scclip_rt.bundle.bundle import Bundle

DEMO = Path(scclip_rt.__file__).parent / "demo.scclip"


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """The demo with a second file that is called the form with Attention."""
    root = Path(shutil.copytree(DEMO, tmp_path / "both.scclip"))
    document = json.loads((root / "bundle.json").read_text("utf-8"))
    form = "encoder.fp32.opset23.onnx"
    shutil.copyfile(root / "encoder.fp32.onnx", root / form)
    document["files"][form] = document["files"]["encoder.fp32.onnx"]
    entry = next(entry for entry in document["encoders"] if entry["file"] == "encoder.fp32.onnx")
    document["encoders"].append({**entry, "file": form, "opset": 23, "runs_on": ["tensorrt"]})
    (root / "bundle.json").write_text(json.dumps(document), "utf-8")
    return root


@pytest.mark.parametrize(("form", "kept"), [("plain", False), ("attention", True), ("biases", True)])
def test_a_form_is_a_sound_bundle_with_or_without_attention(
    both: Path, tmp_path: Path, form: str, kept: bool
) -> None:
    bundle = Bundle.open(write_form(both, form, tmp_path / form))
    bundle.verify_all()
    assert any(encoder.has_attention for encoder in bundle.encoders) == kept


def test_a_bundle_without_attention_has_no_such_form(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="export it with --fp16 --opset23"):
        write_form(DEMO, "attention", tmp_path / "attention")


def test_biases_stay_behind_their_products_and_change_no_number(tmp_path: Path) -> None:
    """ONNX Runtime would fuse them into a MatMul."""
    plain = onnx.load(DEMO / "encoder.fp32.onnx", load_external_data=False)
    biased = sum(node.op_type == "Gemm" and len(node.input) == 3 for node in plain.graph.node)
    assert biased > 20
    bundle = Bundle.open(write_form(DEMO, "biases", tmp_path / "biases"))
    onnx.checker.check_model(str(bundle.path / "encoder.fp32.onnx"))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        str(bundle.path / "encoder.fp32.onnx"), options, providers=["CPUExecutionProvider"]
    )
    optimised = onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph.node
    assert not [
        n.name for n in optimised if n.op_type in ("Gemm", "FusedGemm") and len(n.input) > 2 and n.input[2]
    ]
    side = bundle.preprocessing.window
    windows = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    wanted = open_backend(Bundle.open(DEMO), backend="onnxruntime", device="cpu", precision="fp32")
    found = open_backend(bundle, backend="onnxruntime", device="cpu", precision="fp32")
    np.testing.assert_allclose(found.features(windows), wanted.features(windows), atol=2e-5)


def test_a_contender_that_is_not_here_has_its_reason_in_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    rows: list[dict[str, Any]] = []
    run: Any = SimpleNamespace(
        args=SimpleNamespace(queries=[5], windows=[2]),
        clock=SimpleNamespace(device=SimpleNamespace(index=0), on_gpu=True),
        wants=lambda _: True,
        found=lambda _: None,
        add=rows.append,
    )
    measure_bundle(run, DEMO, arch="demo", image=np.zeros((8, 8, 3), np.uint8), agreement={})
    skipped = {row["contender"]: row["skipped"] for row in rows}
    assert list(skipped) == [contender[0] for contender in GPU_CONTENDERS]
    assert "export it with --fp16 --opset23" in skipped["ONNX Runtime CUDA fp16, Attention"]
    assert "no 'cuda' provider" in skipped["ONNX Runtime CUDA fp16, biases behind"]

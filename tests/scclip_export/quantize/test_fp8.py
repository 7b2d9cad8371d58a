"""Float8 encoders, made from the packaged demo model's float32 files: no tracing. Exports are in test_precision.py."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from scclip_export.errors import ExportError
from scclip_export.onnx.runners import onnx_runner
from scclip_export.onnx.shared_weights import share_weights
from scclip_export.quantize import Fp8Plan, fp8, plan_fp8, write_fp8
from scclip_export.quantize.fp8 import power_of_two_scale, rounded
from synthetic import scene


@pytest.fixture(scope="module")
def demo_plan(demo_fp32: Path, demo_windows: np.ndarray) -> Fp8Plan:
    return plan_fp8(demo_fp32, demo_windows, images="the demo's", progress=lambda _: None)


@pytest.fixture(scope="module")
def demo_fp8(demo_fp32: Path, demo_plan: Fp8Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fp8") / "encoder.fp8.onnx"
    write_fp8(demo_fp32, demo_plan, path)
    return path


def arrays(path: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer}


def test_rounding_is_that_of_the_operators() -> None:
    """Ties, subnormal numbers, the largest and what lies beyond, in units of a scale."""
    values = np.array([0, 17, 18, 19, 2**-9, 2**-10, 3 * 2**-11, 448, 463, 465, 1e4, 0.3], np.float32)
    x, scale = np.concatenate([values, -values]) * np.float32(0.25), 0.25
    constants = [
        numpy_helper.from_array(np.array(scale, np.float32), "scale"),
        numpy_helper.from_array(np.array(0, ml_dtypes.float8_e4m3fn), "zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy"]
    graph = helper.make_graph(nodes, "round", tensors[:1], tensors[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert (session.run(None, {"x": x})[0] == rounded(x, scale)).all()
    assert rounded(x, scale).max() == 448 * scale


@pytest.mark.parametrize("largest", [0.0, 1e-12, 3e-5, 0.013, 1.0, 447.0, 448.0, 449.0, 6e4])
def test_scales_are_powers_of_two_that_float16_holds(largest: float) -> None:
    scale = power_of_two_scale(largest)
    assert float(np.float16(scale)) == scale > 0
    assert np.log2(scale) == round(np.log2(scale))
    assert largest / scale <= 448
    assert scale == 2.0**-24 or largest / scale > 224


def test_every_product_of_a_block_takes_float8(demo_fp8: Path, demo_fp32: Path, demo_plan: Fp8Plan) -> None:
    model = onnx.load(str(demo_fp8), load_external_data=False)
    before = onnx.load(str(demo_fp32), load_external_data=False)
    counts, products = Counter(node.op_type for node in model.graph.node), 8 * 6 + 3
    assert counts["QuantizeLinear"] == len(demo_plan.layers) == 8 * 4 + 2
    assert counts["DequantizeLinear"] == counts["QuantizeLinear"] + products
    rest = counts - Counter(QuantizeLinear=10**6, DequantizeLinear=10**6)
    assert rest == Counter(node.op_type for node in before.graph.node)
    kinds = Counter(t.data_type for t in model.graph.initializer if len(t.dims) == 2 and 192 in t.dims)
    assert kinds[TensorProto.FLOAT8E4M3FN] == products
    writers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        sources = [writers.get(name) for name in node.input[:2]]
        rounded_inputs = [s is not None and s.op_type == "DequantizeLinear" for s in sources]
        assert all(rounded_inputs) or not any(rounded_inputs)  # never of one operand alone


def test_one_scale_serves_an_input_and_one_all_its_weights(demo_fp8: Path, demo_fp32: Path) -> None:
    """With more of them TensorRT-RTX scales sums in float16, where they overflow (docs/precision.md)."""
    model = onnx.load(str(demo_fp8), load_external_data=False)
    scales: dict[str, set[str]] = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0].endswith("weight_e4m3"):
            scales.setdefault(node.input[0].split(".weight")[0].rpartition(".")[0], set()).add(node.input[1])
    assert scales["blocks.3"] == {
        f"blocks.3.{name}.weight_scale" for name in ("qkv", "out_proj", "fc", "proj")
    }
    made, exact = arrays(demo_fp8), arrays(demo_fp32)
    assert all(a.shape == () for name, a in made.items() if name.endswith(("input_scale", "weight_scale")))
    got = made["blocks.3.key.weight_e4m3"].astype(np.float32) * made["blocks.3.qkv.weight_scale"]
    weight = exact["blocks.3.key.weight"]
    error = np.abs(got - weight)
    assert (error <= np.maximum(np.abs(weight) / 16, 2.0**-10 * made["blocks.3.qkv.weight_scale"])).all()
    assert error.max() > 0


def test_the_file_does_nearly_what_float32_does(demo_fp8: Path, demo_fp32: Path, demo_plan: Fp8Plan) -> None:
    """Float8's own share: this file is float32 elsewhere."""
    windows = np.stack([scene(224, 224, seed) for seed in range(3)])
    text = np.eye(24, 192, dtype=np.float32)
    got, exact = (onnx_runner(path)(windows, text) for path in (demo_fp8, demo_fp32))
    assert 1e-4 < np.abs(got[0] - exact[0]).mean() < 4e-3
    assert (got[0] * exact[0]).sum(-1).mean() > 0.995
    said = demo_plan.to_json()
    assert said["fp8_layers"] == 34
    assert said["float_layers"] == []
    assert 0.02 < said["worst_output_error"] < 0.04  # type: ignore[operator]


def test_a_window_does_not_depend_on_its_neighbours(demo_fp8: Path) -> None:
    run, text = onnx_runner(demo_fp8), np.eye(3, 192, dtype=np.float32)
    noise = np.random.default_rng(0).integers(0, 2, (224, 224, 3), dtype=np.uint8) * 255
    windows = np.stack([scene(224, 224, 5), noise])
    both, alone = run(windows, text)[0][0], run(windows[:1], text)[0][0]
    # Sums in another order may tip a rounding, which then is a sixteenth of one element.
    assert np.abs(both - alone).mean() < 1e-5


def test_the_plan_of_the_windows_serves_other_grids(
    demo_fp8: Path, demo_fp32: Path, demo_plan: Fp8Plan, tmp_path: Path
) -> None:
    for name in (demo_fp8.name, f"{demo_fp8.name}.data"):
        (tmp_path / name).write_bytes((demo_fp8.parent / name).read_bytes())
    path = tmp_path / "encoder.fp8.dynamic.onnx"
    write_fp8(demo_fp32.with_name("encoder.fp32.dynamic.onnx"), demo_plan, path)
    assert share_weights(path, tmp_path / demo_fp8.name) > 3_500_000  # all of float8
    features = onnx_runner(path)(scene(160, 256, 0)[None], np.eye(2, 192, dtype=np.float32))[0]
    assert features.shape == (1, 10 * 16, 192)
    assert np.isfinite(features).all()


def test_the_worst_layers_stay_float_within_their_share(
    demo_fp32: Path, demo_windows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fp8, "_ERROR_LIMIT", 0.0)
    plan = plan_fp8(demo_fp32, demo_windows[:2], images="two", progress=lambda _: None)
    wide = [layer for layer in plan.layers.values() if layer.keep_float]
    assert 0.05 < sum(layer.cost for layer in wide) <= 0.10
    assert max(layer.error for layer in plan.layers.values()) == max(layer.error for layer in wide)
    write_fp8(demo_fp32, plan, tmp_path / "encoder.onnx")
    model = onnx.load(str(tmp_path / "encoder.onnx"), load_external_data=False)
    found = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    assert found == plan.to_json()["fp8_layers"] == len(plan.layers) - len(wide)


def rewritten(path: Path, target: Path, change: Any) -> Path:
    model = onnx.load(str(path))
    change(model)
    onnx.save(model, str(target))
    return target


def test_what_can_not_be_quantised_is_refused(
    demo_fp32: Path, demo_plan: Fp8Plan, demo_windows: np.ndarray, tmp_path: Path
) -> None:
    def age(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = 18

    def damage(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == "blocks.2.ln_1.weight")
        tensor.CopyFrom(numpy_helper.from_array(np.full(192, np.inf, np.float32), tensor.name))

    old = rewritten(demo_fp32, tmp_path / "old.onnx", age)
    with pytest.raises(ExportError, match="needs --opset 19 or later, which has float8; got 18"):
        write_fp8(old, demo_plan, tmp_path / "encoder.fp8.onnx")
    fewer = {name: layer for name, layer in demo_plan.layers.items() if name != "blocks.2.fc"}
    with pytest.raises(ExportError, match=r"encoder\.fp32\.onnx has other products than the float32 encoder"):
        write_fp8(demo_fp32, replace(demo_plan, layers=fewer), tmp_path / "encoder.fp8.onnx")
    assert not (tmp_path / "encoder.fp8.onnx").exists()
    damaged = rewritten(demo_fp32, tmp_path / "damaged.onnx", damage)
    with pytest.raises(ExportError, match=r"input of blocks\.2\.qkv is not finite"):
        plan_fp8(damaged, demo_windows[:1], images="one", progress=lambda _: None)

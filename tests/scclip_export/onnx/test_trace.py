"""Facts about the exported graphs, beside their numbers."""

import contextlib
import gc
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.fx.config
from onnx import TensorProto
from onnxscript import TracedOnnxFunction

from scclip_export.errors import ExportError
from scclip_export.onnx.trace import FORBIDDEN_OPS, operators, trace_function
from synthetic import scene

WINDOWS, FIXED, DYNAMIC = "encoder.fp32.onnx", "encoder.fp32.96x160.onnx", "encoder.fp32.dynamic.onnx"


def load(path: Path) -> onnx.ModelProto:
    return onnx.load(str(path), load_external_data=False)


def session(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def unit_text(queries: int) -> np.ndarray:
    text = np.random.default_rng(0).standard_normal((queries, 64)).astype(np.float32)
    return text / np.linalg.norm(text, axis=1, keepdims=True)


@pytest.mark.parametrize("file", [WINDOWS, FIXED, DYNAMIC, "text_encoder.onnx", "text_encoder.resumed.onnx"])
def test_no_operator_depends_on_data(micro_bundle: Path, file: str) -> None:
    found = set(operators(micro_bundle / file))
    assert not found & FORBIDDEN_OPS
    assert len(found) > 5


@pytest.mark.parametrize("file", [WINDOWS, FIXED])
def test_topk_has_a_constant_k(micro_bundle: Path, file: str) -> None:
    graph = load(micro_bundle / file).graph
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    tops = [node for node in graph.node if node.op_type == "TopK"]
    assert len(tops) == 2  # nearest neighbours, outliers
    assert all(node.input[1] in constants for node in tops)


@pytest.mark.parametrize("file", [WINDOWS, FIXED, DYNAMIC])
def test_pixels_come_in_as_uint8_and_meet_a_cast_first(micro_bundle: Path, file: str) -> None:
    graph = load(micro_bundle / file).graph
    windows = graph.input[0]
    assert windows.name == "windows"
    assert windows.type.tensor_type.elem_type == TensorProto.UINT8
    users = {node.op_type for node in graph.node if "windows" in node.input}
    assert users <= {"Cast", "Shape"}


@pytest.mark.parametrize(
    ("file", "windows", "features"),
    [
        (WINDOWS, ["batch", 224, 224, 3], ["batch", 196, 64]),
        (FIXED, ["batch", 96, 160, 3], ["batch", 60, 64]),
        (DYNAMIC, ["batch", "height", "width", 3], ["batch", "patches", 64]),
    ],
)
def test_axes_are_named_as_documented(micro_bundle: Path, file: str, windows: list, features: list) -> None:
    loaded = session(micro_bundle / file)
    assert [i.shape for i in loaded.get_inputs()] == [windows, ["queries", 64]]
    assert [o.shape for o in loaded.get_outputs()] == [features, [*features[:2], "queries"]]


def test_the_opset_is_the_one_asked_for(micro_bundle: Path) -> None:
    assert {entry.domain: entry.version for entry in load(micro_bundle / WINDOWS).opset_import}[""] == 20


def test_the_last_block_has_no_queries_and_one_output_projection(micro_bundle: Path) -> None:
    """An ordinary block has four weights of 128 × 128, the calibrated one three; it has no MLP."""
    shapes = Counter(tuple(tensor.dims) for tensor in load(micro_bundle / WINDOWS).graph.initializer)
    assert shapes[(128, 128)] == 3 * 4 + 3
    assert shapes[(512, 128)] == shapes[(128, 512)] == 3


# Of one ordinary block, of the calibrated last block with all of SC-CLIP, and of what frames them; nothing to spare.
BLOCK = {
    "Gemm": 6,
    "MatMul": 2,
    "Add": 2,
    "LayerNormalization": 2,
    "Softmax": 1,
    "Transpose": 4,
    "Reshape": 4,
}
BLOCK |= {"Mul": 2, "Sigmoid": 1}  # QuickGELU


def test_a_graph_holds_no_more_operators_than_the_method_needs(micro_bundle: Path) -> None:
    """A needless cast, transpose or reshape, or a bias outside its product, shows here."""
    counts = Counter(operators(micro_bundle / WINDOWS))
    trunk = Counter({op: 3 * count for op, count in BLOCK.items()})
    rest = counts - trunk
    assert not trunk - counts, "a block holds less than the bounds of this test say: lower them"
    assert rest["Gemm"] == 5  # patches, k, v, output and last projection
    # Distances, repair, 2 × similarity, 2 × aggregate, P v, k kᵀ, · v, cosines. Four blocks repair once: their
    # guide is the layer before the last as well.
    assert rest["MatMul"] == 10
    assert rest["LayerNormalization"] == 3
    assert rest["Transpose"] <= 9
    assert rest["Reshape"] <= 17
    assert rest["Cast"] == 3  # pixels, and two masks that become weights
    assert not set(counts) & {"Shape", "Identity", "Squeeze", "Split"}
    assert sum(rest.values()) <= 126


def test_onnxruntime_fuses_activation_and_transposes(micro_bundle: Path, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(micro_bundle / WINDOWS), options, providers=["CPUExecutionProvider"])
    counts = Counter(operators(tmp_path / "optimised.onnx"))
    assert counts["QuickGelu"] == 3
    assert counts["LayerNormalization"] == 9
    assert counts["FusedMatMul"] >= 3
    assert not counts["Sigmoid"]
    assert sum(counts.values()) <= 184


def test_graphs_name_no_folder_of_the_exporting_machine(micro_bundle: Path) -> None:
    for path in micro_bundle.glob("*.onnx"):
        content = path.read_bytes()
        assert str(Path(__file__).parents[3]).encode() not in content
        assert b"site-packages" not in content


def test_whole_image_encoders_use_the_weights_of_the_window_encoder(micro_bundle: Path) -> None:
    own = micro_bundle / f"{DYNAMIC}.data"
    shared = micro_bundle / f"{WINDOWS}.data"
    assert own.stat().st_size < 0.05 * shared.stat().st_size
    locations = {
        entry.value
        for tensor in load(micro_bundle / DYNAMIC).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert locations == {own.name, shared.name}


@pytest.mark.parametrize("queries", [1, 3, 500])
def test_a_batch_equals_its_singles(micro_bundle: Path, queries: int) -> None:
    loaded, text = session(micro_bundle / WINDOWS), unit_text(queries)
    windows = np.stack([scene(224, 224, seed) for seed in range(6)])
    batch = loaded.run(None, {"windows": windows, "text": text})
    for index in range(6):
        single = loaded.run(None, {"windows": windows[index : index + 1], "text": text})
        for whole, one in zip(batch, single, strict=True):
            np.testing.assert_allclose(whole[index], one[0], atol=2e-6)


def test_a_window_does_not_depend_on_an_adversarial_neighbour(micro_bundle: Path) -> None:
    loaded, text = session(micro_bundle / WINDOWS), unit_text(2)
    window = scene(224, 224, 0)
    noise = np.random.default_rng(1).integers(0, 2, (224, 224, 3), dtype=np.uint8) * 255
    alone = loaded.run(["features"], {"windows": window[None], "text": text})[0][0]
    beside = loaded.run(["features"], {"windows": np.stack([noise, window]), "text": text})[0][1]
    np.testing.assert_allclose(beside, alone, atol=2e-6)


def test_the_dynamic_grid_equals_the_fixed_one(micro_bundle: Path) -> None:
    feed = {"windows": scene(96, 160, 3)[None], "text": unit_text(4)}
    fixed = session(micro_bundle / FIXED).run(None, feed)
    dynamic = session(micro_bundle / DYNAMIC).run(None, feed)
    np.testing.assert_allclose(dynamic[0], fixed[0], atol=5e-6)


@pytest.mark.parametrize(("height", "width"), [(96, 96), (96, 416), (336, 128)])
def test_the_dynamic_grid_takes_any_multiple_of_the_patch(
    micro_bundle: Path, height: int, width: int
) -> None:
    feed = {"windows": scene(height, width, 3)[None], "text": unit_text(4)}
    features, logits = session(micro_bundle / DYNAMIC).run(None, feed)
    assert features.shape == (1, height * width // 256, 64)
    assert np.isfinite(features).all()
    np.testing.assert_allclose(logits, features @ feed["text"].T, atol=1e-6)


class Halves(torch.nn.Module):
    """Half of its input, of two columns or more."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        if inputs[0].shape[1] < 2:
            raise ValueError("one column")
        return 0.5 * inputs[0]


@pytest.mark.parametrize("columns", [3, 1])
def test_tracing_leaves_settings_as_they_were(columns: int) -> None:
    def settings() -> tuple[object, ...]:
        return gc.isenabled(), torch.fx.config.do_not_emit_stack_traces, TracedOnnxFunction.function_ir

    before = settings()
    outcome = (
        contextlib.nullcontext() if columns > 1 else pytest.raises(ExportError, match="tracing halves failed")
    )
    with outcome:
        trace_function(
            Halves(),
            (torch.ones(3, columns),),
            [0],
            opset=20,
            input_names=["x"],
            output_names=["y"],
            name="halves",
        )
    assert settings() == before

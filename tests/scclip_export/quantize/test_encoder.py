"""An encoder in int8: close to float, the same for a window whatever is beside it, and int8 in truth."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from scclip_export.onnx.trace import operators
from scclip_export.quantize import Plan
from scclip_export.quantize.layers import find_layers
from scclip_export.quantize.sensitivity import switchable
from scclip_rt.backends.onnxruntime.session import cpu_session
from scclip_rt.demo.scenes import CLASSES, test_scene
from synthetic import scene

BLOCK = ("qkv", "out_proj", "fc", "proj")
SCENES = 5


def session(path: Path, **options: str) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    for name, value in options.items():
        setattr(settings, name, value)
    return ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def features(loaded: ort.InferenceSession, windows: np.ndarray) -> np.ndarray:
    return loaded.run(["features"], {"windows": windows, "text": np.eye(1, 192, dtype=np.float32)})[0]


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    return np.stack([scene(224, 224, seed) for seed in range(3)])


def adversaries() -> dict[str, np.ndarray]:
    """Windows that reach every channel's extremes."""
    board = (np.indices((224, 224)).sum(axis=0) // 8 % 2 * 255).astype(np.uint8)
    noise = np.random.default_rng(1).integers(0, 2, (224, 224, 3), dtype=np.uint8) * 255
    return {"checkerboard": np.repeat(board[..., None], 3, axis=2), "saturated noise": noise}


def test_every_product_of_the_blocks_is_found_by_name(demo_fp32: Path) -> None:
    found = [layer.name for layer in find_layers(onnx.load(str(demo_fp32), load_external_data=False))]
    blocks = [f"blocks.{i}.{part}" for i in range(8) for part in BLOCK]
    assert found[:-1] == [*blocks, "last.key_value"]
    assert found[-1] in ("last.sum_proj", "last.out_proj")


def test_the_runtime_multiplies_integers(
    demo_int8: tuple[Path, Plan], demo_fp32: Path, tmp_path: Path
) -> None:
    path, plan = demo_int8
    session(path, optimized_model_filepath=str(tmp_path / "optimised.onnx"))
    counts = Counter(operators(tmp_path / "optimised.onnx"))
    assert counts["MatMulIntegerToFloat"] + counts["QGemm"] == len(replaced_nodes(demo_fp32))
    assert counts["QuantizeLinear"] == len(plan.layers) == 34
    assert not plan.float_layers


def replaced_nodes(path: Path) -> set[int]:
    layers = find_layers(onnx.load(str(path), load_external_data=False))
    return {product.node for layer in layers for product in layer.products}


def test_activation_scales_are_constants(demo_int8: tuple[Path, Plan]) -> None:
    graph = onnx.load(str(demo_int8[0]), load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    assert not {"DynamicQuantizeLinear", "MatMulInteger"} & {node.op_type for node in graph.node}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert set(node.input[1:]) <= constants


def test_anomalies_similarities_and_projections_stay_float(
    demo_int8: tuple[Path, Plan], demo_fp32: Path
) -> None:
    """Products of two activations, the patch projection and the visual projection are those of the float graph."""
    before, after = (
        onnx.load(str(path), load_external_data=False).graph for path in (demo_fp32, demo_int8[0])
    )
    kinds = ("MatMul", "Gemm")
    rounded = {node.output[0] for node in after.node if node.op_type == "DequantizeLinear"}
    still_float = {tuple(n.output) for n in after.node if n.op_type in kinds and not rounded & set(n.input)}
    replaced = replaced_nodes(demo_fp32)
    expected = {
        tuple(node.output)
        for index, node in enumerate(before.node)
        if node.op_type in kinds and index not in replaced
    }
    assert still_float == expected
    assert len(expected) >= 2 + 2 * 8


def test_features_stay_close(demo_int8: tuple[Path, Plan], demo_fp32: Path, windows: np.ndarray) -> None:
    cosines = (features(session(demo_fp32), windows) * features(session(demo_int8[0]), windows)).sum(axis=-1)
    # Pictures unlike those it was calibrated on.
    assert cosines.mean() > 0.995
    assert np.percentile(cosines, 1) > 0.95


@pytest.mark.parametrize("name", ["checkerboard", "saturated noise"])
def test_a_window_does_not_depend_on_an_adversarial_neighbour(
    demo_int8: tuple[Path, Plan], windows: np.ndarray, name: str
) -> None:
    """Batch 1 against 6: a scale over the batch would move every feature (0.1 and more)."""
    loaded = session(demo_int8[0])
    alone = features(loaded, windows[:1])[0]
    beside = features(loaded, np.stack([adversaries()[name]] * 5 + [windows[0]]))[5]
    np.testing.assert_array_equal(beside, alone)


def integer_products(compiled: Any) -> int:
    """How many matrix products of an OpenVINO model run on 8-bit integers, by its own account."""
    told = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    return sum(
        info["layerType"].astype(str) in ("FullyConnected", "MatMul")
        and info["runtimePrecision"].astype(str) in ("u8", "i8")
        for info in told
    )


@pytest.mark.parametrize("name", ["checkerboard", "saturated noise"])
def test_nor_does_it_in_openvino(demo_int8: tuple[Path, Plan], windows: np.ndarray, name: str) -> None:
    openvino = pytest.importorskip("openvino")
    compiled = openvino.compile_model(str(demo_int8[0]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(batch: np.ndarray) -> np.ndarray:
        return compiled([batch, np.eye(1, 192, dtype=np.float32)])["features"]

    alone = run(windows[:1])[0].copy()
    beside = run(np.stack([adversaries()[name]] * 5 + [windows[0]]))[5]
    np.testing.assert_allclose(beside, alone, atol=2e-3)
    # OpenVINO too multiplies integers: every planned product, cut or joined as its own passes like.
    assert integer_products(compiled) >= len(demo_int8[1].layers) - len(demo_int8[1].float_layers)
    # And it is the same encoder as in ONNX Runtime.
    reference = features(session(demo_int8[0]), windows[:1])[0]
    assert (alone * reference).sum(axis=-1).mean() > 0.999


def test_rescaling_is_exact_in_float(
    demo_int8: tuple[Path, Plan], demo_fp32: Path, windows: np.ndarray
) -> None:
    """The graph with every factor folded in and nothing rounded is the float encoder."""
    plan = demo_int8[1]
    assert sum(layer.factors is not None for layer in plan.layers.values()) > 10
    loaded = cpu_session(switchable(demo_fp32, plan).SerializeToString(), weights=demo_fp32.parent)
    flags = {f"{name}.is_int8": np.array(False) for name in plan.layers}
    feeds = {"windows": windows[:1], "text": np.eye(1, 192, dtype=np.float32)}
    got = loaded.run(["features"], feeds | flags)[0]
    exact = features(session(demo_fp32), windows[:1])
    assert (got * exact).sum(axis=-1).min() > 0.9999
    assert np.abs(got - exact).mean() < 1e-5


def test_demo_scenes_are_segmented_as_well_as_in_float(demo_int8: tuple[Path, Plan], demo_fp32: Path) -> None:
    """mIoU within 1.0 of fp32 (issue: int8 within 1.0) and nearly all labels equal, on held-out scenes."""
    from safetensors.numpy import load_file

    from scclip_rt.decode.decode import decode
    from scclip_rt.decode.plan import decode_plan
    from scclip_rt.decode.settings import DecodeSettings
    from scclip_rt.image.geometry import Tiling, cut_windows, resize, resize_shape

    text = load_file(demo_fp32.parent / "vocabularies" / "classes.safetensors")["embeddings"]
    loaded = [session(path) for path in (demo_fp32, demo_int8[0])]
    confusion, equal = np.zeros((2, len(CLASSES) ** 2), np.int64), []
    for index in range(SCENES):
        image, mask = (lambda s: (s.image, s.mask))(test_scene(index))
        shape = resize_shape(*mask.shape, short_side=336, min_side=224)
        tiling = Tiling.windows(*shape, window=224)
        cut = cut_windows(resize(image, shape), tiling)
        plan = decode_plan(tiling, (14, 14), mask.shape)
        labels = [
            decode(
                features(one, cut),
                text,
                plan,
                DecodeSettings(query_class=list(range(len(text))), num_classes=len(text)),
                threads=2,
            ).labels
            for one in loaded
        ]
        equal.append((labels[0] == labels[1]).mean())
        for row, found in zip(confusion, labels, strict=True):
            row += np.bincount(
                mask.ravel().astype(np.int64) * len(CLASSES) + found.ravel(), minlength=len(row)
            )
    miou = [mean_iou(row.reshape(len(CLASSES), -1)) for row in confusion]
    assert miou[0] > 70
    assert abs(miou[1] - miou[0]) < 1.0
    assert np.mean(equal) > 0.99


def mean_iou(confusion: np.ndarray) -> float:
    """Over the classes that occur: with few scenes, one wrong pixel of another would count as much as a class."""
    hit = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hit
    return float(100 * np.mean((hit / np.maximum(union, 1))[confusion.sum(1) > 0]))

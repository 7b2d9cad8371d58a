"""A baked graph runs as a torch module with ONNX Runtime's numbers: every method, every form of input and result."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from scclip_export.converters.baked_module import BakedModule
from scclip_export.methods import METHODS
from scclip_rt import Segmenter
from scclip_rt.baking.bake import bake
from scclip_rt.baking.converters.convert import BakedFile, onnxruntime_run
from scclip_rt.baking.options import BakeOptions
from scclip_rt.baking.parity import as_input
from scclip_rt.errors import BackendError
from synthetic import scene
from tiny_bundle import build_bundle

OF_FOUR_BLOCKS = {
    "scclip": ("--fusion-layers", "1:3"),
    "sfp": ("--fusion-layers", "1:3"),
    "surgery": ("--blocks", "2"),
    "gem": ("--blocks", "2"),
}
"""A method's options for the test's small model."""


def in_torch(path: Path, image: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return BakedModule(path)(torch.from_numpy(image)).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_baked_and_runs_as_a_module(
    method: str, micro_checkpoint: Path, export_once: Callable[..., Path], tmp_path: Path
) -> None:
    options = OF_FOUR_BLOCKS.get(method, ())
    bundle = export_once(f"micro-{method}", micro_checkpoint, "--calibration", method, *options)
    segmenter = Segmenter(
        bundle,
        classes=["sky", "grass, lawn", "dog"],
        templates="none",
        cache=False,
        backend="onnxruntime",
        threads=1,
        refine="none",
    )
    path, form = tmp_path / "a.onnx", BakeOptions(size=(224, 260), batch=1, result="logits")
    bake(segmenter, path, form)
    image = scene(224, 260, 3)
    given = as_input(image, form)
    wanted = onnxruntime_run(BakedFile.read(path), 1)(given)
    ranked = np.sort(wanted[0], axis=0)
    clear = ranked[-1] - ranked[-2] > 1e-3
    assert clear.mean() > 0.9
    assert np.array_equal(wanted[0].argmax(axis=0)[clear], segmenter(image).labels[clear])
    found = in_torch(path, given)
    np.testing.assert_allclose(found, wanted, atol=5e-3)
    assert np.array_equal(found[0].argmax(axis=0)[clear], wanted[0].argmax(axis=0)[clear])


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (BakeOptions(size=(150, 170), batch=2, pixels="uint8", result="labels"), {}),
        (BakeOptions(size=(40, 64), batch=1, pixels="byte", result="labels"), {"area_threshold": 0.2}),
        (BakeOptions(size=(150, 170), batch=1), {"maps": "minmax", "prob_threshold": 0.3}),
        (BakeOptions(size=(160, 160), batch=1), {"class_threshold": 0.6}),
    ],
)
def test_every_form_of_a_file_runs_as_a_module(
    micro_checkpoint: Path,
    export_once: Callable[..., Path],
    tmp_path: Path,
    options: BakeOptions,
    settings: dict[str, Any],
) -> None:
    # Without thresholds: torch and ONNX Runtime agree to 1e-6, and by that a decision may go either way.
    bundle = export_once("micro-naclip", micro_checkpoint, "--calibration", "naclip")
    classes = ["sky", "grass, lawn, meadow", "dog", "background"]
    segmenter = Segmenter(
        bundle,
        classes=classes,
        templates="none",
        cache=False,
        backend="onnxruntime",
        threads=1,
        refine="none",
    )
    strict = segmenter.with_options(dataclasses.replace(segmenter.options, logit_scale=15.0, **settings))
    path = tmp_path / "a.onnx"
    bake(strict, path, options)
    given = as_input(scene(*options.size or (0, 0), 3), options)
    wanted = onnxruntime_run(BakedFile.read(path), 1)(given)
    found = in_torch(path, given)
    assert found.dtype == wanted.dtype
    if options.result == "labels":
        assert len(np.unique(wanted)) > 1
        assert (found == wanted).mean() > 0.9999
    else:
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_an_open_batch_is_refused(tmp_path: Path) -> None:
    segmenter = Segmenter(build_bundle(tmp_path / "tiny.scclip"), classes=["a", "b"], backend="onnxruntime")
    bake(segmenter, tmp_path / "a.onnx", BakeOptions(size=(64, 64)))
    with pytest.raises(BackendError, match="bake with --batch 1"):
        BakedModule(tmp_path / "a.onnx")


def test_an_int8_encoder_is_refused_by_its_operators(tmp_path: Path) -> None:
    segmenter = Segmenter(
        "demo", classes=["sky", "sand"], backend="onnxruntime", precision="int8", short_side=224, threads=1
    )
    bake(segmenter, tmp_path / "a.onnx", BakeOptions(size=(224, 224), batch=1))
    with pytest.raises(
        BackendError, match="no torch form here for DequantizeLinear, QuantizeLinear; bake an fp32"
    ):
        BakedModule(tmp_path / "a.onnx")


def one_operator(
    kind: str, shape: tuple[int, ...], *constants: np.ndarray, **attributes: Any
) -> onnx.ModelProto:
    names = [f"c{place}" for place in range(len(constants))]
    graph = helper.make_graph(
        [helper.make_node(kind, ["image", *names], ["result"], **attributes)],
        "one",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for value, name in zip(constants, names, strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


INTEGERS = np.int64
CASES: list[tuple[str, tuple[np.ndarray, ...], dict[str, Any]]] = [
    ("Pad", (np.array([0, 1, 2, 0, 3, 0], INTEGERS), np.float32(7)), {}),
    ("Pad", (np.array([1, 2], INTEGERS), np.float32(7), np.array([1], INTEGERS)), {}),
    ("Slice", tuple(np.array([v], INTEGERS) for v in (-3, 1 << 60, 1, 2)), {}),
    ("Slice", (np.array([0, 1], INTEGERS), np.array([1, -1], INTEGERS)), {}),
    ("Unsqueeze", (np.array([-1, 0], INTEGERS),), {}),
    ("Reshape", (np.array([0, -1], INTEGERS),), {}),
    ("Gather", (np.array([2, 0], INTEGERS),), {"axis": 1}),
    ("Gather", (np.array(-1, INTEGERS),), {"axis": 2}),
    ("ReduceL2", (np.array([-1], INTEGERS),), {"keepdims": 0}),
    ("ReduceMax", (), {}),
    ("Clip", (np.float32(0.25),), {}),
    ("Split", (np.array([1, 3], INTEGERS),), {"axis": 1}),
    ("Softmax", (), {"axis": 1}),
    ("Expand", (np.array([3, 2, 1, 1], INTEGERS),), {}),
]


@pytest.mark.parametrize(("kind", "constants", "attributes"), CASES, ids=lambda value: str(value)[:30])
def test_an_operator_has_onnxs_meaning(
    tmp_path: Path, kind: str, constants: tuple[np.ndarray, ...], attributes: dict[str, Any]
) -> None:
    import onnxruntime

    model = one_operator(kind, (2, 4, 5), *constants, **attributes)
    if kind == "Split":
        model.graph.node[0].output.append("rest")
    onnx.save(model, tmp_path / "one.onnx")
    image = np.random.default_rng(0).random((2, 4, 5), dtype=np.float32)
    (wanted,) = onnxruntime.InferenceSession(str(tmp_path / "one.onnx")).run(["result"], {"image": image})
    found = in_torch(tmp_path / "one.onnx", image)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_forms_that_bakes_never_have_are_refused(tmp_path: Path) -> None:
    model = one_operator("Pad", (1, 4, 5), np.array([0, 0, 1, 0, 0, 1], INTEGERS), mode="reflect")
    onnx.save(model, tmp_path / "one.onnx")
    with pytest.raises(BackendError, match="Pad 'result' repeats pixels"):
        in_torch(tmp_path / "one.onnx", np.zeros((1, 4, 5), np.float32))

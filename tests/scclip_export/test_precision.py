"""fp16, bf16 and fp8 encoders: what computes in which dtype, and the numbers, with tokens of 500 × the median norm."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from safetensors.torch import save_file
from torch import Tensor

from scclip_export.checkpoint.load_model import Source
from scclip_export.engines import EngineRequest
from scclip_export.engines.plugins import nodes as plugin_nodes
from scclip_export.engines.plugins.functions import add_functions
from scclip_export.errors import ExportError
from scclip_export.model.blocks import attention_operator
from scclip_export.model.calibration import CalibrationConfig
from scclip_export.model.dtypes import POLICIES, saturate
from scclip_export.model.encoder import CalibratedEncoder
from scclip_export.onnx.runners import float16_runner, onnx_runner, rounding_runner
from scclip_export.onnx.trace import check_dtypes, onnx_from_encoder, tensor_types
from scclip_export.options import ExportConfig
from scclip_export.pipeline import _plugin_forms
from scclip_export.writers import GridPlan
from scclip_kernels import scaled_attention
from scclip_kernels.plugins.table import PLUGINS
from scclip_rt import Segmenter
from scclip_rt.backends import open_backend
from scclip_rt.backends.choose import Host, choose
from scclip_rt.baking.bake import bake
from scclip_rt.baking.options import BakeOptions
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.engine_fit import Engine, read_engines
from scclip_rt.errors import BackendError
from synthetic import scene

NARROW = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
CALIBRATION = CalibrationConfig(pre_layer=2, post_layer=1, fusion_layers=(1, 3), cls_residual=0.1)
# Ten of 196 patches, which is how many outliers there are, none beside another.
MASSIVE = (17, 20, 38, 61, 66, 98, 108, 136, 153, 178)
MARK, TARGET, NEURON = 5, 77, 0


def build_clip(state: dict[str, Tensor]) -> torch.nn.Module:
    from scclip_export.checkpoint.architecture import build_clip, infer_architecture

    return build_clip(infer_architecture(state)[0], state)


def last_norms(state: dict[str, Tensor]) -> Tensor:
    encoder = CalibratedEncoder(build_clip(state).visual, CALIBRATION, grid=(14, 14)).eval()
    with torch.inference_mode():
        return encoder.trunk(torch.from_numpy(scene(224, 224, 0))[None]).hidden[-1][0, 1:].norm(dim=-1)


def with_massive_tokens(state: dict[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """Let the MLP of the first block write one large element into ten tokens, as in trained ViT-L/14.

    A channel of the position embedding marks them, a neuron fires at the mark, and its output weight is set so that
    the tokens come out `ratio` times as long as the median.
    """
    state = {name: tensor.clone() for name, tensor in state.items()}
    mlp = "visual.transformer.resblocks.0.mlp"
    state["visual.positional_embedding"][1 + torch.tensor(MASSIVE), MARK] = 60.0
    state[f"{mlp}.c_fc.weight"][NEURON] = 0.0
    state[f"{mlp}.c_fc.weight"][NEURON, MARK] = 3.0
    state[f"{mlp}.c_fc.bias"][NEURON] = -15.0
    state[f"{mlp}.c_proj.weight"][:, NEURON] = 0.0
    state[f"{mlp}.c_proj.weight"][TARGET, NEURON] = 1000.0
    norms = last_norms(state)
    state[f"{mlp}.c_proj.weight"][TARGET, NEURON] *= ratio * norms.median() / norms[list(MASSIVE)].mean()
    return state


@pytest.fixture(scope="module")
def massive_state(micro_state: dict[str, Tensor]) -> dict[str, Tensor]:
    return with_massive_tokens(micro_state, 500.0)


@pytest.fixture(scope="module")
def narrow_bundle(
    massive_state: dict[str, Tensor],
    export_cli: Callable[..., int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("narrow")
    save_file(massive_state, folder / "massive.safetensors")
    bundle = folder / "massive.scclip"
    options = (
        "--fusion-layers",
        "1:3",
        "--fp16",
        "--bf16",
        "--opset23",
        "--fp8",
        "--calibration-windows",
        "12",
    )
    assert export_cli("--checkpoint", folder / "massive.safetensors", "--output", bundle, *options) == 0
    return bundle


def load(bundle: Path, precision: str) -> onnx.ModelProto:
    return onnx.load(str(bundle / f"encoder.{precision}.onnx"), load_external_data=False)


def operators_of(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("precision", NARROW)
def test_products_are_narrow_and_the_rest_is_float32(narrow_bundle: Path, precision: str) -> None:
    model, narrow = load(narrow_bundle, precision), NARROW[precision]
    types = tensor_types(model)
    inputs = {
        op: Counter(types[node.input[0]] for node in model.graph.node if node.op_type == op)
        for op in ("Gemm", "MatMul", "LayerNormalization", "Softmax", "ReduceL2", "TopK", "Div")
    }
    # Three blocks of q with k and v, output and two of the MLP; patches; k with v and output of the last block; last
    # projection.
    assert inputs["Gemm"] == {narrow: 3 * 4 + 4}
    # q kᵀ and · v of three blocks and of the last, P v, two averages by similarity; and in float32 distances,
    # replacement of outliers, two similarities, cosines.
    assert inputs["MatMul"] == {narrow: 3 * 2 + 2 + 1 + 2, TensorProto.FLOAT: 5}
    for op in ("LayerNormalization", "Softmax", "ReduceL2", "TopK", "Div"):
        assert set(inputs[op]) == {TensorProto.FLOAT}
        assert inputs[op].total() >= 2
    sums = Counter(types[node.output[0]] for node in model.graph.node if node.op_type == "Add")
    assert sums[narrow] == 1  # of both halves of the calibrated attention
    assert sums[TensorProto.FLOAT] >= 3 * 2 + 4  # two residuals a block, positions, levels, class token


@pytest.mark.parametrize("precision", NARROW)
def test_weights_are_stored_narrow(narrow_bundle: Path, precision: str) -> None:
    matrices = [
        t for t in load(narrow_bundle, precision).graph.initializer if len(t.dims) == 2 and 128 in t.dims
    ]
    assert len(matrices) >= 3 * 4 + 4
    assert {tensor.data_type for tensor in matrices} == {NARROW[precision]}
    size = {p: (narrow_bundle / f"encoder.{p}.onnx.data").stat().st_size for p in (precision, "fp32")}
    assert size[precision] < 0.6 * size["fp32"]


def test_float32_holds_nothing_narrow(narrow_bundle: Path) -> None:
    found = set(tensor_types(load(narrow_bundle, "fp32")).values())
    assert TensorProto.FLOAT in found
    assert not found & set(NARROW.values())


@pytest.mark.parametrize(("written", "asked"), [("fp32", "fp16"), ("fp16", "fp32"), ("bf16", "fp16")])
def test_a_file_in_another_precision_than_its_name_is_refused(
    narrow_bundle: Path, written: str, asked: str
) -> None:
    path = narrow_bundle / f"encoder.{written}.onnx"
    check_dtypes(path, POLICIES[written])
    with pytest.raises(ExportError, match=r"does not follow its table of dtypes: .*Gemm"):
        check_dtypes(path, POLICIES[asked])


def test_fp8_is_the_fp16_file_with_float8_blocks(narrow_bundle: Path) -> None:
    model, types = load(narrow_bundle, "fp8"), tensor_types(load(narrow_bundle, "fp8"))
    counts = operators_of(model)
    products, inputs = 3 * 4 + 2, 3 * 4 + 2
    assert (counts["QuantizeLinear"], counts["DequantizeLinear"]) == (inputs, inputs + products)
    rest = counts - Counter(QuantizeLinear=inputs, DequantizeLinear=inputs + products)
    assert rest == operators_of(load(narrow_bundle, "fp16"))
    quantised = {types[node.output[0]] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert quantised == {TensorProto.FLOAT8E4M3FN}
    assert {types[node.input[0]] for node in model.graph.node if node.op_type == "Gemm"} == {
        TensorProto.FLOAT16
    }
    # A quarter of float32's weights, beside what it takes from the fp16 file.
    size = {p: (narrow_bundle / f"encoder.{p}.onnx.data").stat().st_size for p in ("fp8", "fp16")}
    assert size["fp8"] < 0.5 * size["fp16"]
    stored = {t.external_data[0].value for t in model.graph.initializer if t.external_data}
    assert stored == {"encoder.fp8.onnx.data", "encoder.fp16.onnx.data"}


def test_the_record_of_fp8_says_what_it_is_for(narrow_bundle: Path) -> None:
    document = json.loads((narrow_bundle / "bundle.json").read_text())
    schema = json.loads((resources.files("scclip_rt") / "bundle/schema/bundle.schema.json").read_text())
    jsonschema.validate(document, schema)
    (entry,) = [encoder for encoder in document["encoders"] if encoder["precision"] == "fp8"]
    assert (entry["file"], entry["runs_on"]) == ("encoder.fp8.onnx", ["tensorrt"])
    assert entry["least_compute_capability"] == "8.9"
    said = entry["quantization"]
    assert (said["fp8_layers"], said["float_layers"]) == (3 * 4 + 2, [])
    assert said["calibration_windows"] == 12
    assert entry["parity"]["labels_agreement"] >= entry["parity"]["thresholds"]["labels"] == 0.7
    assert entry["inputs"] == document["encoders"][0]["inputs"]


@pytest.mark.parametrize(
    ("asked", "flags", "taken"),
    [
        ("auto", "", "fp32"),
        ("fast", "", "fp32"),
        ("auto", "avx512_bf16", "fp32"),
        ("fast", "avx512_bf16", "bf16"),
    ],
)
def test_no_runtime_takes_the_fp8_file_by_itself(
    narrow_bundle: Path, asked: str, flags: str, taken: str
) -> None:
    host = Host(flags=frozenset(flags.split()), vendor="AuthenticAMD", packages=frozenset({"openvino"}))
    assert choose(Bundle.open(narrow_bundle), device="cpu", precision=asked, host=host).precision == taken
    with pytest.raises(
        BackendError, match=r"no window encoder in precision 'fp8' for cpu; the bundle has: .*fp8 for "
    ):
        open_backend(Bundle.open(narrow_bundle), precision="fp8", device="cpu")


@pytest.mark.tensorrt
@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 is not installed")
def test_an_fp8_engine_multiplies_float8(
    narrow_bundle: Path, export_cli: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """TensorRT-RTX builds it here and says what the layers became; running it needs a GPU."""
    bundle = Path(shutil.copytree(narrow_bundle, tmp_path / "massive.scclip"))
    options = ("--tensorrt-rtx", "--engine-precision", "fp8", "--no-gpu-kernels", "--compute-capability")
    assert export_cli("--bundle", bundle, *options, "8.6,8.9") == 2
    assert "an fp8 engine needs compute capability 8.9 or later; 8.6 was asked for" in capsys.readouterr().err
    assert not (bundle / "engines").exists()
    assert export_cli("--bundle", bundle, *options, "8.9,12.0") == 0
    (engine,) = read_engines(Bundle.open(bundle))
    assert isinstance(engine, Engine)
    assert (engine.precision, engine.compute_capabilities) == ("fp8", ("8.9", "12.0"))
    network = engine.layer_precisions["network"]["MATRIX_MULTIPLY"]
    assert network == {"FP8": 3 * 4 + 2, "HALF": 2 + 3 * 2 + 2 + 1 + 2, "FLOAT": 5}
    products = engine.layer_precisions["engine"]["products"]
    # q, k and v may be three products again, attention's two are one.
    assert network["FP8"] <= products["FP8"] <= network["FP8"] + 3 * 2 + 1
    assert products["HALF"] <= network["HALF"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--fp8",), "--fp8 is made from the float16 encoder; pass --fp16 as well"),
        (("--fp8", "--fp16", "--opset", "18"), "--fp8 needs --opset 19 or later, which has float8; got 18"),
        (("--fp8", "--fp16", "--int8-sensitivity"), "--int8-sensitivity needs --int8"),
        (("--calibration-windows", "4"), "--calibration-windows needs --int8 or --fp8"),
    ],
)
def test_fp8_without_what_it_needs_is_refused(
    options: tuple[str, ...],
    message: str,
    export_cli: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert export_cli("--backbone", "vitb16", "--output", tmp_path / "a.scclip", *options) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"{message} [ExportError]")
    assert not list(tmp_path.iterdir())


def test_the_massive_tokens_are_500_times_the_median(massive_state: dict[str, Tensor]) -> None:
    norms = last_norms(massive_state)
    ratios = norms[list(MASSIVE)] / norms.median()
    assert 400 < ratios.min() < ratios.max() < 650


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    """(100, 224, 224, 3) uint8, cut from large scenes."""
    scenes = [scene(1120, 1120, seed) for seed in range(4)]
    cut = [image[224 * y :, 224 * x :][:224, :224] for image in scenes for y in range(5) for x in range(5)]
    return np.stack(cut)


@pytest.mark.parametrize(("precision", "least"), [("fp16", 0.99), ("bf16", 0.95), ("fp8", 0.88)])
def test_massive_tokens_change_neither_outliers_nor_labels(
    narrow_bundle: Path, windows: np.ndarray, precision: str, least: float
) -> None:
    text = np.random.default_rng(0).standard_normal((20, 64)).astype(np.float32)
    opened = rounding_runner if precision == "bf16" else float16_runner
    run = opened(narrow_bundle / f"encoder.{precision}.onnx")
    reference = onnx_runner(narrow_bundle / "encoder.fp32.onnx")
    equal, labels = [], []
    for start in range(0, 100, 10):
        features, logits, outliers = run(windows[start : start + 10], text)
        _, expected, expected_outliers = reference(windows[start : start + 10], text)
        assert np.isfinite(features).all()
        assert np.isfinite(logits).all()
        assert expected_outliers.tolist() == [list(MASSIVE)] * 10
        equal += (outliers == expected_outliers).all(axis=1).tolist()
        labels.append((logits.argmax(-1) == expected.argmax(-1)).mean())
    assert np.mean(equal) >= 0.99
    assert np.mean(labels) >= least


def test_rounding_is_what_float16_kernels_do(narrow_bundle: Path) -> None:
    path = narrow_bundle / "encoder.fp16.onnx"
    windows = np.stack([scene(224, 224, seed) for seed in range(4)])
    text = np.eye(3, 64, dtype=np.float32)
    rounded, run = rounding_runner(path)(windows, text), float16_runner(path)(windows, text)
    exact = onnx_runner(narrow_bundle / "encoder.fp32.onnx")(windows, text)
    assert 0 < abs(rounded[0] - run[0]).mean() < 1e-3
    # Both are rounded: neither is the float32 result.
    assert abs(rounded[0] - exact[0]).mean() > 1e-5
    assert abs(run[0] - exact[0]).mean() > 1e-5


@pytest.fixture(scope="module", params=["window", "whole"])
def two_forms(
    request: pytest.FixtureRequest,
    narrow_bundle: Path,
    massive_state: dict[str, Tensor],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path, np.ndarray]:
    """The float16 encoder without and with ONNX's Attention, for windows or one whole image, and pixels for it."""
    forms = (("fp16", 20, scaled_attention), ("fp16.opset23", 23, attention_operator))
    if request.param == "window":
        plain, form = (narrow_bundle / f"encoder.{name}.onnx" for name, _, _ in forms)
        return plain, form, np.stack([scene(224, 224, seed) for seed in range(6)])
    folder, visual = tmp_path_factory.mktemp("whole"), build_clip(massive_state).visual
    for name, opset, attend in forms:
        encoder = CalibratedEncoder(
            visual, CALIBRATION, grid=(12, 17), policy=POLICIES["fp16"], attend=attend
        )
        onnx_from_encoder(encoder.eval(), folder / f"{name}.onnx", opset=opset, example_size=(192, 272))
    return (
        folder / "fp16.onnx",
        folder / "fp16.opset23.onnx",
        np.stack([scene(192, 272, s) for s in range(6)]),
    )


@pytest.mark.parametrize("count", [1, 6])
def test_the_form_with_attention_gives_the_other_s_numbers(
    two_forms: tuple[Path, Path, np.ndarray], count: int
) -> None:
    """Both in ONNX Runtime, whose float16 Attention also rounds the softmax."""
    plain, form, windows = two_forms
    counts = operators_of(onnx.load(str(form), load_external_data=False))
    assert (counts["Attention"], counts["Softmax"]) == (4, 1)
    text = np.random.default_rng(0).standard_normal((20, 64)).astype(np.float32)
    wanted, found = float16_runner(plain)(windows[:count], text), float16_runner(form)(windows[:count], text)
    assert abs(found[0] - wanted[0]).mean() < 2e-4
    assert (found[1].argmax(-1) == wanted[1].argmax(-1)).mean() >= 0.99
    np.testing.assert_array_equal(found[2], wanted[2])


def test_a_batch_equals_its_singles_in_float16(narrow_bundle: Path) -> None:
    run = float16_runner(narrow_bundle / "encoder.fp16.onnx")
    noise = np.random.default_rng(1).integers(0, 2, (224, 224, 3), dtype=np.uint8) * 255
    windows = np.stack([noise, *(scene(224, 224, seed) for seed in range(5))])
    text = np.eye(3, 64, dtype=np.float32)
    batch = run(windows, text)[0]
    for index, window in enumerate(windows):
        difference = abs(batch[index] - run(window[None], text)[0][0])
        # Another order of summation moves a rounding here and there: by half a step of float16, in few places.
        assert difference.max() < 1e-3
        assert difference.mean() < 2e-6


def test_sums_beyond_float16_are_held_at_its_largest() -> None:
    x = torch.tensor([1e6, -1e6, 3.0])
    assert saturate(x, torch.float16).tolist() == [65504.0, -65504.0, 3.0]
    assert saturate(x, torch.bfloat16).isfinite().all()
    assert saturate(x, torch.float32) is x


def test_the_opset_23_form_needs_fp16(
    export_cli: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export_cli("--backbone", "vitb16", "--opset23", "--output", tmp_path / "a.scclip") == 2
    assert "pass --fp16 as well" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_an_encoder_with_plugin_nodes_is_the_plain_one_where_no_plugin_is(
    micro_state: dict[str, Tensor], tmp_path: Path
) -> None:
    """Its functions say what the nodes compute, so ONNX Runtime runs it."""
    visual, path = build_clip(micro_state).visual, tmp_path / "encoder.fp16.plugins.onnx"
    nodes = CalibratedEncoder(
        visual, CALIBRATION, grid=(14, 14), policy=POLICIES["fp16"], operations=plugin_nodes
    )
    onnx_from_encoder(nodes.eval(), path, opset=20, example_size=(224, 224))
    add_functions(path, patches=196, narrow=torch.float16)
    check_dtypes(path, POLICIES["fp16"])
    model = onnx.load(str(path), load_external_data=False)
    found = [node.op_type for node in model.graph.node if node.domain == "scclip"]
    assert found == [
        "halves",
        "k_distance",
        "anomaly_score",
        "outlier_repair",
        "halves",
        "aggregate",
        "attend_by_key",
        "attend_by_similarity",
        "halves",
        "aggregate",
    ]
    assert {function.name for function in model.functions} == set(PLUGINS)
    plain = CalibratedEncoder(visual, CALIBRATION, grid=(14, 14)).eval()
    windows = torch.from_numpy(np.stack([scene(224, 224, seed) for seed in range(2)]))
    text = torch.nn.functional.normalize(torch.randn(8, plain.proj.out_features), dim=-1)
    with torch.inference_mode():
        features, logits = plain(windows, text)
    got = float16_runner(path)(windows.numpy(), text.numpy())
    assert np.abs(got[0] - features.numpy()).mean() < 2e-3
    assert (got[1].argmax(-1) == logits.numpy().argmax(-1)).mean() > 0.97
    assert len(got) == 3  # the outliers are found behind the functions


@pytest.mark.parametrize(
    ("options", "forms"),
    [
        ({"plugins": True}, ("fp32.plugins",)),
        ({"plugins": True, "precisions": ("fp16", "fp16.opset23", "bf16")}, ("fp16.plugins", "bf16.plugins")),
        ({"plugins": False, "precisions": ("fp16",)}, ()),
        ({"plugins": True, "method": "maskclip"}, ()),
        ({"precisions": ("fp16",)}, ()),  # no measurement says that they are faster
    ],
)
def test_which_encoders_get_plugin_nodes(options: dict[str, Any], forms: tuple[str, ...]) -> None:
    config = ExportConfig(
        source=Source(backbone="vitb16"), engines=(EngineRequest(library="tensorrt"),), **options
    )
    window = GridPlan(kind="window", fixed=(14, 14), examples=((14, 14),))
    assert _plugin_forms(config, window) == forms
    assert _plugin_forms(config, GridPlan(kind="dynamic", fixed=None, examples=((14, 14),))) == ()


def test_float16_encoder_is_baked_at_an_old_opset(narrow_bundle: Path, tmp_path: Path) -> None:
    segmenter = Segmenter(
        narrow_bundle, classes=["sky", "dog"], backend="onnxruntime", precision="fp32", threads=1
    )
    options = BakeOptions(size=(100, 120), opset=17, precision="fp16")
    assert bake(segmenter, tmp_path / "a.onnx", options).labels_agreement >= 0.97
    weights = {item.data_type for item in onnx.load(tmp_path / "a.onnx").graph.initializer}
    assert TensorProto.FLOAT16 in weights

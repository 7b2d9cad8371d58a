"""Plug-ins inside engines: what NVIDIA's own Python makes of ours, and which encoder an engine is built from."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import helper

from scclip_export.engines import EngineRequest, add_engines
from scclip_export.engines.plugins import build as plugins
from scclip_export.errors import ExportError
from scclip_kernels.plugins.table import PLUGINS
from scclip_rt.bundle.bundle import Bundle
from stand_ins.tensorrt import DataType, FakeTensorrt, Layer, LayerType, Tensor, encoder_layers
from tiny_bundle import edit_manifest, relist

Install = Callable[..., FakeTensorrt]
SIZES: dict[str, Any] = {
    "width": 768,
    "neighbors": 30,
    "columns": 14,
    "outliers": 10,
    "floor": 0.4,
    "heads": 12,
}
B, N, D, TWO = ("B", 5), ("N", 196), ("768", 768), ("2", 2)
HALVES = [[B, N, TWO, D], [B, N], [B, N]]
SHAPES = {
    "halves": [[B, N, D]],
    "k_distance": HALVES,
    "anomaly_score": [[B, N], [B, N, ("30", 30)]],
    "outlier_repair": [[B, N, D], [B, N, D], [B, N]],
    "aggregate": [[B, N, D], *HALVES],
    "attend_by_key": [[TWO, B, N, D], [TWO, B, N, D]],
    "attend_by_similarity": [[B, N, D], *HALVES, [B], [B, N, D]],
}
DTYPES = {"wide": "FLOAT", "half": "HALF", "narrow": "HALF", "int": "INT32"}


def layer(name: str) -> dict[str, Any]:
    plugin = PLUGINS[name]
    attributes = {key: SIZES[key] for key in plugin.attributes}
    dtypes = [DTYPES[kind] for kind in plugin.inputs.values()]
    return {"name": name, "shapes": SHAPES[name], "dtypes": dtypes, "attributes": attributes}


@pytest.fixture(scope="module")
def told(with_bindings: Callable[..., str]) -> dict[str, Any]:
    """What `tensorrt.plugin` tells TensorRT of each plug-in, and of one that gets wrong dtypes."""
    pytest.importorskip("triton")
    asked = [*map(layer, PLUGINS), layer("aggregate") | {"dtypes": ["FLOAT", "HALF", "HALF", "FLOAT"]}]
    script = Path(__file__).parents[2] / "stand_ins/quick_plugins.py"
    printed = with_bindings(str(script), json.dumps(asked))
    found = json.loads(printed[printed.index("[{") :])
    return dict(zip([*PLUGINS, "wrong"], found, strict=True))


@pytest.mark.tensorrt
@pytest.mark.parametrize("name", PLUGINS)
def test_outputs_have_the_types_and_shapes_of_the_table(name: str, told: dict[str, Any]) -> None:
    sizes = {"batch": "B", "patches": "N", **{key: str(value) for key, value in SIZES.items()}}
    outputs = PLUGINS[name].outputs
    assert told[name]["outputs"] == [DTYPES[output.kind] for output in outputs]
    assert told[name]["shapes"] == [
        [axis if axis.isdecimal() else sizes[axis] for axis in output.shape] for output in outputs
    ]


@pytest.mark.tensorrt
def test_blocks_follow_the_batch_and_the_patches(told: dict[str, Any]) -> None:
    grids = {name: [told[name]["launch"][f"grid_{axis}"][0] for axis in "xyz"] for name in PLUGINS}
    assert grids == {
        "halves": ["CEIL_DIV(N,4)", "B", "1"],
        "k_distance": ["CEIL_DIV(N,32)", "B", "1"],
        "anomaly_score": ["CEIL_DIV(N,32)", "B", "1"],
        "outlier_repair": ["CEIL_DIV(N,8)", "B", "1"],
        "aggregate": ["CEIL_DIV(N,32)", "B", "1"],
        "attend_by_key": ["CEIL_DIV(N,64)", "12", "B"],
        "attend_by_similarity": ["CEIL_DIV(N,32)", "B", "1"],
    }


@pytest.mark.tensorrt
@pytest.mark.parametrize("name", PLUGINS)
def test_the_kernel_declares_what_is_passed(name: str, told: dict[str, Any]) -> None:
    """Inputs, integers, outputs, in TensorRT's order; threads and shared memory are the compiled kernel's."""
    plugin, found = PLUGINS[name], told[name]
    assert found["count"] == len(found["integers"]) == len(plugin.integers)
    passed = [*plugin.inputs, *plugin.integers, *(output.name for output in plugin.outputs)]
    entry = re.search(rf"\.entry {found['entry']}\((.*?)\)", found["ptx"], re.DOTALL)
    assert entry is not None
    kinds = [line.split()[1] for line in entry.group(1).strip().split("\n")]
    assert kinds == [".u32" if each in plugin.integers else ".u64" for each in passed]
    texts = {"batch": "B", "num_patches": "N"}
    assert found["integers"] == [[texts[each], "SymInt32"] for each in plugin.integers]
    threads = found["launch"]["block_x"][1]
    assert f".reqntid {threads}\n" in found["ptx"]
    assert ".target sm_89" in found["ptx"]
    assert found["launch"]["block_y"][1] == found["launch"]["block_z"][1] == 1
    assert 0 < found["launch"]["shared_mem"][1] <= 48 << 10


@pytest.mark.tensorrt
def test_dtypes_that_the_kernel_does_not_take_are_an_error(told: dict[str, Any]) -> None:
    assert (
        "aggregate takes fp32, fp16, fp32, fp32; TensorRT gives it fp32, fp16, fp16, fp32"
        in told["wrong"]["error"]
    )
    assert told["wrong"]["kept"] == told["wrong"]["error"]


@pytest.fixture
def with_nodes(bundle: Path) -> Path:
    """The tiny bundle with a second window encoder, which has a plug-in node and the function that it stands for."""
    model = onnx.load(str(bundle / "encoder.fp32.onnx"), load_external_data=False)
    (last,) = [node for node in model.graph.node if "features" in node.output]
    last.output[0] = "raw"
    attributes = {"width": 8, "floor": 0.4}
    inputs = ["raw", "raw", "raw"]
    node = helper.make_node("aggregate", inputs, ["features"], domain="scclip", **attributes)
    model.graph.node.insert(list(model.graph.node).index(last) + 1, node)
    body = [helper.make_node("Identity", ["x"], ["y"])]
    imports = [helper.make_opsetid("", 20)]
    model.functions.append(
        helper.make_function("scclip", "aggregate", ["x", "g", "n"], ["y"], body, imports, list(attributes))
    )
    model.opset_import.append(helper.make_opsetid("scclip", 1))
    onnx.save(model, str(bundle / "encoder.fp32.plugins.onnx"))
    relist(bundle)

    def add(document: dict[str, Any]) -> None:
        first = document["encoders"][0]
        document["encoders"].append(first | {"file": "encoder.fp32.plugins.onnx", "runs_on": ["tensorrt"]})

    edit_manifest(bundle, add)
    return bundle


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Registration is recorded, not made; returns what was to be compiled."""
    compiled: list[Any] = []
    stand_in = SimpleNamespace(compile=lambda *args: compiled.append(args), raise_failure=lambda: None)
    monkeypatch.setattr(plugins, "_host", lambda _: stand_in)
    monkeypatch.setattr(plugins, "check_plugins", lambda _: None)
    return compiled


def layers(count: int) -> list[Layer]:
    tensor = Tensor("x", DataType.FLOAT, (-1, 36, 8))
    made = [Layer(f"plugin{i}", LayerType.PLUGIN_V3, [tensor], [tensor]) for i in range(count)]
    return [*encoder_layers(DataType.FLOAT), *made]


def request(**options: Any) -> EngineRequest:
    return EngineRequest(library="tensorrt", grids=("window",), **options)


def test_an_engine_is_built_from_the_encoder_with_plugins_when_asked(
    with_nodes: Path, install: Install, host: list[Any]
) -> None:
    fake = install(layers(1))
    seen: list[onnx.ModelProto] = []
    fake.during_parse = lambda path: seen.append(onnx.load(path, load_external_data=True))
    (report,) = add_engines(with_nodes, [request(plugins=True)])
    sidecar = json.loads((with_nodes / report.sidecar).read_text())
    assert sidecar["source"] == "encoder.fp32.plugins.onnx"
    assert sidecar["options"]["plugins"] is True
    assert sidecar["layer_precisions"]["network"]["PLUGIN_V3"] == {"FLOAT": 1}
    assert " --tensorrt-plugins" in sidecar["command"]
    assert host == [([("aggregate", {"width": 8, "floor": pytest.approx(0.4)})], "fp32", 89)]
    (model,) = seen  # its weights were found from where the parser read it
    assert not model.functions
    (node,) = [node for node in model.graph.node if node.op_type == "aggregate"]
    values = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    assert (values["plugin_namespace"], values["plugin_version"], values["aot"]) == (b"scclip", b"1", 1)
    Bundle.open(with_nodes).verify_all()


def test_without_a_measurement_the_plain_encoder_is_taken(
    with_nodes: Path, install: Install, host: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(layers(0))
    # What torch gained from the kernels is no reason to build engines with them.
    monkeypatch.setattr("scclip_kernels.fastest.faster_in_triton", lambda *_, **__: True)
    for plugins_wanted in (None, False):
        (report,) = add_engines(with_nodes, [request(plugins=plugins_wanted)])
        sidecar = json.loads((with_nodes / report.sidecar).read_text())
        assert sidecar["source"] == "encoder.fp32.onnx"
        assert ("--no-tensorrt-plugins" in sidecar["command"]) is (plugins_wanted is False)
    asked = []
    monkeypatch.setattr(
        "scclip_export.engines.add.table_prefers", lambda *args, **sizes: asked.append((args, sizes)) or True
    )
    install(layers(1))
    (report,) = add_engines(with_nodes, [request()])
    assert json.loads((with_nodes / report.sidecar).read_text())["source"] == "encoder.fp32.plugins.onnx"
    assert asked == [(("fp32",), {"patches": 36, "windows": 6})]


def test_the_form_built_last_stays_and_the_other_is_named(
    with_nodes: Path, install: Install, host: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(layers(0))
    (plain,) = add_engines(with_nodes, [request(plugins=False)])
    install(layers(1))
    told: list[str] = []
    (ours,) = add_engines(with_nodes, [request(plugins=True)], told.append)
    (dropped,) = ours.dropped
    assert dropped.partition(".b1")[0] == plain.sidecar.partition(".b1")[0]
    assert told[-1] == (
        f"dropped {dropped}: of two that differ in plug-ins alone a bundle keeps the one built last"
    )
    assert Bundle.open(with_nodes).manifest.engines == (ours.sidecar,)


def test_version_compatible_engines_take_none(
    with_nodes: Path, install: Install, host: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They bring plug-ins as shared libraries; ours are in none, and whether they load elsewhere nobody says."""
    with pytest.raises(ExportError, match=r"shared libraries, and ours .* leave one of the two out"):
        request(plugins=True, version_compatible=True)
    monkeypatch.setattr("scclip_export.engines.add.table_prefers", lambda *_, **__: True)
    install(layers(0))
    (report,) = add_engines(with_nodes, [request(version_compatible=True)])
    assert json.loads((with_nodes / report.sidecar).read_text())["source"] == "encoder.fp32.onnx"


def test_a_network_without_its_plugins_is_refused(
    with_nodes: Path, install: Install, host: list[Any]
) -> None:
    install(layers(0))
    with pytest.raises(ExportError, match="has 1 plug-in nodes; tensorrt made 0 plug-ins"):
        add_engines(with_nodes, [request(plugins=True)])


def test_a_bundle_without_such_an_encoder_says_what_to_do(bundle: Path, install: Install) -> None:
    install()
    with pytest.raises(ExportError, match="no fp32 encoder with plug-in nodes for window; export it again"):
        add_engines(bundle, [request(plugins=True)])


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(__version__="10.3.0")
    with pytest.raises(ExportError, match=r"plug-ins of TensorRT 10\.9 or later; 10\.3\.0 has none"):
        plugins.check_plugins(old)
    monkeypatch.setattr(plugins.importlib.util, "find_spec", lambda name: None if name == "triton" else name)
    with pytest.raises(ExportError, match=r"needs triton; install: pip install '\.\[export,triton\]'"):
        plugins.check_plugins(old)


def test_tensorrt_rtx_takes_none(export_cli: Callable[..., int], bundle: Path, capsys: Any) -> None:
    options = ("--bundle", bundle, "--tensorrt-rtx", "--tensorrt-plugins")
    assert export_cli(*options) == 2
    assert "--tensorrt-plugins is for --tensorrt" in capsys.readouterr().err
    with pytest.raises(ExportError, match="TensorRT-RTX takes no such plug-ins"):
        EngineRequest(library="tensorrt-rtx", plugins=True)

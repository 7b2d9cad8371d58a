"""The OpenVINO backend: ONNX Runtime's numbers, its refusals, and an anomaly stage that stays in float32."""

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scclip_rt.backends import open_backend, processor
from scclip_rt.backends.openvino import encoder as backend_module
from scclip_rt.backends.openvino.split import narrow_nodes, split_encoder
from scclip_rt.backends.processor import BF16_FLAGS, processor_flags
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.errors import BackendError, BundleError
from tiny_bundle import EMBED, add_int8_encoder, encoder_model, relist

if importlib.util.find_spec("openvino") is None:
    pytest.skip("extra `openvino`", allow_module_level=True)
openvino = backend_module.load_openvino()

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def bundle(bundle_path: Path) -> Bundle:
    return Bundle.open(bundle_path)


@pytest.fixture(scope="module")
def demo() -> Bundle:
    """The packaged bundle: small, and calibrated as SC-CLIP is."""
    return Bundle.open("demo")


def some_windows(count: int, height: int = 96, width: int = 96) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def unit_text(queries: int, embed: int) -> np.ndarray:
    text = np.random.default_rng(4).standard_normal((queries, embed)).astype(np.float32)
    return text / np.linalg.norm(text, axis=1, keepdims=True)


def test_numbers_are_onnx_runtimes(bundle: Bundle) -> None:
    windows, text = some_windows(5), unit_text(3, EMBED)
    ours = open_backend(bundle, backend="openvino", batch=2)
    for mine, theirs in zip(ours.run(windows, text), open_backend(bundle).run(windows, text), strict=True):
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    assert ours.features(some_windows(0)).shape == (0, 36, EMBED)


def test_a_batch_equals_its_singles(bundle: Bundle) -> None:
    backend, windows = open_backend(bundle, backend="openvino"), some_windows(7)
    singles = np.concatenate([backend.features(window[None]) for window in windows])
    np.testing.assert_allclose(backend.features(windows), singles, atol=1e-6)


def test_results_belong_to_the_caller(bundle: Bundle) -> None:
    backend, windows = open_backend(bundle, backend="openvino"), some_windows(2)
    first = backend.features(windows)
    kept = first.copy()
    backend.features(255 - windows)
    np.testing.assert_array_equal(first, kept)


def test_calls_from_several_threads(bundle: Bundle) -> None:
    backend = open_backend(bundle, backend="openvino", threads=1)
    inputs = [some_windows(1 + i % 3) + np.uint8(i) for i in range(24)]
    with ThreadPoolExecutor(4) as pool:
        for windows, found in zip(inputs, pool.map(backend.features, inputs), strict=True):
            np.testing.assert_allclose(found, backend.features(windows), atol=1e-6)


def test_whole_images_of_any_size(bundle: Bundle) -> None:
    backend = open_backend(bundle, backend="openvino", grid="whole")
    windows = some_windows(1, 96, 160)
    theirs = open_backend(bundle, grid="whole").features(windows)
    np.testing.assert_allclose(backend.features(windows), theirs, atol=1e-5)
    with pytest.raises(ValueError, match=r"takes windows uint8 .*got uint8 \(1, 100, 160, 3\)"):
        backend.features(some_windows(1, 100, 160))


def test_description(bundle: Bundle) -> None:
    info = open_backend(bundle, backend="openvino", threads=1, batch=3).describe()
    assert (info["backend"], info["provider"], info["precision"]) == ("openvino", "CPU", "fp32")
    assert (info["threads"], info["batch"], info["encoder"]) == (1, 3, "encoder.fp32.onnx")
    assert info["version"][:2] == "20"
    assert "openvino was asked for" in info["reason"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:0"}, "runs on the CPU here; got device 'cuda:0'"),
        ({"ort_provider": "cpu"}, "--ort-provider cpu is ONNX Runtime's"),
        ({"precision": "fp16"}, "no precision 'fp16'; it has: fp32, bf16, int8"),
        ({"precision": "int8"}, r"no window encoder in precision 'int8' for cpu; the bundle has: fp32"),
    ],
)
def test_what_it_can_not_do_is_refused(bundle: Bundle, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        open_backend(bundle, backend="openvino", **options)


def test_not_installed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendError, match=r"pip install '\.\[openvino\]'.*--backend onnxruntime"):
        open_backend(bundle, backend="openvino")


def test_damaged_graph(own_bundle: Path) -> None:
    model = encoder_model(6, 6)
    model.graph.node[0].op_type = "NoSuchOperator"
    (own_bundle / "encoder.fp32.onnx").write_bytes(model.SerializeToString())
    relist(own_bundle)
    with pytest.raises(BundleError, match=r"encoder\.fp32\.onnx: OpenVINO can't load it: .*NoSuchOperator"):
        open_backend(Bundle.open(own_bundle), backend="openvino")


def test_graph_that_disagrees_with_the_manifest(own_bundle: Path) -> None:
    (own_bundle / "encoder.fp32.onnx").write_bytes(encoder_model(8, 12).SerializeToString())
    relist(own_bundle)
    with pytest.raises(BundleError, match=r"'windows' is uint8 \(\?, 128, 192, 3\) in the graph"):
        open_backend(Bundle.open(own_bundle), backend="openvino")


def test_nan_never_passes_for_a_result(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match="logits holds NaN or infinity"):
        open_backend(bundle, backend="openvino").run(some_windows(1), np.full((1, EMBED), np.nan, np.float32))


def test_failure_while_running_is_one_line(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match=r"OpenVINO failed with windows \(1, 96, 96, 3\), text \(2, 5\)"):
        open_backend(bundle, backend="openvino").run(some_windows(1), np.zeros((2, 5), np.float32))


def test_int8_runs_the_int8_file(own_bundle: Path) -> None:
    add_int8_encoder(own_bundle)
    both, windows = Bundle.open(own_bundle), some_windows(4)
    backend = open_backend(both, backend="openvino", precision="int8")
    assert (backend.spec.file, backend.describe()["precision"]) == ("encoder.int8.onnx", "int8")
    cosines = (backend.features(windows) * open_backend(both, precision="int8").features(windows)).sum(-1)
    assert cosines.min() > 0.999
    assert open_backend(both, backend="openvino").describe()["precision"] == "fp32"


def kinds(model: Any) -> list[str]:
    return [node.get_type_name() for node in model.get_ordered_ops()]


@pytest.mark.parametrize(
    ("precision", "threads", "streams"),
    [("int8", 2, [2, 1]), ("int8", 3, [1]), ("int8", 1, [1]), ("fp32", 2, [1])],
)
def test_int8_batches_are_two_inferences_at_a_time_and_a_window_alone_has_all_threads(
    own_bundle: Path, monkeypatch: pytest.MonkeyPatch, precision: str, threads: int, streams: list[int]
) -> None:
    add_int8_encoder(own_bundle)
    compiled: list[int] = []
    real = backend_module._compile

    def compile_model(core: Any, model: Any, threads: int, precision: str, streams: int = 1) -> Any:
        compiled.append(streams)
        return real(core, model, threads, precision, streams)

    monkeypatch.setattr(backend_module, "_compile", compile_model)
    backend = open_backend(Bundle.open(own_bundle), backend="openvino", precision=precision, threads=threads)
    windows = some_windows(7)
    together = backend.features(windows)
    assert compiled == streams[:1]
    np.testing.assert_allclose(together[:1], backend.features(windows[:1]), atol=1e-6)
    np.testing.assert_allclose(together[6:], backend.features(windows[6:]), atol=1e-6)
    assert compiled == streams


def test_the_anomaly_stage_is_cut_out_whole(demo: Bundle) -> None:
    spec = demo.encoders_for("window")[0]
    split = split_encoder(openvino.Core().read_model(str(demo.path / spec.file)))
    assert split is not None
    # Distances (one product), the two selections, and no weights: those of more than two dimensions stay outside.
    assert kinds(split.stage).count("TopK") == 2
    assert kinds(split.stage).count("MatMul") == 1
    assert "TopK" not in kinds(split.trunk) + kinds(split.tail)
    assert [str(port.partial_shape) for port in split.stage.outputs] == ["[?,10]"]
    assert {name for port in split.tail.outputs for name in port.names} >= {"features", "logits"}


def test_an_encoder_without_anomalies_is_not_cut(bundle: Bundle) -> None:
    assert split_encoder(openvino.Core().read_model(str(bundle.path / "encoder.fp32.onnx"))) is None


@pytest.fixture
def bf16_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "processor_flags", lambda: frozenset({"avx512_bf16"}))
    monkeypatch.setattr(backend_module, "processor_vendor", lambda: "AuthenticAMD")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """OpenVINO takes float32 whatever it is asked for; the precisions that it was asked for."""
    real, asked = backend_module._compile, []

    def in_float32(core: Any, model: Any, threads: int, precision: str, streams: int = 1) -> Any:
        asked.append(precision)
        return real(core, model, threads, "f32", streams)

    monkeypatch.setattr(backend_module, "_compile", in_float32)
    return asked


@pytest.mark.usefixtures("bf16_processor")
@pytest.mark.parametrize("grid", ["window", "whole"])
def test_the_three_parts_are_the_encoder(
    demo: Bundle, asked: list[str], monkeypatch: pytest.MonkeyPatch, grid: Any
) -> None:
    """In float32, so that every processor can tell: what bf16 changes is numbers, not the cut."""
    monkeypatch.setattr(backend_module, "_check_taken", lambda *_: None)
    backend = open_backend(demo, backend="openvino", precision="bf16", grid=grid)
    assert asked == ["bf16", "f32", "bf16"]  # the anomaly stage is in the middle
    assert backend.describe()["precision"] == "bf16"
    windows = some_windows(2, 224, 224 if grid == "window" else 128)
    text = unit_text(3, demo.model.embed_dim)
    expected = open_backend(demo, grid=grid).run(windows, text)
    for found, wanted in zip(backend.run(windows, text), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.usefixtures("bf16_processor")
def test_int8_of_whole_images_is_bf16_beside_its_products(
    demo: Bundle, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "_check_taken", lambda *_: None)
    cut = open_backend(demo, backend="openvino", precision="int8", grid="whole")
    assert asked == ["bf16", "f32", "bf16"]
    assert cut.describe()["precision"] == "int8"
    open_backend(demo, backend="openvino", precision="int8")
    assert asked[3:] == ["f32"]  # windows
    monkeypatch.setattr(
        backend_module, "processor_vendor", lambda: "GenuineIntel"
    )  # has bf16, and loses by it
    whole = open_backend(demo, backend="openvino", precision="int8", grid="whole")
    assert asked[4:] == ["f32"]
    windows = some_windows(2, 128, 224)
    np.testing.assert_allclose(cut.features(windows), whole.features(windows), atol=2e-5)


@pytest.mark.usefixtures("bf16_processor")
def test_int8_of_an_unknown_form_stays_float32(
    demo: Bundle, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "split_encoder", lambda _: None)
    open_backend(demo, backend="openvino", precision="int8", grid="whole")
    assert asked == ["f32"]


@pytest.mark.usefixtures("bf16_processor")
def test_a_stage_of_unknown_form_is_refused(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "split_encoder", lambda _: None)
    with pytest.raises(BackendError, match=r"a form that this version doesn't know.*use --precision fp32"):
        open_backend(demo, backend="openvino", precision="bf16")


@pytest.mark.usefixtures("bf16_processor")
def test_a_stage_that_came_out_narrow_is_refused(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "_check_taken", lambda *_: None)
    monkeypatch.setattr(backend_module, "narrow_nodes", lambda _: ["gram (MatMul): bf16"])
    with pytest.raises(BackendError, match=r"not compute the anomaly distances in float32 \(gram \(MatMul\)"):
        open_backend(demo, backend="openvino", precision="bf16")


def test_narrow_nodes_are_read_from_the_runtime_model() -> None:
    def node(name: str, kind: str, precision: str, outputs: str) -> Any:
        info = {"layerType": kind, "runtimePrecision": precision, "outputPrecisions": outputs}
        return SimpleNamespace(get_rt_info=lambda: info, get_friendly_name=lambda: name)

    nodes = [
        node("weights", "Const", "bf16", "bf16"),
        node("gram", "MatMul", "bf16", "f32"),
        node("mean", "Reduce", "f32", "bf16"),
        node("masked", "Eltwise", "u8", "f32"),
        node("top", "TopK", "f32", "f32,i32"),
    ]
    model = SimpleNamespace(get_ordered_ops=lambda: nodes)
    compiled = SimpleNamespace(get_runtime_model=lambda: model)
    assert narrow_nodes(compiled) == ["gram (MatMul): bf16", "mean (Reduce): f32"]


def test_bf16_without_the_arithmetic_is_refused(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "processor_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(BackendError, match=r"needs a processor with bf16 .*Use --precision fp32, or int8"):
        open_backend(demo, backend="openvino", precision="bf16")


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_onednn_can_be_held_from_bf16(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_cpuinfo", lambda: {"flags": "avx2 avx512_vnni avx512_bf16"})
    assert processor_flags() == {"avx2", "avx512_vnni", "avx512_bf16"}
    for isa in ("AVX512_CORE_BF16", "all"):
        monkeypatch.setenv(variable, isa)
        assert "avx512_bf16" in processor_flags()
    for isa in ("AVX2", "avx512_core_vnni"):
        monkeypatch.setenv(variable, isa)
        assert processor_flags() == {"avx2", "avx512_vnni"}


@pytest.mark.usefixtures("bf16_processor", "asked")
def test_a_hint_that_was_not_taken_is_an_error(demo: Bundle) -> None:
    with pytest.raises(BackendError, match="asked OpenVINO for bf16, it took f32"):
        open_backend(demo, backend="openvino", precision="bf16")


@pytest.mark.usefixtures("bf16_processor")
def test_bf16_in_earnest(demo: Bundle) -> None:
    """Where the processor has it; on another OpenVINO takes float32, which is refused."""
    if not processor_flags() & BF16_FLAGS:
        with pytest.raises(BackendError, match="asked OpenVINO for bf16, it took f32"):
            open_backend(demo, backend="openvino", precision="bf16")
        return
    backend, windows = open_backend(demo, backend="openvino", precision="bf16"), some_windows(2, 224, 224)
    cosines = (backend.features(windows) * open_backend(demo).features(windows)).sum(-1)
    assert cosines.mean() > 0.999


def test_nothing_is_sent(bundle_path: Path, tmp_path: Path) -> None:
    """`import openvino` reports itself, unless what reports is out of reach."""
    code = (
        "import socket, sys, threading, scclip_rt, numpy as np\n"
        "def refuse(*_): raise AssertionError('a connection')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        f"segment = scclip_rt.Segmenter({str(bundle_path)!r}, backend='openvino')\n"
        "segment.encode(np.zeros((96, 96, 3), np.uint8))\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')]\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "import openvino_telemetry"  # still there for whoever wants it
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY, env=environment, timeout=600)
    assert [path.name for path in tmp_path.iterdir()] == ["scclip-rt"]

"""Backends: the numbers, and every way of asking for what is not there."""

import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

import scclip_rt
from scclip_rt import cpus
from scclip_rt.backends import open_backend, open_text_backend
from scclip_rt.backends.choose import choose_encoder
from scclip_rt.backends.host_encoder import Feeds
from scclip_rt.backends.onnxruntime import session as ort_session
from scclip_rt.backends.onnxruntime.encoder import OnnxRuntimeEncoder
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.errors import BackendError, BundleError, OptionError
from tiny_bundle import EMBED, edit_manifest, encoder_entry, encoder_model, projection, relist


@pytest.fixture(scope="module")
def bundle(bundle_path: Path) -> Bundle:
    return Bundle.open(bundle_path)


def some_windows(count: int, height: int = 96, width: int = 96) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def expected_features(windows: np.ndarray) -> np.ndarray:
    b, h, w, _ = windows.shape
    colours = windows.reshape(b, h // 16, 16, w // 16, 16, 3).mean((2, 4)).reshape(b, -1, 3) - 120.5
    projected = colours @ projection()
    return projected / np.linalg.norm(projected, axis=-1, keepdims=True)


def test_features_and_cosines(bundle: Bundle) -> None:
    windows, text = some_windows(3), np.eye(EMBED, dtype=np.float32)[:5]
    features, logits = open_backend(bundle).run(windows, text)
    assert features.dtype == logits.dtype == np.float32
    np.testing.assert_allclose(features, expected_features(windows), atol=1e-5)
    np.testing.assert_allclose(logits, features @ text.T, atol=1e-6)
    np.testing.assert_array_equal(open_backend(bundle).features(windows), features)


@pytest.mark.parametrize("batch", [1, 2, 7, 100])
def test_a_batch_equals_its_singles(bundle: Bundle, batch: int) -> None:
    backend = open_backend(bundle, batch=batch)
    assert backend.batch_size == batch
    windows = some_windows(7)
    singles = np.concatenate([backend.features(window[None]) for window in windows])
    np.testing.assert_array_equal(backend.features(windows), singles)


@pytest.mark.parametrize(
    ("parts", "runs"), [(1, [8, 3]), (2, [4, 4, 1, 2]), (3, [2, 3, 3, 1, 1, 1]), (16, [1] * 11)]
)
def test_a_batch_is_cut_into_parts(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, parts: int, runs: list[int]
) -> None:
    backend, windows, seen = open_backend(bundle, batch=8), some_windows(11), []
    assert isinstance(backend, OnnxRuntimeEncoder)
    backend.parts = parts
    real = OnnxRuntimeEncoder.infer

    def infer(self: OnnxRuntimeEncoder, names: Sequence[str], feeds: Feeds) -> list[Any]:
        seen.append(len(feeds["windows"]))
        return real(self, names, feeds)

    monkeypatch.setattr(OnnxRuntimeEncoder, "infer", infer)
    features = backend.features(windows)
    assert sorted(seen) == sorted(runs)
    np.testing.assert_allclose(features, expected_features(windows), atol=1e-5)


def test_parts_of_a_batch_run_at_the_same_time_and_one_error_ends_them(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, together = open_backend(bundle), threading.Barrier(2, timeout=60)
    assert isinstance(backend, OnnxRuntimeEncoder)
    backend.parts = 2
    real = OnnxRuntimeEncoder.infer

    def infer(self: OnnxRuntimeEncoder, names: Sequence[str], feeds: Feeds) -> list[Any]:
        together.wait()
        return real(self, names, feeds)

    monkeypatch.setattr(OnnxRuntimeEncoder, "infer", infer)
    windows = some_windows(5)
    np.testing.assert_allclose(backend.features(windows), expected_features(windows), atol=1e-5)

    def fail(self: OnnxRuntimeEncoder, names: Sequence[str], feeds: Feeds) -> list[Any]:
        together.wait()
        raise BackendError("no")

    monkeypatch.setattr(OnnxRuntimeEncoder, "infer", fail)
    with pytest.raises(BackendError, match="no"):
        backend.features(windows)


def test_no_windows_give_no_features(bundle: Bundle) -> None:
    backend = open_backend(bundle)
    assert backend.features(some_windows(0)).shape == (0, 36, EMBED)
    features, logits = backend.run(some_windows(0), np.eye(EMBED, dtype=np.float32)[:5])
    assert (features.shape, logits.shape) == ((0, 36, EMBED), (0, 36, 5))


def test_batch_stays_within_the_axis_of_the_manifest(own_bundle: Path) -> None:
    edit_manifest(own_bundle, lambda document: document["encoders"][0]["axes"]["batch"].update(max=2))
    assert open_backend(Bundle.open(own_bundle), batch=5).batch_size == 2


def test_whole_images_prefer_the_dynamic_grid(own_bundle: Path) -> None:
    backend = open_backend(Bundle.open(own_bundle), grid="whole")
    assert backend.spec.grid.kind == "dynamic"
    assert backend.features(some_windows(1, 96, 160)).shape == (1, 60, EMBED)
    with pytest.raises(ValueError, match=r"takes windows uint8 .*got uint8 \(1, 100, 160, 3\)"):
        backend.features(some_windows(1, 100, 160))
    with pytest.raises(ValueError, match="got uint8"):
        backend.features(some_windows(1, 80, 160))
    edit_manifest(own_bundle, lambda document: document["encoders"].pop(1))
    assert open_backend(Bundle.open(own_bundle), grid="whole").spec.grid.rows == 8


def test_whole_image_without_such_an_encoder_names_the_flags(own_bundle: Path) -> None:
    edit_manifest(own_bundle, lambda document: document.update(encoders=document["encoders"][:1]))
    with pytest.raises(BackendError, match=r"`--dynamic-grid` .*`--image-size HxW`"):
        open_backend(Bundle.open(own_bundle), grid="whole")


@pytest.mark.parametrize(
    "windows", [np.zeros((1, 64, 96, 3), np.uint8), np.zeros((1, 96, 96, 3), np.float32)]
)
def test_windows_of_another_kind_are_refused(bundle: Bundle, windows: Any) -> None:
    with pytest.raises(ValueError, match=r"takes windows uint8 \(batch, 96, 96, 3\)"):
        open_backend(bundle).features(windows)


def test_description_says_what_runs_where(bundle: Bundle) -> None:
    info = open_backend(bundle, threads=1).describe()
    assert info["provider"] == "CPUExecutionProvider"
    assert (info["device"], info["precision"], info["threads"]) == ("cpu", "fp32", 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "torch"}, "unknown backend 'torch'; this version offers: auto, onnxruntime, openvino"),
        ({"device": "gpu"}, "unknown device 'gpu'; known: auto, cpu, cuda:N"),
        ({"device": "cuda:0"}, r"no 'cuda' provider; it has: cpu\. Put the GPU build \(extra `gpu`\)"),
        ({"ort_provider": "tensorrt"}, "no 'tensorrt' provider; it has: cpu"),
        ({"ort_provider": "rocm"}, "unknown ONNX Runtime provider 'rocm'; known: cpu, cuda, tensorrt"),
        ({"ort_provider": "cuda", "device": "cpu"}, "provider 'cuda' doesn't run on device 'cpu'"),
        ({"ort_provider": "cpu", "device": "cuda:1"}, "provider 'cpu' doesn't run on device 'cuda:1'"),
        ({"precision": "fp16"}, "'fp16' is refused on the CPU: ONNX Runtime has no fp16 arithmetic"),
        (
            {"precision": "int8"},
            "no window encoder in precision 'int8' for cpu; the bundle has: fp32 for cpu/cuda",
        ),
    ],
)
def test_what_is_not_there_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendError, match=message):
        open_backend(bundle, **options)


@pytest.mark.parametrize("options", [{"threads": 0}, {"batch": 0}, {"batch": -3}])
def test_options_out_of_range(bundle: Bundle, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="must be at least 1"):
        open_backend(bundle, **options)


def test_provider_that_was_not_taken_is_an_error(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU build on a machine without a driver lists the provider, then falls back."""
    import onnxruntime

    real = onnxruntime.InferenceSession
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: list(ort_session.PROVIDERS.values()))
    asked: list[Any] = []

    def fall_back(path: str, sess_options: Any, providers: Any, **options: Any) -> Any:
        asked.extend(providers)
        assert options == {
            "enable_fallback": 0
        }  # it would go on with another provider, told on standard output
        return real(path, sess_options=sess_options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr("onnxruntime.InferenceSession", fall_back)
    message = "asked for CUDAExecutionProvider, ONNX Runtime took CPUExecutionProvider"
    with pytest.raises(BackendError, match=message):
        open_backend(bundle, device="cuda:1")
    assert asked == [("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0"})]
    asked.clear()
    with pytest.raises(BackendError, match=message):
        ort_session.create_session(bundle, bundle.encoders[0], provider="cuda", cuda_graphs=True)
    cuda = {"device_id": "0", "use_tf32": "0"}
    assert asked == [("CUDAExecutionProvider", {**cuda, "enable_cuda_graph": "1"})]
    asked.clear()
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with pytest.raises(BackendError, match="asked for TensorrtExecutionProvider"):
        open_backend(bundle, ort_provider="tensorrt")
    (name, options), second = asked  # the CUDA provider takes what TensorRT leaves, without TF32 as well
    assert second == ("CUDAExecutionProvider", cuda)
    # No `trt_fp16_enable` or `trt_bf16_enable`: the file says what is narrow, and the switch would narrow fp32 islands.
    assert (name, set(options)) == (
        "TensorrtExecutionProvider",
        {"device_id", "trt_engine_cache_enable", "trt_engine_cache_path"},
    )
    assert options["trt_engine_cache_path"].endswith("scclip-rt/ort-tensorrt")


def test_gpu_libraries_that_pip_installed_are_loaded_first(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """CUDA and cuDNN from wheels lie where the dynamic loader does not look; ONNX Runtime loads them when asked to."""
    import onnxruntime

    real, steps = onnxruntime.InferenceSession, list[str]()

    def preload() -> None:
        steps.append("preload")
        print("Failed to load libcudnn.so.9")

    def fall_back(path: str, sess_options: Any, providers: Any, **options: Any) -> Any:
        steps.append("session")
        return real(path, sess_options=sess_options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: list(ort_session.PROVIDERS.values()))
    monkeypatch.setattr("onnxruntime.preload_dlls", preload)
    monkeypatch.setattr("onnxruntime.InferenceSession", fall_back)
    ort_session.preload_gpu_libraries.cache_clear()
    open_backend(bundle, device="cpu")
    assert steps == ["session"]  # a CPU needs none of it
    with pytest.raises(BackendError, match=r"a driver or library.*\(Failed to load libcudnn\.so\.9\)"):
        open_backend(bundle, device="cuda:0")
    assert steps == ["session", "preload", "session"]
    assert capsys.readouterr().out == ""  # standard output is for results
    ort_session.preload_gpu_libraries.cache_clear()


def test_nodes_that_a_gpu_provider_leaves_to_the_cpu_are_counted() -> None:
    """As seen by a session that has no GPU at all: every node is one of them."""
    import onnxruntime

    path = Path(scclip_rt.__file__).parent / "demo.scclip" / "encoder.fp32.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found = ort_session.nodes_on_the_cpu(session)
    kinds = Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)
    assert found["Pad"] == kinds["Pad"] == 1  # CUDA's had no kernel for it before 2026
    assert found["ReduceMax"] == kinds["ReduceMax"] == 2
    assert ort_session.nodes_on_the_cpu(object()) == {}  # an ONNX Runtime that can't say


def test_a_graph_that_must_be_on_the_gpu_as_a_whole_is_refused_otherwise(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ONNX Runtime itself, whose builds for CPUs have a second provider that takes no node."""
    import onnxruntime

    idle = "AzureExecutionProvider"
    if idle not in onnxruntime.get_available_providers():
        pytest.skip("this build of ONNX Runtime has no second provider")
    monkeypatch.setitem(ort_session.PROVIDERS, "cuda", idle)
    monkeypatch.setattr(ort_session, "_provider_options", lambda *_: [(idle, {})])
    spec = bundle.encoders[0]
    ort_session.create_session(bundle, spec, provider="cuda")
    with pytest.raises(BackendError, match=r"can't load it on cuda: .* assigned to the default CPU EP"):
        ort_session.create_session(bundle, spec, provider="cuda", all_on_gpu=True)


def test_encoder_of_the_first_precision_that_the_device_has(own_bundle: Path) -> None:
    grid = {"kind": "window", "rows": 6, "columns": 6}

    def add(document: dict[str, Any]) -> None:
        for precision in ("int8", "fp16"):
            document["encoders"].insert(0, encoder_entry("encoder.fp32.onnx", grid, precision))
        document["encoders"][0]["runs_on"] = ["cuda"]

    edit_manifest(own_bundle, add)
    bundle = Bundle.open(own_bundle)

    def chosen(kind: Any, *precisions: str) -> str:
        return choose_encoder(bundle, precisions=precisions, kind=kind, grid="window").precision

    assert chosen("cuda", "fp16", "fp32") == "fp16"
    assert chosen("cpu", "fp16", "fp32") == "fp32"
    assert chosen("cpu", "int8", "fp32") == "int8"
    assert open_backend(bundle).describe()["precision"] == "fp32"


@pytest.fixture
def _fresh_warning() -> Iterator[None]:
    ort_session.warn_about_double_install.cache_clear()
    yield
    ort_session.warn_about_double_install.cache_clear()


@pytest.mark.usefixtures("_fresh_warning")
def test_double_install_is_warned_about_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("onnxruntime-1.32.0", "onnxruntime_gpu-1.32.0", "onnxruntime_extensions-0.14.0"):
        (tmp_path / f"{name}.dist-info").mkdir()
    package = SimpleNamespace(__file__=str(tmp_path / "onnxruntime/__init__.py"))
    monkeypatch.setattr(ort_session, "load_onnxruntime", lambda: package)
    with pytest.warns(UserWarning, match="onnxruntime 1.32.0 and onnxruntime-gpu 1.32.0 are both installed"):
        ort_session.warn_about_double_install()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ort_session.warn_about_double_install()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("name", r"the graph's inputs are photo, text; bundle\.json says windows, text"),
        (
            "shape",
            r"'windows' is uint8 \(batch, 128, 192, 3\) in the graph; bundle\.json says windows: uint8",
        ),
        ("dtype", r"tensor 'text' is tensor\(double\) \(queries, 8\) in the graph"),
        ("output", r"the graph's outputs are features; bundle\.json says features, logits"),
    ],
)
def test_graph_that_disagrees_with_the_manifest(own_bundle: Path, change: str, message: str) -> None:
    model = encoder_model(8, 12) if change == "shape" else encoder_model(6, 6)
    if change == "name":
        model.graph.input[0].name = model.graph.node[0].input[0] = "photo"
    if change == "output":
        del model.graph.output[1]
    if change == "dtype":
        model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
        model.graph.node[-2].input[0] = "float_text"
        model.graph.node.insert(0, onnx.helper.make_node("Cast", ["text"], ["float_text"], to=1))
    (own_bundle / "encoder.fp32.onnx").write_bytes(model.SerializeToString())
    relist(own_bundle)
    with pytest.raises(BundleError, match=message):
        open_backend(Bundle.open(own_bundle))


def test_graph_that_onnxruntime_cannot_load(own_bundle: Path) -> None:
    model = encoder_model(6, 6)
    model.graph.node[0].op_type = "NoSuchOperator"
    (own_bundle / "encoder.fp32.onnx").write_bytes(model.SerializeToString())
    relist(own_bundle)
    with pytest.raises(
        BundleError, match=r"encoder\.fp32\.onnx: ONNX Runtime can't load it: .*NoSuchOperator"
    ):
        open_backend(Bundle.open(own_bundle))


def test_nan_never_passes_for_a_result(bundle: Bundle) -> None:
    text = np.full((1, EMBED), np.nan, np.float32)
    with pytest.raises(BackendError, match="logits holds NaN or infinity"):
        open_backend(bundle).run(some_windows(1), text)


def test_text_encoder(bundle: Bundle) -> None:
    backend = open_text_backend(bundle, threads=1)
    embeddings = backend.encode(np.array([[5, 6, 7], [8, 9, 10]], np.int64))
    assert embeddings.shape == (2, EMBED)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    with pytest.raises(ValueError, match="T from 1 to 77"):
        backend.encode(np.zeros((1, 78), np.int64))


def test_default_threads_follow_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "cpu_quota", lambda: None)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(cpus, "physical_core", lambda cpu: str(cpu // 2))
    assert cpus.default_threads() == cpus.worker_threads(None) == 4
    monkeypatch.setattr(cpus, "cpu_quota", lambda: 1.5)
    assert cpus.default_threads() == cpus.worker_threads(None) == 2


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        (
            {
                "proc/self/cgroup": "0::/system.slice/app\n",
                "sys/fs/cgroup/system.slice/app/cpu.max": "400000 100000",
                "sys/fs/cgroup/system.slice/cpu.max": "200000 100000",
            },
            2.0,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, None),
        ({"sys/fs/cgroup/cpu.max": "nonsense"}, None),
    ],
)
def test_quotas_of_containers(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpus.cpu_quota(tmp_path) == quota

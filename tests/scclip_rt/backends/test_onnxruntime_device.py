"""ONNX Runtime's GPU providers on device memory: a fake driver, and the CPU provider behind a faked I/O binding."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cuda.bindings", reason="cuda-python is not installed (extra dev)")

from scclip_rt import Segmenter
from scclip_rt.backends import cuda, open_backend
from scclip_rt.backends.cuda import device as device_module
from scclip_rt.backends.cuda.encoder import DeviceEncoder
from scclip_rt.backends.onnxruntime import cuda_graphs as ort_graphs
from scclip_rt.backends.onnxruntime import device as ort_device
from scclip_rt.backends.onnxruntime import encoder as onnxruntime
from scclip_rt.backends.onnxruntime import session as ort_session
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.errors import BackendError
from stand_ins.cuda import FakeDriver, ForeignArray
from stand_ins.kernels import add_kernels
from tiny_bundle import add_attention, blocks_image, edit_manifest

OPENED: list["FakeGpuSession"] = []
FILES: list[str] = []
REFUSED: list[str] = []
ON_THE_CPU: list[str] = []
WITH_GRAPHS: list[DeviceEncoder] = []
CLASSES = ["red; green, lawn", "blue", "grey, black", "orange"]


class FakeBinding:
    def __init__(self, fake: FakeDriver) -> None:
        self.fake, self.inputs, self.outputs = fake, {}, {}

    def bind_input(self, name: str, kind: str, number: int, dtype: Any, shape: Any, pointer: int) -> None:
        assert (kind, number) == ("cuda", 0)
        self.inputs[name] = (pointer, shape, dtype)

    def bind_output(self, name: str, kind: str, number: int, dtype: Any, shape: Any, pointer: int) -> None:
        assert (kind, number) == ("cuda", 0)
        self.outputs[name] = (pointer, shape, dtype)


class FakeGpuSession:
    """A CPU session that says it is CUDA's and works on the fake driver's memory.

    With `graphs` it captures as ONNX Runtime does: by number (0 where none is given), tied to thread and addresses,
    which a replay does not look at any more.
    """

    def __init__(self, session: Any, fake: FakeDriver, *, graphs: bool = False) -> None:
        self._session, self._fake, self._graphs = session, fake, graphs
        self.fails = ""
        self.fails_in_capture = ""
        self.captured: dict[int, tuple[int, FakeBinding]] = {}
        self.replays = 0

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def io_binding(self) -> FakeBinding:
        return FakeBinding(self._fake)

    def run_with_iobinding(self, binding: FakeBinding, options: Any = None) -> None:
        if self.fails:
            raise RuntimeError(self.fails)
        number = int(options.get_run_config_entry("gpu_graph_id")) if options is not None else 0
        if not self._graphs or number == -1:
            self._run(binding)
            return
        thread = threading.get_ident()
        if number not in self.captured:
            if self.fails_in_capture:
                raise RuntimeError(self.fails_in_capture)
            self.captured[number] = (thread, binding)
        else:
            self.replays += 1
        assert self.captured[number][0] == thread
        self._run(self.captured[number][1])

    def _run(self, binding: FakeBinding) -> None:
        feeds = {name: self._fake.view(*bound).copy() for name, bound in binding.inputs.items()}
        for (pointer, shape, dtype), value in zip(
            binding.outputs.values(), self._session.run(list(binding.outputs), feeds), strict=True
        ):
            assert value.shape == tuple(shape)
            self._fake.view(pointer, shape, dtype)[...] = value


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    driver = FakeDriver()
    wrapped = cuda.Driver(driver)
    monkeypatch.setattr(ort_device, "load_driver", lambda: wrapped)
    real = ort_session.create_session

    def create(bundle: Bundle, spec: Any, *, provider: str = "cpu", **options: Any) -> Any:
        session = real(bundle, spec, threads=options.get("threads"))
        if provider == "cpu":
            return session
        FILES.append(spec.file)
        if options["all_on_gpu"] and ON_THE_CPU:
            raise BackendError(ON_THE_CPU[0])
        graphs = options.get("cuda_graphs", False)
        if graphs and REFUSED:
            raise BackendError(REFUSED[0])
        OPENED.append(FakeGpuSession(session, driver, graphs=graphs))
        return OPENED[-1]

    for told in (OPENED, FILES, REFUSED, ON_THE_CPU):
        told.clear()
    monkeypatch.setattr(onnxruntime, "create_session", create)
    monkeypatch.setattr(ort_session, "_check_installed", lambda _: None)
    yield driver
    for encoder in WITH_GRAPHS:
        encoder.close()  # a thread each
    WITH_GRAPHS.clear()
    device_module._OPEN.clear()


def windows_of(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, 96, 96, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 5, 40])
def test_features_are_the_cpus(bundle_path: Path, fake: FakeDriver, count: int) -> None:
    bundle = Bundle.open(bundle_path)
    windows = windows_of(count)
    wanted = open_backend(bundle, backend="onnxruntime").features(windows)
    backend = open_backend(bundle, device="cuda:0", batch=8)
    np.testing.assert_array_equal(backend.features(windows), wanted)
    assert backend.describe()["provider"] == "CUDAExecutionProvider"


def test_images_are_cut_and_decoded_on_the_device(own_bundle: Path, fake: FakeDriver) -> None:
    add_kernels(own_bundle, fake)
    image = blocks_image(260, 410)
    options: dict[str, Any] = {"classes": CLASSES, "templates": "none"}
    wanted = Segmenter(own_bundle, backend="onnxruntime", **options)(image).labels
    segment = Segmenter(own_bundle, device="cuda:0", **options)
    for picture in (image, ForeignArray(fake, image), image):
        np.testing.assert_array_equal(segment(picture).labels, wanted)
    downloads = [call.arguments[2] for call in fake.calls if call.name == "cuMemcpyDtoHAsync"]
    assert max(downloads) < 260 * 410 + 1024
    assert fake.count("cuGraphLaunch") == 0
    assert segment.backend.describe()["details"]["decode"] == "on the GPU"


PLAIN, FORM = "encoder.fp16.onnx", "encoder.fp16.opset23.onnx"


@pytest.mark.parametrize("version", ["1.31.0", "1.32.0.dev1", "2.0"])
@pytest.mark.parametrize("provider", ["cuda", "cuda-graphs"])
def test_the_form_with_attention_is_taken_where_onnxruntime_has_the_operator(
    own_bundle: Path, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch, version: str, provider: str
) -> None:
    monkeypatch.setattr("onnxruntime.__version__", version)
    bundle, windows = Bundle.open(add_attention(own_bundle)), windows_of(6)
    backend = open_backend(bundle, ort_provider=provider)
    info = backend.describe()
    assert (info["encoder"], info["precision"], FILES) == (FORM, "fp16", [FORM])
    assert info["reason"].endswith(f"; ONNX Runtime {version} has the Attention of {FORM} on CUDA")
    for count in (1, 6):
        wanted = open_backend(bundle, backend="onnxruntime", device="cpu").features(windows[:count])
        np.testing.assert_array_equal(backend.features(windows[:count]), wanted)
    if isinstance(backend, DeviceEncoder):
        backend.close()


@pytest.mark.parametrize("version", ["1.9.0", "1.24.4", "1.30.2"])
def test_an_older_onnxruntime_keeps_the_file_without_it_and_says_why(
    own_bundle: Path, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr("onnxruntime.__version__", version)
    info = open_backend(Bundle.open(add_attention(own_bundle)), device="cuda:0").describe()
    assert (info["encoder"], FILES) == (PLAIN, [PLAIN])
    assert info["reason"].endswith(f"; {FORM} is for ONNX Runtime 1.31 and later, this is {version}")


def test_a_form_that_would_leave_nodes_on_the_cpu_is_not_taken(own_bundle: Path, fake: FakeDriver) -> None:
    ON_THE_CPU.append("nodes are assigned to the default CPU EP")
    bundle = Bundle.open(add_attention(own_bundle))
    backend = open_backend(bundle, device="cuda:0")
    info = backend.describe()
    assert (info["encoder"], FILES) == (PLAIN, [FORM, PLAIN])
    assert info["reason"].endswith(f"; {FORM} was refused (nodes are assigned to the default CPU EP)")
    assert backend.features(windows_of(2)).shape[0] == 2


@pytest.mark.parametrize(
    ("options", "file"),
    [
        ({"device": "cuda:0", "precision": "fp32"}, "encoder.fp32.onnx"),
        ({"ort_provider": "tensorrt"}, PLAIN),
        ({"device": "cuda:0", "grid": "whole"}, "encoder.fp16.dynamic.onnx"),
    ],
)
def test_where_the_form_with_attention_is_not_looked_for(
    own_bundle: Path, fake: FakeDriver, options: dict[str, Any], file: str
) -> None:
    info = open_backend(Bundle.open(add_attention(own_bundle)), **options).describe()
    assert info["encoder"] == file
    assert "opset23" not in info["reason"]


def test_whole_images_of_one_size_take_the_form_with_attention(own_bundle: Path, fake: FakeDriver) -> None:
    add_attention(own_bundle)
    edit_manifest(
        own_bundle,
        lambda document: document.update(
            encoders=[e for e in document["encoders"] if e["grid"]["kind"] != "dynamic"]
        ),
    )
    info = open_backend(Bundle.open(own_bundle), device="cuda:0", grid="whole").describe()
    assert info["encoder"] == "encoder.fp16.opset23.128x192.onnx"


def test_a_failing_run_is_one_line(bundle_path: Path, fake: FakeDriver) -> None:
    backend = open_backend(Bundle.open(bundle_path), device="cuda:0")
    OPENED[-1].fails = "CUDA failure 700:\n illegal memory access"
    with pytest.raises(
        BackendError, match=r"failed on cuda:0 with 2 windows and 1 queries: CUDA failure 700: illegal"
    ):
        backend.features(windows_of(2))


def test_without_cuda_python_the_host_path_is_taken_and_said(
    bundle_path: Path, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Any:
        raise BackendError("this backend needs cuda-python")

    monkeypatch.setattr(ort_device, "load_driver", missing)
    info = open_backend(Bundle.open(bundle_path), device="cuda:0").describe()
    assert info["details"]["device_path"] == "not taken: this backend needs cuda-python"


def graphs_of(segment: Segmenter) -> object:
    return segment.backend.describe()["details"]["onnxruntime_graphs"]


def with_graphs(root: Path, fake: FakeDriver, **options: Any) -> Segmenter:
    add_kernels(root, fake)
    segment = Segmenter(root, classes=CLASSES, templates="none", ort_provider="cuda-graphs", **options)
    if isinstance(segment.backend, DeviceEncoder):
        WITH_GRAPHS.append(segment.backend)
    return segment


def test_onnxruntimes_own_graphs_replay_each_shape(own_bundle: Path, fake: FakeDriver) -> None:
    segment = with_graphs(own_bundle, fake)
    reference = Segmenter(own_bundle, backend="onnxruntime", classes=CLASSES, templates="none")
    for i in range(8):
        image = blocks_image(150 + 10 * (i % 2), 220 + 90 * (i % 2), i)  # another number of windows too
        np.testing.assert_array_equal(segment(image).labels, reference(image).labels)
    (session,) = OPENED
    assert sorted(session.captured) == [1, 2]  # a shape's first image runs without
    assert session.replays == 4
    assert graphs_of(segment) == "2 captured"


def test_other_addresses_do_not_get_a_captured_graph(own_bundle: Path, fake: FakeDriver) -> None:
    """Of an image in several runs only one has the buffers that the graph was captured with."""
    segment = with_graphs(own_bundle, fake, batch=2)
    reference = Segmenter(own_bundle, backend="onnxruntime", classes=CLASSES, templates="none")
    for seed in range(4):
        image = blocks_image(130, 700, seed)
        np.testing.assert_array_equal(segment(image).labels, reference(image).labels)
    assert len(OPENED[0].captured) == 1


def test_threads_take_turns_on_a_session_with_graphs(own_bundle: Path, fake: FakeDriver) -> None:
    segment = with_graphs(own_bundle, fake)
    images = [blocks_image(150, 220, i) for i in range(8)]
    reference = Segmenter(own_bundle, backend="onnxruntime", classes=CLASSES, templates="none")
    for image, result in zip(images, segment.stream(images), strict=True):
        np.testing.assert_array_equal(result.labels, reference(image).labels)
    assert {thread for thread, _ in OPENED[0].captured.values()} != {threading.get_ident()}
    assert segment.backend.describe()["details"]["streams"] == 1


def test_a_failed_capture_ends_graphs_not_results(own_bundle: Path, fake: FakeDriver) -> None:
    segment = with_graphs(own_bundle, fake)
    OPENED[0].fails_in_capture = "CUDA failure 900: operation not permitted\n when stream is capturing"
    image = blocks_image()
    labels = [segment(image).labels for _ in range(4)]
    for other in labels[1:]:
        np.testing.assert_array_equal(other, labels[0])
    assert [session._graphs for session in OPENED] == [True, False]
    assert graphs_of(segment) == "none: CUDA failure 900: operation not permitted when stream is capturing"
    OPENED[1].fails = "CUDA failure 2: out of memory"
    with pytest.raises(BackendError, match=r"failed on cuda:0 .*out of memory"):
        segment(image)


def test_a_session_that_is_refused_with_graphs_opens_without(own_bundle: Path, fake: FakeDriver) -> None:
    REFUSED.append("This session cannot use the graph capture feature as requested by the user")
    segment = with_graphs(own_bundle, fake)
    segment(blocks_image())
    assert (
        graphs_of(segment)
        == "none: This session cannot use the graph capture feature as requested by the user"
    )


def test_graphs_need_buffers_that_stay(
    own_bundle: Path, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Host arrays lie elsewhere in each call: a replay would read those of the first."""

    def missing() -> Any:
        raise BackendError("this backend needs cuda-python")

    monkeypatch.setattr(ort_device, "load_driver", missing)
    segment = with_graphs(own_bundle, fake)
    assert [session._graphs for session in OPENED] == [False]
    assert graphs_of(segment) == "none: they need the device path"


def test_graphs_are_as_many_as_a_session_may_keep(
    own_bundle: Path, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_graphs, "MAX_GRAPHS", 1)
    segment = with_graphs(own_bundle, fake)
    for _ in range(3):
        segment(blocks_image(150, 220))
        segment(blocks_image(160, 310))
    assert sorted(OPENED[0].captured) == [1]
    segment.backend.close()
    segment.backend.close()
    with pytest.raises(BackendError, match="was closed"):
        segment(blocks_image())

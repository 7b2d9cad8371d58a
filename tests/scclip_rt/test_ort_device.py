"""ONNX Runtime's GPU providers on device memory: a fake driver, and the CPU provider behind a faked I/O binding."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cuda.bindings", reason="cuda-python is not installed (extra dev)")

from fake_cuda import FakeDriver, ForeignArray
from fake_kernels import add_kernels
from scclip_rt import Segmenter
from scclip_rt.backends import cuda, onnxruntime, open_backend, ort_device, ort_session
from scclip_rt.backends.cuda import device as device_module
from scclip_rt.bundle import Bundle
from scclip_rt.errors import BackendError
from tiny_bundle import blocks_image

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
    """A CPU session that says it is CUDA's and works on the fake driver's memory."""

    def __init__(self, session: Any, fake: FakeDriver) -> None:
        self._session, self._fake = session, fake
        self.fails = ""

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def io_binding(self) -> FakeBinding:
        return FakeBinding(self._fake)

    def run_with_iobinding(self, binding: FakeBinding) -> None:
        if self.fails:
            raise RuntimeError(self.fails)
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
        return session if provider == "cpu" else FakeGpuSession(session, driver)

    monkeypatch.setattr(onnxruntime, "create_session", create)
    monkeypatch.setattr(ort_session, "_check_installed", lambda _: None)
    yield driver
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


def test_a_failing_run_is_one_line(bundle_path: Path, fake: FakeDriver) -> None:
    backend = open_backend(Bundle.open(bundle_path), device="cuda:0")
    backend._graph.run_session.fails = "CUDA failure 700:\n illegal memory access"
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

"""Bundles and a stand-in TensorRT for the engine tests."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from scclip_export.engines import libraries
from scclip_rt.backends.gpu import Gpu
from scclip_rt.errors import BackendError
from stand_ins.tensorrt import DataType, FakeTensorrt, Layer, encoder_layers
from tiny_bundle import build_bundle

_ENTRY_POINTS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)


@pytest.fixture(scope="session")
def empty_libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with empty libraries that let the real TensorRT bindings load."""
    try:
        major = version("tensorrt-cu13-bindings").partition(".")[0]
    except PackageNotFoundError:
        pytest.skip("tensorrt-cu13-bindings is not installed")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for the empty libraries")
    folder = tmp_path_factory.mktemp("empty")
    (folder / "empty.c").write_text(
        "".join(f"void *{name}(void) {{ return 0; }}\n" for name in _ENTRY_POINTS)
    )
    for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        file = f"lib{library}.so.{major}"
        subprocess.run(
            [compiler, "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", folder / file, folder / "empty.c"],
            check=True,
        )
    return folder


@pytest.fixture(scope="session")
def with_bindings(empty_libraries: Path) -> Callable[..., str]:
    """Run Python with these arguments where the real TensorRT bindings load; give what it prints."""

    def run(*arguments: str) -> str:
        found = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            env=os.environ | {"LD_LIBRARY_PATH": str(empty_libraries)},
            timeout=600,
            check=False,
        )
        assert found.returncode == 0, found.stderr
        return found.stdout

    return run


@pytest.fixture(scope="session")
def _shared_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bundle(tmp_path_factory.mktemp("engines") / "tiny.scclip")


@pytest.fixture
def bundle(_shared_bundle: Path, tmp_path: Path) -> Path:
    """A sound fp32 bundle of one's own: windows of 6×6 patches, one of 8×12, one dynamic."""
    return Path(shutil.copytree(_shared_bundle, tmp_path / "tiny.scclip"))


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeTensorrt]:
    """Put a stand-in for TensorRT and a GPU (or none) in place."""

    def put(
        layers: list[Layer] | None = None, *, version: str = "10.14.1.48", capability: str | None = "8.9"
    ) -> FakeTensorrt:
        fake = FakeTensorrt(layers or encoder_layers(DataType.FLOAT), version)

        def gpu(number: int = 0) -> Gpu:
            if capability is None:
                raise BackendError("no NVIDIA driver on this machine")
            major, _, minor = capability.partition(".")
            return Gpu(number=number, name="NVIDIA L4", compute_capability=(int(major), int(minor)))

        monkeypatch.setattr(libraries, "library_module", lambda _name: fake)
        monkeypatch.setattr(libraries, "find_gpu", gpu)
        return fake

    return put

"""What an import brings in, in a fresh interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def loaded_modules(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after `code`."""
    listing = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    run = [sys.executable, "-W", "error::ImportWarning", "-c", f"{code}\n{listing}"]
    output = subprocess.run(run, check=True, capture_output=True, text=True, cwd=REPOSITORY, timeout=600)
    return set(json.loads(output.stdout.splitlines()[-1]))


@pytest.mark.parametrize(("code", "needed"), [("import scclip_rt", set()), ("import scclip_rt.cli", set())])
def test_import_is_light(code: str, needed: set[str]) -> None:
    heavy = {"numpy", "onnxruntime", "openvino", "cv2", "PIL", "jsonschema", "tqdm"}
    assert loaded_modules(code) & heavy == needed


def test_segmenting_an_image_needs_neither_opencv_nor_jsonschema(tmp_path: Path) -> None:
    words = ["segment", "demo", "scclip_rt/demo/scene.png", "--output", str(tmp_path)]
    code = f"from scclip_rt.cli import run; assert run({words}) == 0"
    loaded = loaded_modules(f"import sys\n{code}\nassert 'scclip_rt.demo.materials' not in sys.modules")
    assert not loaded & {"cv2", "jsonschema", "tokenizers", "xml", "tqdm"}


def test_plain_names_need_no_repair() -> None:
    code = "from scclip_rt import Segmenter; Segmenter('demo', classes='sky; traffic light', cache=False)"
    assert "ftfy" not in loaded_modules(code)


@pytest.mark.parametrize(
    "code",
    [
        "from scclip_rt import *",
        "import scclip_rt.cli, scclip_rt.backends.onnxruntime.encoder, onnxruntime",
        "import scclip_rt.cli.segment, scclip_rt.cli.embed, scclip_rt.cli.inspect",
        "import scclip_rt.cli.serve, scclip_rt.serving.server, scclip_rt.serving.grpc_server",
        "import scclip_rt.cli.bench, scclip_rt.bench.contender, scclip_rt.bench.limit, scclip_rt.bench.plot",
    ],
)
def test_nothing_of_the_runtime_imports_torch_or_the_exporter(code: str) -> None:
    unwanted = {
        "torch",
        "torchvision",
        "open_clip",
        "onnx",
        "onnxscript",
        "scclip_export",
        "scclip_kernels",
        "scipy",
    }
    assert loaded_modules(code) & unwanted == set()


def test_segmenting_loads_no_torch(bundle_path: Path) -> None:
    code = (
        "import numpy as np, scclip_rt\n"
        f"segment = scclip_rt.Segmenter({str(bundle_path)!r}, classes=['cat', 'dog'], templates='none')\n"
        "segment(np.zeros((60, 80, 3), np.uint8), confidence=True).overlay()"
    )
    assert loaded_modules(code) & {"torch", "onnx", "open_clip", "scclip_export", "scclip_kernels"} == set()


def test_onnxruntime_sends_no_telemetry(bundle_path: Path, tmp_path: Path) -> None:
    """Its telemetry would leave a device identifier in the cache folder and open connections."""
    code = (
        "import os, scclip_rt\n"
        f"scclip_rt.Segmenter({str(bundle_path)!r})\n"
        "assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
    )
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY, env=environment, timeout=600)
    assert [path.name for path in tmp_path.iterdir()] == ["scclip-rt"]


def test_public_names_exist() -> None:
    import scclip_rt

    for name in scclip_rt.__all__:
        assert getattr(scclip_rt, name).__name__ == name
    assert set(scclip_rt.__all__) <= set(dir(scclip_rt))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = scclip_rt.nonsense


def test_sessions_are_opened_with_the_same_options() -> None:
    """Idle threads of a session that is opened elsewhere would spin, and its warnings reach the terminal."""
    sources = [path for folder in ("scclip_rt", "export") for path in (REPOSITORY / folder).rglob("*.py")]
    found = [path.name for path in sources if "InferenceSession(" in path.read_text("utf-8")]
    assert found == ["session.py"]

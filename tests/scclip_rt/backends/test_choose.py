"""What `auto` and `fast` pick, row by row, on machines and bundles of every kind."""

from pathlib import Path
from typing import Any

import pytest

from scclip_rt.backends import open_backend, processor
from scclip_rt.backends.choose import Host, choose, this_host
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.errors import BackendError
from tiny_bundle import edit_manifest, encoder_entry

WINDOW = {"kind": "window", "rows": 6, "columns": 6}


VENDORS = {"amd": "AuthenticAMD", "intel": "GenuineIntel"}


def host(*names: str) -> Host:
    """`openvino` is a package, `amd` and `intel` a maker, everything else a flag of the processor."""
    vendor = "".join(VENDORS.get(name, "") for name in names)
    flags = frozenset(names) - {"openvino", *VENDORS}
    return Host(flags=flags, vendor=vendor, packages=frozenset(names) & {"openvino"})


@pytest.fixture
def bundles(own_bundle: Path) -> dict[str, Bundle]:
    """The same bundle with encoders of other precisions, by what they are."""

    def holding(**devices: list[str]) -> Bundle:
        entries = []
        for precision, runs_on in devices.items():
            entries.append(encoder_entry("encoder.fp32.onnx", WINDOW, precision) | {"runs_on": runs_on})
        edit_manifest(own_bundle, lambda document: document.update(encoders=entries))
        return Bundle.open(own_bundle)

    both = ["cpu", "cuda"]
    return {
        "fp32": holding(fp32=both),
        "fp32+int8": holding(fp32=both, int8=["cpu"]),
        "int8": holding(int8=["cpu"]),
        "fp32+fp16": holding(fp32=both, fp16=["cuda"]),
    }


TABLE = [
    # precision, bundle, machine → precision, backend, words of the reason
    ("auto", "fp32", "avx2", "fp32", "onnxruntime", "fp32 is the most accurate; onnxruntime:"),
    ("auto", "fp32", "avx512_bf16 openvino", "fp32", "onnxruntime", "openvino is no faster"),
    ("auto", "fp32+int8", "avx_vnni openvino", "fp32", "onnxruntime", "holds int8 too: --precision fast"),
    ("auto", "fp32+fp16", "avx512_bf16", "fp32", "onnxruntime", "most accurate"),
    ("auto", "int8", "avx2 openvino", "int8", "onnxruntime", "int8 is all that the bundle holds"),
    ("auto", "int8", "avx_vnni openvino", "int8", "openvino", "int8 is all that the bundle holds"),
    ("fast", "fp32", "avx2 openvino", "fp32", "onnxruntime", "no int8, the processor no bf16"),
    ("fast", "fp32", "amd avx512_bf16", "fp32", "onnxruntime", "no int8, and bf16 needs OpenVINO"),
    ("fast", "fp32", "amd avx512_bf16 openvino", "bf16", "openvino", "the processor has avx512_bf16"),
    ("fast", "fp32", "intel avx512_bf16 openvino", "fp32", "onnxruntime", "bf16 is not known to be faster"),
    ("fast", "fp32", "avx512_bf16 openvino", "fp32", "onnxruntime", "bf16 is not known to be faster"),
    ("fast", "fp32", "amd avx_ne_convert openvino", "fp32", "onnxruntime", "is not known to be faster"),
    ("fast", "fp32", "intel avx_ne_convert", "fp32", "onnxruntime", "bf16 is not known to be faster"),
    ("fast", "fp32", "intel avx512_bf16 amx_bf16 openvino", "bf16", "openvino", "has amx_bf16"),
    ("fast", "fp32+int8", "avx2 openvino", "int8", "onnxruntime", "faster at int8 without VNNI"),
    ("fast", "fp32+int8", "avx512_vnni", "int8", "onnxruntime", "is not installed"),
    ("fast", "fp32+int8", "amd avx512_vnni avx512_bf16 openvino", "int8", "openvino", "with avx512_vnni"),
    ("fast", "fp32+int8", "amx_int8 openvino", "int8", "openvino", "with amx_int8"),
    ("fast", "int8", "avx2", "int8", "onnxruntime", "the fastest that the bundle holds"),
    ("bf16", "fp32", "intel avx512_bf16 openvino", "bf16", "openvino", "only openvino has bf16"),
    ("bf16", "fp32", "avx512_bf16", "bf16", "openvino", "only openvino has bf16"),
    ("fp32", "fp32+int8", "avx_vnni openvino", "fp32", "onnxruntime", "fp32 was asked for"),
    ("int8", "fp32+int8", "avx_vnni openvino", "int8", "openvino", "int8 was asked for"),
]


@pytest.mark.parametrize(("asked", "held", "here", "precision", "backend", "words"), TABLE)
def test_auto_on_a_cpu(
    bundles: dict[str, Bundle], asked: str, held: str, here: str, precision: str, backend: str, words: str
) -> None:
    found = choose(bundles[held], precision=asked, host=host(*here.split()))
    assert (found.precision, found.backend) == (precision, backend)
    assert words in found.reason


def test_a_backend_that_is_named_stays(bundles: dict[str, Bundle]) -> None:
    fast = host("amd", "avx512_bf16", "openvino")
    found = choose(bundles["fp32"], backend="onnxruntime", precision="fast", host=fast)
    assert (found.backend, found.precision) == ("onnxruntime", "fp32")
    found = choose(bundles["fp32"], ort_provider="cpu", host=fast)
    assert (found.backend, found.precision) == ("onnxruntime", "fp32")
    assert "asked for" in found.reason


@pytest.mark.parametrize("gpu", [{"device": "cuda:0"}, {"ort_provider": "tensorrt"}])
def test_a_gpu_is_asked_for_by_name(bundles: dict[str, Bundle], gpu: dict[str, Any]) -> None:
    found = choose(bundles["fp32+fp16"], precision="fast", host=host("openvino"), **gpu)
    assert (found.backend, found.precision) == ("onnxruntime", "auto")


def test_whole_images_look_at_their_own_encoders(bundles: dict[str, Bundle]) -> None:
    with pytest.raises(BackendError, match="--dynamic-grid"):
        choose(bundles["fp32"], grid="whole", host=host())


def test_this_host_has_its_maker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_cpuinfo", lambda: {"vendor_id": "AuthenticAMD", "flags": "avx512_bf16"})
    assert this_host().bf16 == {"avx512_bf16"}
    monkeypatch.setattr(processor, "_cpuinfo", lambda: {"vendor_id": "GenuineIntel", "flags": "avx512_bf16"})
    assert this_host().bf16 == frozenset()
    monkeypatch.setattr(processor, "_cpuinfo", lambda: {"Features": "asimd bf16"})
    assert (this_host().bf16, this_host().vendor) == (frozenset(), "")


def test_the_choice_is_told(bundle_path: Path) -> None:
    info = open_backend(Bundle.open(bundle_path), precision="fast").describe()
    assert info["precision"] in ("fp32", "bf16")
    assert info["reason"]

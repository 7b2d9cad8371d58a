"""Engines: the one that fits is chosen, every other is refused with its reason and the command that builds it again."""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

from scclip_rt.backends.choose import engine_machine
from scclip_rt.backends.cuda.device import find_gpu
from scclip_rt.backends.cuda.driver import Driver
from scclip_rt.bundle import engine_fit as engines
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.engine_fit import (
    Machine,
    UnreadableEngine,
    Wanted,
    choose_engine,
    engine_path,
    read_engines,
)
from scclip_rt.bundle.manifest import GridSpec, Precision
from scclip_rt.errors import BackendError, BundleError
from stand_ins.engine_files import add_engine, list_engines
from tiny_bundle import edit_manifest, relist

L4 = Machine(library="tensorrt", version="10.14.1.48", compute_capability="8.9", device="NVIDIA L4")
RTX = Machine(library="tensorrt-rtx", version="1.7.1.116", compute_capability="12.0", device="RTX 5090")


def chosen(root: Path, machine: Machine = L4, **wanted: Any) -> str:
    return choose_engine(Bundle.open(root), machine, Wanted(**wanted)).file


def refusal(root: Path, machine: Machine = L4, **wanted: Any) -> str:
    with pytest.raises(BackendError) as error:
        chosen(root, machine, **wanted)
    message = str(error.value)
    assert "\n" not in message
    assert "or use --backend onnxruntime" in message
    return message


def test_an_engine_made_for_this_machine_is_chosen(own_bundle: Path) -> None:
    add_engine(own_bundle)
    assert chosen(own_bundle) == "engines/one.engine"
    assert chosen(own_bundle, batch=16, queries=1024, precision="fp32") == "engines/one.engine"


def test_a_bundle_without_engines_names_the_command_that_builds_one(own_bundle: Path) -> None:
    message = refusal(own_bundle, batch=32)
    assert "holds no engine" in message
    assert f"`scclip-export --bundle {own_bundle} --tensorrt --max-batch 32`" in message


Change = Callable[[Path], None]


def _other_onnx(root: Path) -> None:
    with (root / "encoder.fp32.onnx").open("ab") as file:
        file.write(b"\x32\x00")  # an empty doc_string: still the same graph, no longer the same file
    _relist(root)


def _other_weights(root: Path) -> None:
    path = root / "encoder.fp32.onnx.data"
    path.write_bytes(bytes(reversed(path.read_bytes())))
    _relist(root)


def _relist(root: Path) -> None:
    """List the changed ONNX files anew, as an export over the old bundle would."""
    sidecars = json.loads((root / "bundle.json").read_text())["engines"]
    (root / "engines").rename(root.parent / "aside")
    relist(root)
    (root.parent / "aside").rename(root / "engines")
    list_engines(root, sidecars)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_other_onnx, "was built from another encoder.fp32.onnx"),
        (_other_weights, "was built from another encoder.fp32.onnx"),
        (lambda root: (root / "engines/one.engine").unlink(), "engines/one.engine: No such file"),
        (lambda root: (root / "engines/one.engine").write_bytes(b"PLAN"), "engines/one.engine: SHA-256 is"),
        (lambda root: (root / "engines/one.engine").write_bytes(b"pla"), "engines/one.engine: SHA-256 is"),
        (lambda root: (root / "engines/one.json").write_text("{"), "engines/one.json: SHA-256 is"),
        (lambda root: (root / "engines/one.json").unlink(), "engines/one.json: No such file"),
    ],
)
def test_a_stale_or_damaged_engine_is_refused(change: Change, reason: str, own_bundle: Path) -> None:
    add_engine(own_bundle)
    change(own_bundle)
    message = refusal(own_bundle)
    assert reason in message
    assert f"`scclip-export --bundle {own_bundle} --tensorrt" in message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"library": "tensorrt-rtx"}, "is for tensorrt-rtx"),
        ({"library_version": "10.13.0.35"}, "was built by tensorrt 10.13.0.35; 10.14.1.48 is installed"),
        (
            {"library_version": "11.4.0.106", "options": {"version_compatible": True}},
            "was built by tensorrt 11.4.0",
        ),
        ({"compute_capabilities": ["9.0"]}, "is for compute capability 9.0; this GPU has 8.9"),
        ({"compute_capabilities": ["10.0+"]}, "is for compute capability 10.0+; this GPU has 8.9"),
        (
            {"source": "encoder.fp16.onnx"},
            "was built from encoder.fp16.onnx, which this bundle does not hold",
        ),
        ({"source_sha256": "1" * 64}, "was built from another encoder.fp32.onnx (111111111111…"),
        ({"format_version": 2}, "has sidecar version 2; this runtime reads 1"),
        ({"format_version": None}, "has sidecar version None"),
        ({"profile": {"batch": [1, 6, 16]}}, "profile: 'queries' is a required property"),
        ({"sha256": "2" * 64}, "describes engines/one.engine with SHA-256 222222222222…"),
        ({"file": "engines/other.engine"}, "describes engines/other.engine"),
        ({"file": "../other.engine"}, "file: '../other.engine' does not match"),
    ],
)
def test_a_foreign_engine_is_refused(changes: dict[str, Any], reason: str, own_bundle: Path) -> None:
    add_engine(own_bundle, **changes)
    assert reason in refusal(own_bundle)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"batch": 32}, "takes batch 1 to 16; 32 wanted"),
        ({"queries": 2000}, "takes queries 1 to 1024; 2000 wanted"),
        ({"precision": "fp16"}, "is fp32, not fp16"),
        ({"grid": GridSpec(kind="fixed", rows=8, columns=12)}, "is for the grid window 6×6, not fixed 8×12"),
    ],
)
def test_an_engine_with_another_task_is_refused(
    wanted: dict[str, Any], reason: str, own_bundle: Path
) -> None:
    add_engine(own_bundle)
    assert reason in refusal(own_bundle, **wanted)


def test_the_refusal_says_why_of_every_engine_and_how_to_rebuild_the_closest(own_bundle: Path) -> None:
    add_engine(
        own_bundle, "old", library_version="10.9.0.34", command="scclip-export --bundle BUNDLE --tensorrt --x"
    )
    add_engine(own_bundle, "rtx", library="tensorrt-rtx")
    message = refusal(own_bundle)
    assert "engines/old.json was built by tensorrt 10.9.0.34" in message
    assert "engines/rtx.json is for tensorrt-rtx" in message
    assert f"`scclip-export --bundle {own_bundle} --tensorrt" in message
    assert "--x" not in message  # a command out of a file is nobody's advice
    assert "NVIDIA L4, compute capability 8.9, tensorrt 10.14.1.48" in message


def test_a_version_compatible_engine_loads_in_a_later_version(own_bundle: Path) -> None:
    add_engine(own_bundle, library_version="10.9.0.34", options={"version_compatible": True})
    assert chosen(own_bundle) == "engines/one.engine"


@pytest.mark.parametrize(
    ("capabilities", "capability", "expected"),
    [
        (("8.9",), "8.9", True),
        (("8.6", "8.9", "12.0"), "12.0", True),
        (("8.6",), "8.9", False),
        (("8.0+",), "9.0", True),
        (("8.0+",), "12.1", True),
        (("8.0+",), "7.5", False),
        (("9.0",), "12.0", False),
    ],
)
def test_compute_capabilities(capabilities: tuple[str, ...], capability: str, expected: bool) -> None:
    assert engines.supports(capabilities, capability) is expected


def test_fp16_comes_before_fp32_and_bf16_before_it_under_fast_alone(own_bundle: Path) -> None:
    add_engine(own_bundle, "bf16", precision="bf16")
    assert chosen(own_bundle) == "engines/bf16.engine"  # the only one there is
    add_engine(own_bundle, "fp32")
    assert chosen(own_bundle) == "engines/fp32.engine"
    assert chosen(own_bundle, precision="fast") == "engines/bf16.engine"
    add_engine(own_bundle, "fp16", precision="fp16")
    assert chosen(own_bundle) == chosen(own_bundle, precision="fast") == "engines/fp16.engine"
    assert chosen(own_bundle, precision="bf16") == "engines/bf16.engine"
    assert "--engine-precision" not in refusal(own_bundle, precision="fast", batch=99)


def test_every_precision_but_fp8_has_a_place_in_both_orders() -> None:
    known = set(get_args(Precision)) - {"fp8"}
    assert {name: set(order) for name, order in engines.PREFERENCE.items()} == {"auto": known, "fast": known}


@pytest.mark.parametrize("asked", ["auto", "fast"])
def test_only_who_names_fp8_gets_it(own_bundle: Path, asked: str) -> None:
    add_engine(own_bundle, "fp8", precision="fp8")
    assert "is fp8, which only --precision fp8 takes" in refusal(own_bundle, precision=asked)
    assert chosen(own_bundle, precision="fp8") == "engines/fp8.engine"
    add_engine(own_bundle, "fp32")
    assert chosen(own_bundle, precision=asked) == "engines/fp32.engine"
    assert chosen(own_bundle, precision="fp8") == "engines/fp8.engine"
    bundle = Bundle.open(own_bundle)
    for engine in read_engines(bundle):  # it fits the machine all the same
        assert isinstance(engine, engines.Engine)
        assert engines.misfit(bundle, engine, L4) is None


def test_among_several_the_precision_then_the_exact_then_the_closest_batch_wins(own_bundle: Path) -> None:
    add_engine(own_bundle, "portable", compute_capabilities=["8.0+"])
    assert chosen(own_bundle) == "engines/portable.engine"
    add_engine(own_bundle, "other-device", device="NVIDIA RTX 4090")
    assert chosen(own_bundle) == "engines/other-device.engine"
    add_engine(own_bundle, "exact")
    add_engine(own_bundle, "large", profile={"batch": [1, 32, 64], "queries": [1, 150, 1024]})
    assert chosen(own_bundle, batch=6) == "engines/exact.engine"
    assert chosen(own_bundle, batch=16) == "engines/exact.engine"
    assert chosen(own_bundle, batch=30) == "engines/large.engine"
    add_engine(own_bundle, "narrow", precision="fp16", compute_capabilities=["8.0+"])
    assert chosen(own_bundle) == "engines/narrow.engine"
    assert chosen(own_bundle, precision="fp32", batch=6) == "engines/exact.engine"


def test_where_tensorrt_rtx_does_not_run_tensorrt_is_named(own_bundle: Path) -> None:
    add_engine(
        own_bundle, "portable", library="tensorrt-rtx", compute_capabilities=list(engines.RTX_CAPABILITIES)
    )
    h100 = Machine(library="tensorrt-rtx", version="10.14.1.48", compute_capability="9.0")
    with pytest.raises(BackendError) as error:
        choose_engine(Bundle.open(own_bundle), h100)
    assert "is for compute capability 8.0, 8.6, 8.9, 12.0+; this GPU has 9.0" in str(error.value)
    command = f"scclip-export --bundle {own_bundle} --tensorrt"
    assert f"TensorRT-RTX does not run on such a GPU: build one with `{command}" in str(error.value)


def test_a_damaged_engine_gives_way_to_a_sound_one(own_bundle: Path) -> None:
    add_engine(own_bundle, "best", precision="fp16")
    add_engine(own_bundle, "second")
    (own_bundle / "engines/best.engine").write_bytes(b"gone")
    assert chosen(own_bundle) == "engines/second.engine"


def test_engines_that_were_left_out_or_damaged_do_not_close_the_bundle(own_bundle: Path) -> None:
    add_engine(own_bundle, "gone")
    add_engine(own_bundle, "bad")
    (own_bundle / "engines/gone.engine").unlink()
    (own_bundle / "engines/gone.json").unlink()
    bundle = Bundle.open(own_bundle)
    assert isinstance(read_engines(bundle)[1], UnreadableEngine)
    assert "engines/gone.engine" not in bundle.verify_all()
    (own_bundle / "engines/bad.engine").write_bytes(b"longer than before")
    with pytest.raises(BundleError, match=r"bad\.engine"):
        Bundle.open(own_bundle).verify_all()


@pytest.mark.parametrize("name", ["../one.json", "/etc/one.json"])
def test_a_sidecar_outside_the_bundle_is_refused(name: str, own_bundle: Path) -> None:
    edit_manifest(own_bundle, lambda document: document.update(engines=[name]))
    with pytest.raises(BundleError, match="leaves the bundle"):
        Bundle.open(own_bundle)


def test_a_sidecar_that_is_not_listed_is_refused(own_bundle: Path) -> None:
    edit_manifest(own_bundle, lambda document: document.update(engines=["engines/one.json"]))
    with pytest.raises(BundleError, match="does not list it"):
        Bundle.open(own_bundle)


def test_the_path_of_a_damaged_engine_comes_with_the_command(own_bundle: Path) -> None:
    add_engine(own_bundle)
    bundle = Bundle.open(own_bundle)
    (engine,) = read_engines(bundle)
    assert isinstance(engine, engines.Engine)
    assert engine_path(bundle, engine) == own_bundle / "engines/one.engine"
    (own_bundle / "engines/one.engine").write_bytes(b"PLAN")
    with pytest.raises(
        BackendError, match=r"SHA-256 is .* Build it again with `scclip-export --bundle .* --tensorrt"
    ):
        engine_path(bundle, engine)


def test_the_encoder_behind_an_engine_is_found(own_bundle: Path) -> None:
    add_engine(own_bundle)
    bundle = Bundle.open(own_bundle)
    assert engines.encoder_of(bundle, choose_engine(bundle, L4)).file == "encoder.fp32.onnx"


def test_the_source_hash_is_the_documented_one(own_bundle: Path) -> None:
    bundle = Bundle.open(own_bundle)
    files = bundle.manifest.files
    text = "".join(
        f"{files[name].sha256} {name}\n" for name in ("encoder.fp32.onnx", "encoder.fp32.onnx.data")
    )
    assert engines.source_sha256(bundle, "encoder.fp32.onnx") == hashlib.sha256(text.encode()).hexdigest()


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engines.MODULES, "tensorrt", "no_such_tensorrt")  # type: ignore[index]
    with pytest.raises(BackendError, match=r"pip install '\.\[tensorrt\]'"):
        engine_machine("tensorrt")


def test_this_machine_is_the_library_and_the_gpu_that_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cuda.bindings")
    from stand_ins.cuda import FakeDriver

    driver = Driver(FakeDriver(capability=(9, 0)))
    monkeypatch.setattr("scclip_rt.backends.cuda.device.load_driver", lambda: driver)
    library: Any = ModuleType("fake_tensorrt")
    library.__version__ = "10.14.1.48"
    monkeypatch.setitem(sys.modules, "fake_tensorrt", library)
    monkeypatch.setitem(engines.MODULES, "tensorrt", "fake_tensorrt")  # type: ignore[index]
    machine = engine_machine("tensorrt")
    assert (machine.library, machine.version, machine.compute_capability) == ("tensorrt", "10.14.1.48", "9.0")
    assert machine.device
    with pytest.raises(BackendError, match=r"there is no cuda:1; this process sees: cuda:0 \(Fake 0\)"):
        find_gpu(1)


def test_a_machine_without_a_driver_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Driver:
        raise BackendError("no NVIDIA driver on this machine")

    monkeypatch.setattr("scclip_rt.backends.cuda.device.load_driver", missing)
    with pytest.raises(BackendError, match="no NVIDIA driver"):
        find_gpu()

"""Compiled kernels in the bundle: for the GPUs of its engines, listed, replaced as one."""

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from scclip_export.engines import add_kernels, kernels
from scclip_export.errors import ExportError
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.engine_fit import RTX_CAPABILITIES
from stand_ins.engine_files import add_engine


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ((), (80, 90, 100, 120)),
        (("8.0+",), (80, 90, 100, 120)),
        (("8.9",), (80,)),
        (("8.6", "8.9", "12.0"), (80, 120)),
        (("9.0",), (90,)),
        (("12.1",), (121,)),
        (("7.5",), (75,)),
        (("9.0+",), (90, 100, 120)),
        (RTX_CAPABILITIES, (80, 90, 100, 120)),
        (("8.9", "12.0+"), (80, 90, 100, 120)),
    ],
)
def test_targets_follow_the_engines(capabilities: Sequence[str], expected: tuple[int, ...]) -> None:
    assert kernels.kernel_targets(capabilities) == expected


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """A stand-in for Triton's compiler that writes a file per target; returns what it was asked for."""
    compile_module = pytest.importorskip("scclip_kernels.aot.compile")
    asked: list[tuple[int, ...]] = []

    def write(folder: Path, targets: Sequence[int]) -> list[str]:
        asked.append(tuple(targets))
        (folder / "kernels").mkdir()
        names = [f"kernels/decode.sm{target}.cubin" for target in targets] + ["kernels/kernels.json"]
        for name in names:
            (folder / name).write_text(f"{name} {len(asked)}")
        return names

    monkeypatch.setattr(compile_module, "write_kernels", write)
    monkeypatch.setattr(kernels, "check_kernels", lambda: None)
    return asked


def test_kernels_are_listed_and_old_ones_go(bundle: Path, compiler: list[tuple[int, ...]]) -> None:
    add_engine(bundle, compute_capabilities=["8.9", "12.0"])
    assert add_kernels(bundle)[-1] == "kernels/kernels.json"
    (bundle / "engines/one.json").unlink()
    assert add_kernels(bundle) == [
        *(f"kernels/decode.sm{target}.cubin" for target in (80, 90, 100, 120)),
        "kernels/kernels.json",
    ]
    add_engine(bundle, compute_capabilities=["9.0"])
    add_kernels(bundle)
    assert compiler == [(80, 120), (80, 90, 100, 120), (90,)]
    opened = Bundle.open(bundle)
    assert {name for name in opened.manifest.files if name.startswith("kernels/")} == {
        f"kernels/{path.name}" for path in (bundle / "kernels").iterdir()
    }
    assert len(list((bundle / "kernels").iterdir())) == 2
    opened.verify_all()


def test_the_command_adds_kernels_alone(
    bundle: Path,
    compiler: list[tuple[int, ...]],
    export_cli: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert export_cli("--bundle", bundle, "--gpu-kernels", "--json") == 0
    assert json.loads(capsys.readouterr().out)["kernels"][-1] == "kernels/kernels.json"
    assert compiler == [(80, 90, 100, 120)]


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else real(name))
    with pytest.raises(ExportError, match=r"--gpu-kernels needs triton; install: pip install"):
        kernels.check_kernels()


@pytest.mark.slow
def test_the_decode_kernel_is_compiled_into_a_bundle(bundle: Path) -> None:
    pytest.importorskip("triton")
    add_engine(bundle, compute_capabilities=["8.9"])
    names = add_kernels(bundle)
    listed = json.loads((bundle / "kernels/kernels.json").read_text())
    assert {entry["compute_capability"] for entry in listed} == {"8.0"} or {
        entry["compute_capability"] for entry in listed
    } == {80}
    assert {entry["file"] for entry in listed} <= set(names)
    Bundle.open(bundle).verify_all()

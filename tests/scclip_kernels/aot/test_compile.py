"""Ahead-of-time compilation: every kernel fits every target, and what is written for the runtime is what it reads."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from scclip_kernels.aot.compile import (
    SHARED_LIMIT,
    TARGETS,
    CompileError,
    compile_all,
    compile_variant,
    count_parameters,
    parse_targets,
    run,
    write_kernels,
)
from scclip_kernels.aot.variants import model_variants, runtime_variants
from scclip_kernels.triton.decode import ROWS


def shipped() -> list:
    """Without labels of 16 bits, which differ in one instruction, and with the dtype that GPUs run."""
    return [*(v for v in runtime_variants() if "u16" not in v.title), *model_variants(("fp16",))]


@pytest.mark.slow
def test_every_kernel_fits_every_target(capsys) -> None:
    seen = []
    for item in compile_all(shipped(), TARGETS, jobs=2):
        with capsys.disabled():
            print(
                f"\n{item.title} sm_{item.target}: {item.registers} registers, {item.spill_bytes} bytes spilled, "
                f"{item.shared_bytes} shared",
                end="",
            )
        item.check()
        assert 0 < item.registers <= 255
        assert item.cubin.startswith(b"\x7fELF")
        assert "tf32" not in item.ptx
        seen.append((item.title, item.target))
    wanted = {
        (variant.title, target) for variant in shipped() for target in TARGETS if variant.runs_on(target)
    }
    assert set(seen) == wanted


def test_what_is_written_is_what_the_runtime_reads(tmp_path: Path, monkeypatch) -> None:
    few = [v for v in runtime_variants() if v.title in ("finite", "decode_rows_u8_soft")]
    monkeypatch.setattr("scclip_kernels.aot.variants.runtime_variants", lambda: iter(few))
    written = write_kernels(tmp_path, (80, 89), jobs=1)
    assert written[-1] == "kernels/kernels.json"
    assert sorted(written) == sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*"))
    listing = json.loads((tmp_path / "kernels/kernels.json").read_text())
    assert [(item["name"], item["compute_capability"]) for item in listing] == [
        ("decode_rows", "8.0"), ("decode_rows", "8.9"), ("finite", "8.0"), ("finite", "8.9"),
    ]  # fmt: skip
    for item in listing:
        data = (tmp_path / item["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == item["sha256"]
        assert item["entry"].encode() in data
        assert item["hidden_pointers"] == 2  # Triton 3.6 to 3.8
        assert item["grid"]
    decode = listing[0]
    assert decode["constants"] == {
        "SOFT": True, "MASKED": False, **ROWS, "labels": "u8",
    }  # fmt: skip
    assert ["labels", "*u8"] in decode["parameters"]
    assert ["prob_threshold", "fp32"] in decode["parameters"]
    assert [name for name, _ in decode["parameters"]][:2] == ["strip", "row_span"]


def test_every_runtime_kernel_says_how_it_is_launched() -> None:
    from scclip_kernels.aot.variants import GRIDS

    variants = list(runtime_variants())
    assert {v.name for v in variants} == set(GRIDS)
    assert len({v.title for v in variants}) == len(variants)
    for variant in variants:
        assert set(variant.types) | set(variant.constants) == set(variant.kernel.arg_names)


def test_spills_and_too_much_shared_memory_are_refused() -> None:
    small = next(v for v in runtime_variants() if v.name == "finite")
    item = next(compile_all([small], [86], jobs=1))
    item.check()
    with pytest.raises(CompileError, match="finite for sm_86 spills 8 bytes"):
        dataclasses.replace(item, spill_bytes=8).check()
    with pytest.raises(
        CompileError, match="needs 102,400 bytes of shared memory; a block has at most 101,376"
    ):
        dataclasses.replace(item, shared_bytes=SHARED_LIMIT[86] + 1024).check()


def test_a_kernel_that_spills_is_measured_as_such() -> None:
    """The reading of machine code, on a kernel that gets a quarter of the registers it wants."""
    variant = next(v for v in runtime_variants() if v.title == "decode_rows_u8")
    assert compile_variant(dataclasses.replace(variant, max_registers=24), 80).spill_bytes > 0


@pytest.mark.parametrize(("text", "targets"), [("80", (80,)), ("8.9,12.0", (89, 120)), ("sm_90, 90", (90,))])
def test_targets_are_read(text: str, targets: tuple[int, ...]) -> None:
    assert parse_targets(text) == targets


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--targets", "eighty"], "takes compute capabilities like 80,8.9,120; got 'eighty'"),
        (["--targets", ""], "takes compute capabilities"),
        (["--targets", "61"], "no GPU has compute capability 6.1; known targets: 75, 80"),
        (["--targets", "80", "--output", "nowhere"], "--output nowhere is no directory"),
    ],
)
def test_bad_arguments_end_in_one_line(arguments: list[str], message: str, capsys) -> None:
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_interpreted_kernels_are_not_compiled() -> None:
    command = [
        sys.executable,
        "-m",
        "scclip_kernels.aot.compile",
        "--targets",
        "80",
        "--only",
        "finite",
        "--jobs",
        "1",
    ]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert "TRITON_INTERPRET is set" in done.stderr
    assert "Traceback" not in done.stderr


def test_parameters_of_an_entry_are_counted() -> None:
    ptx = ".visible .entry f(\n .param .u64 f_param_0,\n .param .u32 f_param_1\n)\n{ ld.param.u64 }"
    assert count_parameters(ptx, "f") == 2
    with pytest.raises(CompileError, match="no entry 'g'"):
        count_parameters(ptx, "g")

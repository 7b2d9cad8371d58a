"""What is asked of an engine build: refused early and clearly, and written down so that it can be asked again."""

import argparse
import shlex
from typing import Any

import pytest

from scclip_export.cli.engines import requests_from
from scclip_export.cli.main import build_parser
from scclip_export.engines import EngineRequest
from scclip_export.engines.libraries import Target, narrowed, parse_compute_capability
from scclip_export.engines.request import rebuild_command
from scclip_export.errors import ExportError
from scclip_rt.bundle.engine_fit import RTX_CAPABILITIES, Library
from scclip_rt.bundle.manifest import GridSpec
from scclip_rt.errors import ScclipError

WINDOW, FIXED = GridSpec(kind="window", rows=14, columns=14), GridSpec(kind="fixed", rows=8, columns=12)


def parse(line: str) -> tuple[EngineRequest, ...]:
    return requests_from(build_parser().parse_args(shlex.split(line)))


def test_without_a_library_nothing_is_asked_for() -> None:
    assert parse("--backbone vitb16") == ()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--bundle b.scclip", "say which with --tensorrt or --tensorrt-rtx"),
        ("--max-batch 8 --version-compatible", "--max-batch, --version-compatible: for which library"),
        ("--tensorrt --compute-capability 8.9", "builds for the GPU of the machine it runs on"),
        ("--tensorrt-rtx --version-compatible", "--version-compatible is for --tensorrt"),
        ("--tensorrt-rtx --hardware-compatible", "--hardware-compatible is for --tensorrt"),
        ("--tensorrt --min-batch 8 --max-batch 4", "--min-batch must be in 1..--max-batch; got 8 and 4"),
        ("--tensorrt --opt-batch 17", "--opt-batch must be in 1..16"),
        ("--tensorrt --opt-queries 2000", "--opt-queries must be in 1..1024"),
        ("--tensorrt --engine-precision int8", "--engine-precision takes fp16, bf16, fp32, fp8; got 'int8'"),
    ],
)
def test_contradictions_are_refused(line: str, message: str) -> None:
    with pytest.raises(ExportError) as error:
        parse(line)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "values", [{"builder_level": 6}, {"workspace": 0}, {"max_queries": 0}, {"min_batch": 0}]
)
def test_a_request_checks_its_numbers(values: dict[str, int]) -> None:
    with pytest.raises(ScclipError, match="must be"):
        EngineRequest(library="tensorrt", **values)


@pytest.mark.parametrize(
    "line", ["--tensorrt-rtx --compute-capability x", "--tensorrt-rtx --compute-capability 8,9"]
)
def test_a_compute_capability_that_is_none_is_refused(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(line)
    assert stop.value.code == 2
    assert "8.6,8.9,12.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8.9", "8.9"), ("89", "8.9"), ("120", "12.0"), ("sm_86", "8.6"), (" 10.3 ", "10.3")],
)
def test_compute_capabilities_are_read_in_each_spelling(text: str, expected: str) -> None:
    assert parse_compute_capability(text) == expected


def test_the_profile_follows_the_grid_and_stays_in_its_range() -> None:
    request = EngineRequest(library="tensorrt-rtx")
    assert request.profile(WINDOW) == {"batch": (1, 6, 16), "queries": (1, 150, 1024)}
    assert request.profile(FIXED)["batch"] == (1, 1, 16)
    assert EngineRequest(library="tensorrt-rtx", max_batch=4).profile(WINDOW)["batch"] == (1, 4, 4)
    assert EngineRequest(library="tensorrt-rtx", min_batch=8).profile(WINDOW)["batch"] == (8, 8, 16)
    assert EngineRequest(library="tensorrt-rtx", max_queries=20).profile(WINDOW)["queries"] == (1, 20, 20)


@pytest.mark.parametrize(
    "options",
    [
        {"library": "tensorrt-rtx", "compute_capabilities": ("8.6", "12.0"), "max_batch": 32, "opt_batch": 8},
        {
            "library": "tensorrt",
            "version_compatible": True,
            "hardware_compatible": "ampere+",
            "workspace": 512,
        },
        {"library": "tensorrt", "builder_level": 5, "hardware_compatible": "same-compute-capability"},
    ],
)
def test_the_command_of_a_sidecar_asks_for_the_same_engine(options: dict[str, Any]) -> None:
    request = EngineRequest(**options)
    profile = request.profile(WINDOW)
    words = shlex.split(rebuild_command(request, precision="fp16", grid="window", profile=profile))
    assert words[:3] == ["scclip-export", "--bundle", "BUNDLE"]
    args = build_parser().parse_args(words[1:])
    assert isinstance(args, argparse.Namespace)
    (again,) = requests_from(args)
    assert again.profile(WINDOW) == profile
    assert (again.precisions, again.grids) == (("fp16",), ("window",))
    for name in options:
        assert getattr(again, name) == getattr(request, name)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--fp16 --fp8 --tensorrt-rtx", ("fp16", "fp8")),
        ("--fp16 --fp8 --tensorrt-rtx --engine-precision fp8", ("fp8",)),
        ("--fp16 --tensorrt-rtx", ()),
    ],
)
def test_an_export_with_fp8_builds_its_engine_too(line: str, expected: tuple[str, ...]) -> None:
    (request,) = parse(line)
    assert request.precisions == expected


@pytest.mark.parametrize(
    ("library", "asked", "given"),
    [
        (
            "tensorrt-rtx",
            RTX_CAPABILITIES,
            ("8.9", "12.0+"),
        ),  # the portable engine leaves out what lacks float8
        ("tensorrt-rtx", ("8.9", "12.0"), ("8.9", "12.0")),
        ("tensorrt", ("9.0",), ("9.0",)),
    ],
)
def test_fp8_engines_are_for_gpus_that_have_it(
    library: Library, asked: tuple[str, ...], given: tuple[str, ...]
) -> None:
    target = Target(compute_capabilities=asked, device="a GPU")
    assert narrowed(target, "fp8", library) == Target(compute_capabilities=given, device="a GPU")
    assert narrowed(target, "fp16", library) is target


@pytest.mark.parametrize(
    ("library", "asked", "message"),
    [
        ("tensorrt-rtx", ("8.6", "8.9"), "8.6 was asked for: leave it out of --compute-capability, or"),
        ("tensorrt", ("8.0",), "8.0 was asked for: build on another GPU, or take another precision"),
        ("tensorrt", ("8.0+",), "8.0+ was asked for: leave out --hardware-compatible, or"),
    ],
)
def test_an_fp8_engine_for_an_older_gpu_is_refused(
    library: Library, asked: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ExportError) as error:
        narrowed(Target(compute_capabilities=asked), "fp8", library)
    assert f"an fp8 engine needs compute capability 8.9 or later; {message}" in str(error.value)

"""`scclip-export --help` shows what most people need; the rest is under `--help-all`."""

import argparse
import subprocess
import sys

import pytest

from parsers import NO_NUMBERS, numeric_options
from scclip_export.cli.main import build_parser, run
from scclip_export.methods import METHODS


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        run(list(arguments))
    assert end.value.code == 0
    return capsys.readouterr().out


def test_help_is_short_and_help_all_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    short, whole = help_of(capsys, "--help"), help_of(capsys, "--help-all")
    for option in ("--backbone", "--checkpoint", "--fp16", "--int8", "--output", "--help-all"):
        assert f"\n  {option}" in short
    for option in ("--outlier-fraction", "--timing-cache", "--int8-sensitivity", "--opset"):
        assert option not in short
        assert f"\n  {option}" in whole
    assert len(short.splitlines()) < 80


def test_a_named_method_shows_its_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--detector" in help_of(capsys, "--calibration", "sfp", "--help")
    assert "--detector" in help_of(capsys, "--calibration=sfp", "--help")
    assert "--outlier-neighbors" in help_of(capsys, "--calibration", "scclip", "--help")


@pytest.mark.parametrize("method", METHODS)
def test_no_option_takes_a_number_that_no_table_limits(method: str) -> None:
    options = list(numeric_options(build_parser(["--calibration", method])))
    assert len(options) > 10
    for action in options:
        for text in NO_NUMBERS:
            with pytest.raises(argparse.ArgumentTypeError, match="must be a"):
                action.type(text)  # type: ignore[misc]


def test_a_missing_checkpoint_shows_before_torch_is_imported() -> None:
    code = (
        "import sys; from scclip_export.cli.main import run; "
        "assert run(['--checkpoint', 'absent.pt']) == 2; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "absent.pt does not exist" in done.stderr


def test_timm_is_not_imported_but_stays_importable() -> None:
    code = (
        "import sys; from scclip_export.cli.main import _import_torch; _import_torch(); "
        "assert 'scclip_export.pipeline' in sys.modules; assert 'timm' not in sys.modules; import timm"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr

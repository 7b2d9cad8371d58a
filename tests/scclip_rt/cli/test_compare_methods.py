"""`scclip compare-methods`, with the packaged bundle in the place of every export."""

import argparse
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

import scclip_rt
from scclip_rt.cli import compare_methods, run
from scclip_rt.errors import OptionError

DEMO = Path(scclip_rt.__file__).parent / "demo.scclip"


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str]]:
    """Methods and checkpoints that were asked for; gem and surgery can't be exported, and sfp is interrupted."""
    asked = []
    monkeypatch.chdir(tmp_path)
    Path("clip.safetensors").touch()

    def export(method: str, bundle: Path, args: argparse.Namespace) -> None:
        asked.append((method, args.checkpoint))
        if method in ("gem", "surgery"):
            raise OptionError("scclip-export failed: too few blocks")
        if method == "sfp":
            raise KeyboardInterrupt
        shutil.copytree(DEMO, bundle)

    monkeypatch.setattr(compare_methods, "_export", export)
    return asked


def call(*arguments: object) -> int:
    return run(
        ["compare-methods", "clip.safetensors", "--dataset", "demo", "--limit", "2", *map(str, arguments)]
    )


def test_each_method_has_a_row_and_a_column_of_pictures(
    exported: list[tuple[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, sheet = tmp_path / "report.json", tmp_path / "sheet.png"
    assert call("--methods", "scclip,naclip", f"--json={report}", "--sheet", sheet, "--rows", 1) == 0
    assert exported == [("scclip", "clip.safetensors"), ("naclip", "clip.safetensors")]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["scclip", "naclip"]
    rows = json.loads(report.read_text())["methods"]
    assert rows[0]["miou"] == rows[1]["miou"] > 10
    assert rows[0]["windows"] == 6
    with Image.open(sheet) as page:
        assert page.width == 4 * 220  # image, truth and two methods
        assert page.height < 220  # a scene is wider than high


def test_a_failing_method_keeps_the_others_rows(
    exported: list[tuple[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    assert call("--methods", "gem,scclip", f"--json={report}") == 2
    found = json.loads(report.read_text())
    assert [row["method"] for row in found["methods"]] == ["scclip"]
    assert "too few blocks" in found["failures"]["gem"]
    told = capsys.readouterr()
    assert told.out.splitlines()[-1].startswith("scclip")
    assert "gem: scclip-export failed" in told.err.splitlines()[-1]


def test_a_reason_that_several_methods_fail_for_is_told_once(
    exported: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--methods", "gem,surgery") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "scclip: error: gem, surgery: scclip-export failed: too few blocks [OptionError]"


def test_an_interrupted_run_keeps_the_rows_that_are_done(
    exported: list[tuple[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    assert call("--methods", "scclip,sfp,naclip", f"--json={report}", "--sheet", "sheet.png") == 130
    assert [method for method, _ in exported] == ["scclip", "sfp"]
    assert [row["method"] for row in json.loads(report.read_text())["methods"]] == ["scclip"]
    assert capsys.readouterr().out.splitlines()[-1].startswith("scclip")
    assert not Path("sheet.png").exists()


def test_a_sheet_that_can_not_be_written_costs_no_row(
    exported: list[tuple[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    sheet = Path("clip.safetensors/sheet.png")  # below a file
    assert call("--methods", "scclip", f"--json={report}", "--sheet", sheet) == 2
    assert len(json.loads(report.read_text())["methods"]) == 1
    assert "can't write" in capsys.readouterr().err


def test_a_single_image_warms_up_and_has_no_time(
    exported: list[tuple[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    assert call("--methods", "scclip", "--limit", 1, f"--json={report}") == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[3] == "–"
    assert json.loads(report.read_text())["methods"][0]["milliseconds"] is None


def test_a_precision_of_texts_is_not_passed_over(
    exported: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--methods", "scclip", "--text-precision", "int4") == 2
    assert "no text encoder in precision 'int4'" in capsys.readouterr().err


def test_unknown_methods_and_unsound_options_are_refused_first(
    exported: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--methods", "nonsense") == 2
    assert "unknown nonsense" in capsys.readouterr().err
    assert call("--export", "--mean '1,2") == 2
    assert "No closing quotation" in capsys.readouterr().err
    for word in ("--calibration=none", "--output", "-o"):
        assert call("--export", f"--window 96 {word} x") == 2
        assert f"{word} is not for it" in capsys.readouterr().err
    assert call("--rows", 2) == 2
    assert "--rows goes with --sheet" in capsys.readouterr().err
    assert run(["compare-methods", "absent.pt", "--dataset", "demo"]) == 2
    assert "absent.pt: no such checkpoint" in capsys.readouterr().err
    assert exported == []

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
def exported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Methods and checkpoints that were asked for; gem can't be exported."""
    asked = []

    def export(method: str, bundle: Path, args: argparse.Namespace) -> None:
        asked.append((method, args.checkpoint))
        if method == "gem":
            raise OptionError("scclip-export --calibration gem failed: too few blocks")
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
    assert "gem: scclip-export --calibration gem failed" in told.err.splitlines()[-1]


def test_unknown_methods_and_unsound_options_are_refused_first(
    exported: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--methods", "nonsense") == 2
    assert "unknown nonsense" in capsys.readouterr().err
    assert call("--export", "--mean '1,2") == 2
    assert "No closing quotation" in capsys.readouterr().err
    assert exported == []

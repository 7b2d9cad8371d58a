"""`scclip eval`: outputs, messages, exit codes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scclip_rt import cli
from scclip_rt.demo.scenes import CLASSES


def scclip_eval(*arguments: object) -> int:
    return cli.run(["eval", *(str(argument) for argument in arguments)])


@pytest.fixture
def folder_options(own) -> tuple[object, ...]:
    base = own.base
    options = ("--dataset", "folder", "--images", base / "images", "--masks", base / "masks")
    return (*options, "--classes", base / "classes.txt", "--templates", "none")


def error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error that is not progress."""
    lines = [line for line in capsys.readouterr().err.split("\n") if line and "\r" not in line]
    assert len(lines) == 1, lines
    assert lines[0].startswith("scclip: error: ")
    return lines[0]


def test_own_folders(
    bundle_path: Path, folder_options: tuple[object, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, plot, state = (tmp_path / name for name in ("r.json", "p.png", "s.state"))
    files = ("--json", report, "--plot", plot, "--resume", state)
    assert scclip_eval(bundle_path, *folder_options, *files) == 0
    captured = capsys.readouterr()
    assert "mIoU" in captured.out
    assert "5/5" in captured.err
    document = json.loads(report.read_text())
    assert document["schema"] == "scclip-eval/1"
    assert document["images"] == 5
    assert Image.open(plot).format == "PNG"
    # Everything is counted: a second time reads the state alone.
    assert scclip_eval(bundle_path, *folder_options, "--resume", state, "--json", report, "--force") == 0
    again = json.loads(report.read_text())
    assert again["classes"] == document["classes"]


def test_json_alone_on_standard_output(
    bundle_path: Path, folder_options: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert scclip_eval(bundle_path, *folder_options, "--limit", 2, "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2


def test_demo_scenes(bundle_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scclip_eval(bundle_path, "--dataset", "demo", "--limit", 2, "--templates", "none", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in document["classes"]] == list(CLASSES)
    assert document["pixels"] == 2 * 336 * 448


def test_a_benchmark_with_its_preset_and_an_override(
    bundle_path: Path, voc, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (
        "--dataset",
        "voc21",
        "--root",
        voc.data,
        "--templates",
        "none",
        "--short-side",
        "112",
        "--json",
    )
    assert scclip_eval(bundle_path, *options) == 0
    document = json.loads(capsys.readouterr().out)
    settings = document["settings"]
    assert (settings["short_side"], settings["logit_scale"], settings["area_threshold"]) == (112, 50, 0.1)
    assert document["classes"][0]["name"] == "background"
    assert document["unlabelled_pixels"] == 0


def test_whole_image_and_refine(
    bundle_path: Path, folder_options: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    options = (*folder_options, "--limit", 1, "--whole-image", "--refine", "pamr", "--json")
    assert scclip_eval(bundle_path, *options) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["settings"]["refine"] == "pamr"
    assert document["backend"]["grid"] != "window 6×6"


def test_comparing(
    bundle_path: Path,
    own_bundle: Path,
    folder_options: tuple[object, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sheet, report = tmp_path / "sheet.html", tmp_path / "r.json"
    pair = ("--compare", f"{bundle_path}@fp32", own_bundle)
    assert scclip_eval(*pair, *folder_options, "--sheet", sheet, "--json", report) == 0
    assert "agree on 100.00 %" in capsys.readouterr().out
    assert sheet.read_text().startswith("<!doctype html>")
    assert json.loads(report.read_text())["agreement"] == 100


def test_a_bundle_may_have_an_at_sign_in_its_name(
    bundle_path: Path, folder_options: tuple[object, ...], tmp_path: Path
) -> None:
    copy = tmp_path / "a@b.scclip"
    shutil.copytree(bundle_path, copy)
    assert scclip_eval("--compare", copy, f"{copy}@fp32", *folder_options, "--limit", 1) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("B", "--dataset", "voc"), "unknown dataset 'voc'"),
        (("B", "--dataset", "voc21"), "needs --root"),
        (("B", "--dataset", "voc21", "--root", "nowhere"), "nowhere: no such folder; --root names"),
        (("--dataset", "demo"), "name one bundle, or two with --compare A B"),
        (("B", "--compare", "B", "B", "--dataset", "demo"), "name one bundle, or two"),
        (("B", "--dataset", "demo", "--sheet", "x.html"), "--sheet goes with --compare"),
        (("--compare", "B", "B", "--dataset", "demo", "--resume", "x"), "--resume goes with one bundle"),
        (("--compare", "B", "B", "--dataset", "demo", "--plot", "x"), "--plot goes with one bundle"),
        (("--compare", "B@fp8", "B", "--dataset", "demo"), "fp8"),
        (
            ("B", "--dataset", "demo", "--limit", "0", "--templates", "none"),
            "limit must be a whole number from 1",
        ),
        (("B", "--dataset", "demo", "--refine", "crf", "--templates", "none"), "invalid choice: 'crf'"),
        (("B",), "--dataset"),
    ],
)
def test_errors_in_one_line(
    arguments: tuple[str, ...], message: str, bundle_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    actual = [
        str(bundle_path) + argument[1:] if argument in ("B", "B@fp8") else argument for argument in arguments
    ]
    try:
        code = scclip_eval(*actual)
    except SystemExit as stop:  # argparse's own
        code = int(str(stop.code))
    assert code == 2
    assert message in error(capsys)


def test_files_that_do_not_fit(
    bundle_path: Path, own, folder_options: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    mask = own.base / "masks" / "c.png"
    original = mask.read_bytes()
    Image.fromarray(np.zeros((10, 20), np.uint8)).save(mask)
    assert scclip_eval(bundle_path, *folder_options) == 2
    assert "images/c.png is 20×10 and the image 80×60" in error(capsys)
    Image.fromarray(np.full((60, 80), 77, np.uint8)).save(mask)
    assert scclip_eval(bundle_path, *folder_options) == 2
    assert "masks/c.png: label 77 is out of range" in error(capsys)
    mask.unlink()
    assert scclip_eval(bundle_path, *folder_options) == 2
    assert "masks/c.png: no such mask" in error(capsys)
    mask.write_bytes(original)
    shutil.rmtree(own.base / "images")
    (own.base / "images").mkdir()
    assert scclip_eval(bundle_path, *folder_options) == 2
    assert "images: no images in this folder" in error(capsys)


def test_outputs_that_exist_stop_the_command_first(
    bundle_path: Path, folder_options: tuple[object, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "p.png"
    plot.write_text("mine")
    assert scclip_eval(bundle_path, *folder_options, "--plot", plot) == 2
    assert "p.png exists; pass --force" in error(capsys)
    assert plot.read_text() == "mine"


def test_help_names_every_dataset(capsys: pytest.CaptureFixture[str]) -> None:
    from scclip_rt.evaluation import DATASETS

    with pytest.raises(SystemExit) as stop:
        scclip_eval("--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in DATASETS)


def test_ctrl_c_keeps_what_is_counted(bundle_path: Path, tmp_path: Path) -> None:
    state = tmp_path / "s.state"
    options = ["--dataset", "demo", "--templates", "none", "--resume", str(state)]
    code = (
        "import importlib, os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored by a shell's background jobs
        "evaluate = importlib.import_module('scclip_rt.evaluation.evaluate')\n"
        "count, calls = evaluate.count, iter(range(300))\n"
        "def counted(*arguments):\n"
        "    if next(calls) == 3:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return count(*arguments)\n"
        "evaluate.count = counted\n"
        "from scclip_rt.cli import main\n"
        f"sys.argv = {['scclip', 'eval', str(bundle_path), *options]!r}\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.strip().endswith("scclip: interrupted")
    assert json.loads(state.read_text())["done"] == 3

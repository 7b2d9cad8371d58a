"""OpenCV is an extra: what is installed without it works, but for rendering the demo's scenes."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PACKAGE = Path(__file__).parents[2] / "scclip_rt"
SCENE = PACKAGE / "demo/scene.png"
_CODE = """
import sys
sys.modules["cv2"] = None  # importing it is an ImportError
from scclip_rt.cli import run
sys.exit(run(sys.argv[1:]))
"""


def scclip(*words: object, code: int = 0) -> str:
    """Run a command where OpenCV is not installed; what it told."""
    line = [sys.executable, "-c", _CODE, *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_only_demo_scenes_and_pamr_look_for_it() -> None:
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        if re.search(r"\bcv2\b", path.read_text())
    }
    assert users == {"decode", "demo"}


@pytest.mark.parametrize(
    "options",
    [["--refine", "pamr"], ["--format", "yolo-seg"], ["--format", "coco"]],
    ids=lambda options: options[1],
)
def test_images_are_segmented(options: Sequence[str], tmp_path: Path) -> None:
    scclip("segment", "demo", SCENE, "--output", tmp_path, *options)
    assert list(tmp_path.rglob("*.*"))


def test_classes_are_embedded_and_folders_run(tmp_path: Path) -> None:
    vocabulary = tmp_path / "two.safetensors"
    scclip("embed", "demo", "--classes", "sky; grass", "--templates", "none", "--output", vocabulary)
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.open(SCENE).resize((120, 90)).save(photos / "scene.jpg")
    scclip(
        "batch",
        photos,
        "--bundle",
        "demo",
        "--vocabulary",
        vocabulary,
        "--output",
        tmp_path / "out",
        "--format",
        "png",
    )
    assert list((tmp_path / "out").rglob("*.png"))


def test_masks_are_evaluated_with_a_sheet(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.open(SCENE).save(tmp_path / "images/scene.png")
    mask = np.zeros(Image.open(SCENE).size[::-1], np.uint8)
    Image.fromarray(mask).save(tmp_path / "masks/scene.png")
    where = [
        "--images",
        tmp_path / "images",
        "--masks",
        tmp_path / "masks",
        "--classes",
        PACKAGE / "demo/classes.txt",
    ]
    line = ["eval", "--compare", "demo@fp32", "demo@int8", "--dataset", "folder", *where]
    scclip(*line, "--templates", "none", "--sheet", tmp_path / "sheet.html")
    assert "data:image/jpeg" in (tmp_path / "sheet.html").read_text()


def test_scenes_say_what_to_install() -> None:
    told = scclip("eval", "demo", "--dataset", "demo", code=2)
    assert "needs OpenCV, which is not installed" in told
    assert "pip install '.[opencv]'" in told
    assert told.count("\n") == 1

"""The bundles that are measured, exported once into a work folder: remove it to export again.

Weights of the full-size models are synthetic (tests/synthetic.py): the time of a matrix product does not depend on its
numbers. The demo model's are its own.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from synthetic import clip_state_dict

ROOT = Path(__file__).parents[1]
DEMO_CHECKPOINT = ROOT / "benchmarks/demo/demo_clip.safetensors"
DEMO_CLASSES = ROOT / "scclip_rt/demo/classes.txt"
FULL_SIZE = ("vitb16", "vitl14")


def work_folder() -> Path:
    """Where bundles are kept: `$SCCLIP_BENCH`, else a folder in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scclip-rt/benchmarks"
    return Path(os.environ.get("SCCLIP_BENCH") or default)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """`--model` and `--work`."""
    parser.add_argument("--model", default="vitb16", choices=(*FULL_SIZE, "tiny", "demo"), help="(vitb16)")
    parser.add_argument("--work", type=Path, default=work_folder(), help="keeps bundles (%(default)s)")


def checkpoint(model: str, work: Path) -> Path:
    """The weights, written if they are not there."""
    if model == "demo":
        return DEMO_CHECKPOINT
    from safetensors.numpy import save_file

    path = work / f"{model}.safetensors"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        save_file(clip_state_dict(model), path)
    return path


def photo(work: Path) -> Path:
    """A cat, from scikit-image, at the size of a PASCAL VOC photo: 375×500, as a PNG."""
    import cv2
    from skimage import data

    path = work / "photo.png"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        smaller = cv2.resize(data.chelsea(), (500, 375), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(path), cv2.cvtColor(smaller, cv2.COLOR_RGB2BGR))
    return path


def bundle(model: str, work: Path, *, calibration: str = "scclip") -> Path:
    """A bundle with windows and, if calibrated, a dynamic grid, in fp32 and int8; exported if it is not there."""
    options = ["--dynamic-grid"] if calibration == "scclip" else []
    options += ["--calibration", calibration, "--int8"]
    if model == "demo":
        options += ["--vocabulary", str(DEMO_CLASSES)]
    return exported(model, work, model if calibration == "scclip" else f"{model}-{calibration}", options)


def exported(model: str, work: Path, name: str, options: Sequence[str]) -> Path:
    """The bundle of a name in the work folder; exported with these options if it is not there."""
    from scclip_export.cli.main import run

    path = work / f"{name}.scclip"
    weights = ["--checkpoint", str(checkpoint(model, work)), "--activation", "quickgelu"]
    if not path.exists() and run([*weights, "--output", str(path), *options]):
        sys.exit("the export failed")
    return path

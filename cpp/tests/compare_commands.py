"""Command lines that scclip-segment-cpp refuses, word for word as `scclip segment` does, with exit code 2.

python compare_commands.py PROGRAM BUNDLE VOCABULARY IMAGE; and the two agree on labels with a background and PAMR.
"""

import argparse
import contextlib
import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from scclip_rt.cli import run
from scclip_rt.vocabulary.file import load_vocabulary

REFUSED = (
    "--refine sharp", "--refine", "--precision magic", "--precision fp16", "--precision bf16 --backend onnxruntime",
    "--device tpu", "--ort-provider magic", "--threads 0", "--threads x", "--batch 0", "--short-side 0",
    "--short-side -3", "--stride 0", "--stride 9999", "--prob-threshold 2", "--prob-threshold x", "--logit-scale 0",
    "--area-threshold -1", "--background nobody", "--background", "--magic", "--whole-image --precision int8",
)  # fmt: skip


def refusal(code: int, errors: str) -> str:
    """The message of a run that must have failed, without the programs' names."""
    if code != 2 or errors.count("\n") != 1:
        raise SystemExit(f"exit code {code}, standard error {errors!r}")
    for name in ("`scclip-segment-cpp --help`", "`scclip segment --help`", "`scclip --help`"):
        errors = errors.replace(name, "--help")
    return errors.split(": error: ", 1)[1]


def python_refusal(arguments: list[str]) -> str:
    """What `scclip segment` says."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        try:
            code = run(["segment", *arguments])
        except SystemExit as leaving:  # argparse's
            code = int(leaving.code or 0)
    return refusal(code, errors.getvalue())


def compare_refusals(program: str, cases: list[list[str]]) -> int:
    """Run both; the number of command lines that are refused differently."""
    differences = 0
    for arguments in cases:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
        cpp, python = refusal(done.returncode, done.stderr), python_refusal(arguments)
        if cpp != python:
            differences += 1
            print(f"{' '.join(arguments)}\n  C++:    {cpp}  Python: {python}", file=sys.stderr)
    return differences


def agreement(program: str, arguments: list[str], image: Path, folder: Path) -> float:
    """Share of pixels that both label the same."""
    labels = []
    for name in ("cpp", "python"):
        command = [*arguments, "--output", str(folder / name)]
        if name == "cpp":
            subprocess.run([program, *command], check=True, stdout=subprocess.DEVNULL)
        else:
            with contextlib.redirect_stdout(io.StringIO()):
                if run(["segment", *command]) != 0:
                    raise SystemExit("scclip segment failed")
        labels.append(np.asarray(Image.open(folder / name / f"{image.stem}.labels.png")))
    return float((labels[0] == labels[1]).mean()) if labels[0].shape == labels[1].shape else 0.0


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("program", "bundle", "vocabulary", "image"):
        parser.add_argument(name)
    arguments = parser.parse_args()
    bundle, image = arguments.bundle, arguments.image
    vocabulary = ["--vocabulary", arguments.vocabulary]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        output = ["--output", str(folder / "out")]
        cases = [[bundle, image, *vocabulary, *output, *options.split()] for options in REFUSED]
        cases += [
            [bundle, str(folder / "nowhere.png"), *vocabulary, *output],
            [str(folder / "nowhere.scclip"), image, *vocabulary, *output],
            [bundle, image, "--vocabulary", str(folder / "nowhere"), *output],
            [bundle, image, *vocabulary, "--output", image],
        ]
        differences = compare_refusals(arguments.program, cases)
        turned = folder / "turned.png"
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.open(image).save(turned, exif=exif)
        background = load_vocabulary(arguments.vocabulary).classes[-1]
        options = f"--background {background} --prob-threshold 0.6 --refine pamr --precision fp32".split()
        same = agreement(arguments.program, [bundle, str(turned), *vocabulary, *options], turned, folder)
    if differences or same < 0.9999:
        raise SystemExit(f"{differences} refusals differ; {same:.6f} of the pixels agree")
    print(f"{len(cases)} refusals and the labels of a turned image agree")


if __name__ == "__main__":
    main()

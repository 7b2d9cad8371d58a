"""Command lines that scclip-segment-cpp refuses as `scclip segment` does: exit code 2, one line that names the fault.

python compare_commands.py PROGRAM BUNDLE VOCABULARY IMAGE; and the two agree on labels with a background and PAMR.
"""

import argparse
import contextlib
import io
import subprocess
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
    "--area-threshold -1", "--background nobody", "--background", "--magic", "--precision int8 --whole-image",
)  # fmt: skip
CPP_REFUSES = (
    "--threads -4294967295", "--threads 4294967297", "--batch 1.5", "--logit-scale 1e39", "--logit-scale nan",
    "--max-pixels 0", "--max-pixels 99",
)  # fmt: skip


def python_refuses(arguments: list[str]) -> bool:
    """Whether `scclip segment` ends with exit code 2 as well."""
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            return run(["segment", *arguments]) == 2
        except SystemExit as leaving:  # argparse's
            return leaving.code == 2


def check_refusal(program: str, arguments: list[str], named: str) -> None:
    """Exit code 2 and one line that names what is at fault."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    plain = named.lstrip("-")
    names = (plain, plain.replace("-", "_"))
    if done.returncode != 2 or done.stderr.count("\n") != 1 or not any(name in done.stderr for name in names):
        raise SystemExit(
            f"{' '.join(arguments)}\n  exit code {done.returncode}, standard error {done.stderr!r}"
        )


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
        common = [bundle, image, *vocabulary, *output]
        for options in REFUSED + CPP_REFUSES:
            check_refusal(arguments.program, [*common, *options.split()], options.split()[0])
            if options in REFUSED and not python_refuses([*common, *options.split()]):
                raise SystemExit(f"scclip segment takes {options}")
        for given in (
            [bundle, str(folder / "nowhere"), *vocabulary, *output],
            [str(folder / "nowhere"), image, *vocabulary, *output],
            [bundle, image, "--vocabulary", str(folder / "nowhere"), *output],
        ):
            check_refusal(arguments.program, given, "nowhere")
        check_refusal(arguments.program, [bundle, image, *vocabulary, "--output", image], image)
        for names, several in (("grass, tartan", '"grass; tartan"'), ("grass; tartan", None)):
            told = subprocess.run(
                [arguments.program, bundle, image, "--classes", names],
                capture_output=True,
                text=True,
                check=True,
            ).stderr
            if (several or "") not in told or bool(told) != bool(several):
                raise SystemExit(f"--classes {names!r}: {told!r}")
        turned = folder / "turned.png"
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.open(image).save(turned, exif=exif)
        background = load_vocabulary(arguments.vocabulary).classes[-1]
        rules = "--prob-threshold 0.6 --class-threshold 0.2 --refine pamr"
        options = f"--background {background} {rules} --precision fp32".split()
        same = agreement(arguments.program, [bundle, str(turned), *vocabulary, *options], turned, folder)
    if same < 0.9999:
        raise SystemExit(f"{same:.6f} of the pixels agree")
    print(f"{len(REFUSED + CPP_REFUSES) + 4} refusals and the labels of a turned image agree")


if __name__ == "__main__":
    main()

"""Targets that don't ship, tried on a baked file as far as they go: what `benchmarks.cpu.engines` says blocks them."""

import importlib.metadata
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx

from benchmarks.harness import Row
from scclip_rt import Segmenter
from scclip_rt.baking.bake import bake
from scclip_rt.baking.converters import mnn
from scclip_rt.baking.converters.convert import BakedFile
from scclip_rt.baking.converters.noise import output_to


def ncnn(source: Path, _segmenter: Segmenter) -> Row:
    """Through pnnx: which layers of what it wrote ncnn's own runtime does not know, and what pnnx left out aloud."""
    import ncnn as library

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "baked.onnx"
        path.write_bytes(source.read_bytes())
        shape = ",".join(map(str, _shape(source)))
        words = [str(Path(sys.executable).with_name("pnnx")), str(path), f"inputshape=[{shape}]", "fp16=0"]
        child = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder)
        written = path.with_suffix(".ncnn.param")
        lines = written.read_text("utf-8").splitlines()[2:] if written.exists() else []
        unknown = []
        for kind in sorted({line.split()[0] for line in lines}):
            single = Path(folder) / "single.param"
            single.write_text(f"7767517\n1 1\n{kind} layer 0 1 a\n", "utf-8")
            with output_to(Path(folder) / "said") as said:
                library.Net().load_param(str(single))
            if "not exists or registered" in said.read_text("utf-8", "replace"):
                unknown.append(kind)
    told = {
        line.strip(" !") for line in (child.stdout + child.stderr).splitlines() if "not supported" in line
    }
    blocked = f"pnnx ends with exit code {child.returncode}; ncnn knows no {', '.join(unknown)}"
    return {
        "name": "ncnn, through pnnx",
        "version": importlib.metadata.version("pnnx"),
        "converts": bool(lines) and not unknown and not told,
        "blocked": "; ".join([blocked, *sorted(told)]) if unknown or told else "",
    }


def coreml_here(source: Path, _segmenter: Segmenter) -> Row:
    """Converted without the gate, since nothing predicts here: whether coremltools takes every operator."""
    from scclip_export.converters import coreml

    row: Row = {
        "name": "Core ML, fp32",
        "version": importlib.metadata.version("coremltools"),
        "converts": True,
    }
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "baked.mlpackage"
        coreml.convert(source, target, "fp32", None)
        row["bytes"] = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    return row | {"blocked": "predicts on macOS alone: not compared"}


def mnn_int8(source: Path, segmenter: Segmenter) -> Row:
    """A quantised graph, which `scclip convert` refuses, given to MNN's converter all the same."""
    narrow = Segmenter(
        segmenter.bundle, vocabulary=segmenter.vocabulary, backend="onnxruntime", precision="int8"
    )
    row: Row = {"name": "MNN, an int8 graph", "version": mnn.version(), "converts": False}
    with tempfile.TemporaryDirectory() as folder:
        path, target = Path(folder) / "int8.onnx", Path(folder) / "int8.mnn"
        bake(narrow, path, replace(BakedFile.read(source).options, result="probabilities"))
        words = ["mnnconvert", "-f", "ONNX", "--modelFile", str(path), "--MNNModel", str(target)]
        child = subprocess.run(
            [sys.executable, "-c", "import sys, _tools; _tools.mnnconvert(sys.argv[1:])", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        row["converts"] = target.exists() and child.returncode == 0
    return row | {"blocked": f"its converter ends with exit code {child.returncode}"}


def _shape(source: Path) -> list[int]:
    image = onnx.load(str(source), load_external_data=False).graph.input[0]
    return [dim.dim_value for dim in image.type.tensor_type.shape.dim]


TRIALS: dict[str, Callable[[Path, Segmenter], Row]] = {
    "ncnn": ncnn,
    "coreml-here": coreml_here,
    "mnn-int8": mnn_int8,
}

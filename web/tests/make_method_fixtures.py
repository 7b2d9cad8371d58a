"""Write web/tests/fixtures/methods.json.br: a small bundle by every method, and the labels Python gives with it.

Run it in the repository's root, with the extra `export` and Node: `python web/tests/make_method_fixtures.py`. It takes
some minutes. Weights are not stored: after the export each is replaced by noise of its own mean and deviation, which
both sides make from one generator of numbers. The tokenizer and the picture are the demo's, and so is the text encoder
of all bundles but one, which keeps its own: it can resume.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from make_fixtures import ROOT, SCENE, numbers, packed
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image

from scclip_rt import Segmenter
from scclip_rt.vocabulary.file import Vocabulary

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "kernels"), str(ROOT / "export")]

from synthetic import ARCHITECTURES, clip_state_dict  # noqa: E402

DEMO = ROOT / "scclip_rt" / "demo.scclip"
SIZES = (64, 7, 16, 96, 192, 64, 1, 49408)  # as in ARCHITECTURES; the width of the demo's vectors
METHODS = (
    "scclip", "sfp", "naclip", "clearclip", "sclip", "segearth", "resclip", "maskclip", "none", "gem", "surgery",
)  # fmt: skip
PRESETS = {"clearclip": "context60", "sclip": "voc21", "segearth": "isaid", "sfp": "voc21", "naclip": "voc21"}
PADS = ("clearclip", "segearth")  # their windows are no multiple of the patch here
PARTS = (
    (60, 80, 150, 200),
    (100, 20, 40, 300),
)  # of the picture; the second has windows smaller than the others
DATA = "weights.data"
DRAWN = re.compile(r"weight$|bias$|positions$|class_token$|position_grid$|^transpose|^table$")
OWN_TEXT = "scclip"
QUERY_CLASS = (0, 0, 1, 2, 3, 3, 4, 5, 6)


def export(method: str, folder: Path) -> Path:
    """FOLDER/METHOD.scclip, of the first synthetic weights whose rounding keeps within the parity limits."""
    from safetensors.numpy import save_file

    from scclip_export.cli.main import run

    ARCHITECTURES["web"] = SIZES
    bundle, checkpoint = folder / f"{method}.scclip", folder / f"{method}.safetensors"
    sizes = (
        "--window 100 --stride 60 --short-side 130"
        if method in PADS
        else "--window 96 --stride 48 --short-side 128"
    )
    for seed in range(4):
        save_file({k: np.array(v) for k, v in clip_state_dict("web", seed).items()}, checkpoint)
        options = f"--checkpoint {checkpoint} --calibration {method} --output {bundle} --dynamic-grid {sizes}"
        if run(options.split()) == 0:
            return bundle
    raise SystemExit(f"the export of {method} failed")


def drawn(seed: int, count: int, mean: float, std: float) -> NDArray[np.float32]:
    """Noise: float64 arithmetic, as JavaScript has it."""
    return (mean + std * (numbers(seed, count) / 2**32 - 0.5)).astype(np.float32)


def lighten(bundle: Path) -> dict[str, Any]:
    """Replace weights, and the text side but for one, in place; what makes the bundle again."""
    own_text = bundle.stem == OWN_TEXT
    document = json.loads((bundle / "bundle.json").read_text("utf-8"))
    demo = json.loads((DEMO / "bundle.json").read_text("utf-8"))
    weights: list[dict[str, Any]] = []
    places: dict[bytes, tuple[int, int]] = {}
    graphs: dict[str, bytes] = {}
    files = [encoder["file"] for encoder in document["encoders"]]
    files += ["text_encoder.onnx", "text_encoder.resumed.onnx"] if own_text else []
    for file in files:
        model = onnx.load(bundle / file)
        del model.graph.value_info[:]
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.dtype != np.float32 or values.size < 16 or not DRAWN.search(tensor.name):
                continue
            key = values.tobytes()
            if key not in places:
                start = sum(4 * spec["count"] for spec in weights)
                spec = {
                    "count": values.size,
                    "mean": round(float(values.mean()), 6),
                    "std": round(float(values.std() * 12**0.5), 6),  # of noise from -0.5 to 0.5
                }
                weights.append(spec)
                places[key] = (start, 4 * values.size)
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            del tensor.external_data[:]
            for name, value in zip(
                ("location", "offset", "length"), (DATA, *map(str, places[key])), strict=True
            ):
                tensor.external_data.add(key=name, value=value)
        graphs[file] = model.SerializeToString()
    shutil.rmtree(bundle)
    bundle.mkdir()
    data = np.concatenate([drawn(seed, **spec) for seed, spec in enumerate(weights)]).tobytes()
    document |= {} if own_text else {"text_encoder": demo["text_encoder"]}
    document |= {
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in (*graphs.items(), (DATA, data))
        },
    }
    theirs = ("text_encoder.onnx", "text_encoder.onnx.data", "text_encoder.resumed.onnx")
    for name in ("tokenizer.json", *(() if own_text else theirs)):
        shutil.copyfile(DEMO / name, bundle / name)
        document["files"][name] = demo["files"][name]
    for name, content in (*graphs.items(), (DATA, data)):
        (bundle / name).write_bytes(content)
    (bundle / "bundle.json").write_text(json.dumps(document), "utf-8")
    encoded = {name: base64.b64encode(content).decode() for name, content in graphs.items()}
    return {"manifest": document, "graphs": encoded, "weights": weights}


def chosen_queries(bundle: Path) -> NDArray[np.int8]:
    """Directions in which the picture's patches differ most, so that each class gets some; coarse, to be small."""
    scene = np.array(Image.open(SCENE).convert("RGB"))
    top, left, height, width = PARTS[0]
    encoded = Segmenter(bundle, backend="onnxruntime", precision="fp32").encode(
        scene[top : top + height, left : left + width]
    )
    patches = encoded.features.reshape(-1, SIZES[4]).astype(np.float64)
    patches -= patches.mean(axis=0)
    patches /= np.linalg.norm(patches, axis=1, keepdims=True)
    chosen = [0]
    while len(chosen) < len(QUERY_CLASS):
        chosen.append(int((patches @ patches[chosen].T).max(axis=1).argmin()))
    rows = patches[chosen]
    return np.rint(rows / np.abs(rows).max(axis=1, keepdims=True) * 127).astype(np.int8)


def vocabulary(queries: NDArray[np.int8], model_sha256: str, last: str) -> Vocabulary:
    """Seven classes, two of them with a synonym; `last` is the last one's name."""
    rows = queries.astype(np.float64)
    names = tuple(f"query {index}" for index in range(len(QUERY_CLASS) - 1))
    return Vocabulary(
        embeddings=(rows / np.sqrt((rows * rows).sum(axis=1, keepdims=True))).astype(np.float32),
        classes=tuple(f"class {index}" for index in range(max(QUERY_CLASS) + 1)),
        queries=(*names, last),
        query_class=np.array(QUERY_CLASS),
        background=None,
        templates="none",
        text_model_sha256=model_sha256,
    )


def method_cases(method: str, bundle: Path, queries: NDArray[np.int8]) -> list[dict[str, Any]]:
    """Windows, whole images, a benchmark's settings, and what a bundle asks for left out."""
    scene = np.array(Image.open(SCENE).convert("RGB"))
    model_sha256 = json.loads((bundle / "bundle.json").read_text("utf-8"))["text_encoder"]["model_sha256"]
    ways: list[dict[str, Any]] = [{}, {"whole_image": True}, {"prob_threshold": 0.3, "area_threshold": 0.1}]
    ways += [{"preset": PRESETS[method]}] if method in PRESETS else []
    ways += [{"refine": "none"}] if method == "naclip" else []
    ways += [{"refine": "pamr", "area_threshold": 0.1}] if method == "clearclip" else []
    ways += [{"classes": "dog, puppy; a red brick wall in the sun; &amp"}] if method == OWN_TEXT else []
    ways += (
        [{"classes": "sky, heaven"}, {"classes": "grass; wood"}, {"last": ""}] if method == "surgery" else []
    )
    cases = []
    for way in ways:
        words: dict[str, Any] = {"classes": way["classes"]} if "classes" in way else {}
        words |= {} if words else {"vocabulary": vocabulary(queries, model_sha256, way.get("last", "last"))}
        options = {name: value for name, value in way.items() if name not in ("classes", "last")}
        segment = Segmenter(bundle, backend="onnxruntime", precision="fp32", cache=False, **words, **options)
        rows = {"rows": packed(segment.vocabulary.embeddings)} if "classes" in way else {}
        for top, left, height, width in PARTS:
            result = segment(scene[top : top + height, left : left + width], confidence=True)
            cases.append(
                {
                    "method": method,
                    "part": (top, left, height, width),
                    **way,
                    **rows,
                    "names": result.classes,
                    "labels": packed(result.labels),
                    "confidence": packed(np.asarray(result.confidence)[::13, ::13]),
                }
            )
            print(method, way, np.unique(result.labels, return_counts=True), flush=True)
    return cases


DEMO_CHANGES: tuple[tuple[dict[str, dict[str, Any]], dict[str, Any]], ...] = (
    ({"decoding": {"maps": "minmax"}}, {}),
    ({"decoding": {"refine": "pamr"}}, {}),
    ({"decoding": {"rest_class": 1}}, {"prob_threshold": 0.9, "area_threshold": 0.1}),
    ({"preprocessing": {"whole_image": "floor"}}, {"whole_image": True}),
    ({"decoding": {"templates": "photo"}}, {"classes": "grass; brick wall; night sky"}),
    (
        {
            "benchmarks": {
                "other": {"short_side": 300, "stride": 80, "logit_scale": 20.0, "prob_threshold": 0.5}
            }
        },
        {"preset": "other"},
    ),
)
"""What a manifest says beyond format 1, and options: with the demo's weights and words."""


def demo_cases(folder: Path) -> list[dict[str, Any]]:
    """Labels of the picture by the demo bundle with a manifest of format 2."""
    scene = np.array(Image.open(SCENE).convert("RGB"))
    top, left, height, width = part = (40, 30, 250, 310)
    cases = []
    for change, options in DEMO_CHANGES:
        bundle = folder / "demo.scclip"
        shutil.copytree(DEMO, bundle, dirs_exist_ok=True)
        document = json.loads((bundle / "bundle.json").read_text("utf-8"))
        document |= {"format_version": 2, "calibration": {"method": "changed"}}
        for name, members in change.items():
            document[name] = document.get(name, {}) | members
        (bundle / "bundle.json").write_text(json.dumps(document), "utf-8")
        segment = Segmenter(bundle, backend="onnxruntime", precision="fp32", cache=False, **options)
        result = segment(scene[top : top + height, left : left + width])
        cases.append({"change": change, "part": part, **options, "labels": packed(result.labels)})
        print(change, np.unique(result.labels, return_counts=True), flush=True)
    return cases


def compressed(document: object) -> bytes:
    """Brotli with a window that sees all graphs, which are alike."""
    script = (
        "const z = require('zlib'), c = z.constants, text = require('fs').readFileSync(0);"
        "process.stdout.write(z.brotliCompressSync(text, { params: { [c.BROTLI_PARAM_LGWIN]: 24,"
        " [c.BROTLI_PARAM_QUALITY]: 11, [c.BROTLI_PARAM_SIZE_HINT]: text.length } }))"
    )
    text = json.dumps(document).encode()
    return subprocess.run(["node", "-e", script], input=text, capture_output=True, check=True).stdout


def main() -> None:
    """Export, replace, run, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exported", type=Path, help="a folder of METHOD.scclip that are taken as they are")
    arguments = parser.parse_args()
    bundles: dict[str, Any] = {}
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        for method in METHODS:
            if arguments.exported:
                bundle = Path(
                    shutil.copytree(arguments.exported / f"{method}.scclip", folder / f"{method}.scclip")
                )
            else:
                bundle = export(method, folder)
            bundles[method] = lighten(bundle)
            queries = chosen_queries(bundle)
            bundles[method]["queries"] = packed(queries)
            cases += method_cases(method, bundle, queries)
        document = {
            "bundles": bundles,
            "cases": cases,
            "demo": demo_cases(folder),
            "query_class": QUERY_CLASS,
        }
    (Path(__file__).parent / "fixtures" / "methods.json.br").write_bytes(compressed(document))


if __name__ == "__main__":
    main()

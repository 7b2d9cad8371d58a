"""What the Python runtime computes and refuses, written to a folder that the C++ tests compare with.

Call it as `make_fixtures.py --export-only FOLDER` for the tiny model of tests/synthetic.py (FOLDER/tiny.scclip), and as
`make_fixtures.py FOLDER --bundle DIR` for the rest.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT))

from scclip_rt import Segmenter  # noqa: E402
from scclip_rt.bundle import Bundle  # noqa: E402
from scclip_rt.classes import find_background, parse_classes  # noqa: E402
from scclip_rt.decode import decode, decode_plan  # noqa: E402
from scclip_rt.errors import ScclipError  # noqa: E402
from scclip_rt.geometry import Tiling, resize  # noqa: E402
from scclip_rt.vocabulary import Vocabulary, load_vocabulary, save_vocabulary  # noqa: E402
from synthetic import clip_state_dict, scene  # noqa: E402
from tiny_bundle import build_bundle, edit_manifest, encoder_model, relist  # noqa: E402

SEEDS = {"tiny_six": 1, "tiny_voc21": 1, "tiny_portrait_560": 2}
ENCODER, DATA = "encoder.fp32.onnx", "encoder.fp32.onnx.data"
THREADS = 2


class Fixtures:
    """A folder of raw arrays and the JSON that says what they are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def array(self, values: np.ndarray) -> dict[str, Any]:
        """Write an array; return what finds it again."""
        self.count += 1
        name = f"{self.count:04}.bin"
        (self.folder / name).write_bytes(np.ascontiguousarray(values).tobytes())
        return {"file": name, "shape": list(values.shape), "dtype": str(values.dtype)}


def pattern(height: int, width: int, seed: int) -> np.ndarray:
    """Pixels that C++ makes again in one line: the top byte of a multiplicative hash of the index."""
    index = np.arange(height * width * 3, dtype=np.uint64) + np.uint64(seed)
    mixed = (index * np.uint64(2654435761)) & np.uint64(0xFFFFFFFF)
    return (mixed >> np.uint64(24)).astype(np.uint8).reshape(height, width, 3)


def resize_cases(number: int = 4000) -> list[list[Any]]:
    """Sizes, the pattern's seed, and the SHA-256 of what OpenCV makes of it."""
    rng = np.random.default_rng(0)
    cases = []
    for index in range(number):
        if index % 4 == 0:
            height, width, to_height, to_width = (int(n) for n in rng.integers(1, 40, 4))
        elif index % 4 == 1:  # what the model does: a short side of 336 or 560
            height, width = (int(n) for n in rng.integers(20, 500, 2))
            scale = (56 if index % 8 == 1 else 93) / min(height, width)
            to_height, to_width = int(height * scale + 0.5), int(width * scale + 0.5)
        elif index % 4 == 2:
            height, width, to_height, to_width = (int(n) for n in rng.integers(1, 200, 4))
        else:  # whole factors, the exact half among them
            to_height, to_width, by, bx = (int(n) for n in (*rng.integers(1, 60, 2), *rng.integers(1, 4, 2)))
            height, width = to_height * by, to_width * (by if index % 8 == 3 else bx)
        resized = resize(pattern(height, width, index), (to_height, to_width))
        digest = hashlib.sha256(np.ascontiguousarray(resized).tobytes()).hexdigest()
        cases.append([height, width, to_height, to_width, index, digest])
    for height, width in ((375, 500), (1080, 1920), (640, 427)):
        resized = resize(pattern(height, width, 7), (336, width * 336 // height))
        digest = hashlib.sha256(np.ascontiguousarray(resized).tobytes()).hexdigest()
        cases.append([height, width, 336, width * 336 // height, 7, digest])
    return cases


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random unit rows."""
    rows = rng.standard_normal(shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def decode_cases(out: Fixtures) -> list[dict[str, Any]]:
    """Features and text with the labels and confidence that Python decodes."""
    rng = np.random.default_rng(1)
    options: list[dict[str, Any]] = [
        {},
        {"with_confidence": True},
        {"prob_threshold": 0.12, "with_confidence": True},
        {"prob_threshold": 0.12, "background": 1},
        {"area_threshold": 0.03},
        {"area_threshold": 0.05, "with_confidence": True, "background": 0, "prob_threshold": 0.1},
        {"area_threshold": 1.0, "with_confidence": True},
        {"logit_scale": 100.0, "with_confidence": True},
    ]
    shapes = [
        # resized, output, window, stride, patches per window, queries, classes
        ((336, 448), (375, 500), 224, 112, 14, 150, 150),
        ((300, 224), (61, 40), 224, 112, 14, 20, 9),
        ((224, 650), (30, 333), 224, 100, 16, 300, 290),
        ((96, 96), (97, 95), 96, 48, 6, 5, 3),
        ((224, 224), (224, 224), 224, 112, 14, 1, 1),
    ]
    cases = []
    for number, (resized, shape, window, stride, grid, queries, classes) in enumerate(shapes):
        tiling = Tiling.windows(*resized, window=window, stride=stride)
        features, text = unit(rng, len(tiling), grid * grid, 24), unit(rng, queries, 24)
        features[:, : grid * grid // 2] = features[:, :1]  # areas, not only noise
        query_class = np.concatenate([np.arange(classes), rng.integers(0, classes, queries - classes)])
        common = {
            "features": out.array(features),
            "text": out.array(text),
            "query_class": query_class.tolist(),
        }
        for option in options[: 8 if number < 2 else 6]:
            if option.get("background", 0) >= classes:
                continue
            result = decode(
                features,
                text,
                decode_plan(tiling, (grid, grid), shape),
                query_class=query_class,
                num_classes=classes,
                threads=1,
                **option,
            )
            case = common | {
                "resized": resized,
                "shape": shape,
                "window": window,
                "stride": stride,
                "grid": grid,
                "classes": classes,
                "options": option,
                "labels": out.array(result.labels),
            }
            if result.confidence is not None:
                case["confidence"] = out.array(result.confidence)
            cases.append(case)
    return cases


def golden_vocabulary(arrays: dict[str, np.ndarray], bundle: Bundle) -> Vocabulary:
    """The golden arrays' text as a vocabulary of this bundle."""
    classes = parse_classes([str(line) for line in arrays["classes"]])
    names = tuple(names[0] for names in classes)
    return Vocabulary(
        embeddings=arrays["text"],
        classes=names,
        queries=tuple(name for group in classes for name in group),
        query_class=arrays["query_idx"].astype(np.int64),
        background=find_background(names),
        templates="imagenet",
        text_model_sha256=bundle.text_encoder.model_sha256,
    )


def golden_cases(out: Fixtures, bundle_path: Path) -> list[dict[str, Any]]:
    """Images end to end, in windows and whole."""
    bundle = Bundle.open(bundle_path)
    cases = []
    for name, seed in SEEDS.items():
        with np.load(ROOT / "tests" / "data" / f"{name}.npz") as file:
            arrays = dict(file)
        meta = json.loads(str(arrays["meta"]))
        height, width = arrays["labels"].shape
        image = scene(height, width, seed)
        save_vocabulary(golden_vocabulary(arrays, bundle), out.folder / f"{name}.safetensors", force=True)
        defaults = meta["official_defaults"]
        options = {
            "logit_scale": meta.get("logit_scale", defaults["logit_scale"]),
            "prob_threshold": meta.get("prob_thd", defaults["prob_thd"]) or 0.0,
            "area_threshold": meta.get("area_thd", defaults["area_thd"]) or 0.0,
        }
        for whole in (False, True):
            segmenter = Segmenter(
                bundle,
                vocabulary=out.folder / f"{name}.safetensors",
                threads=THREADS,
                short_side=meta["short_side"],
                whole_image=whole,
                **options,
            )
            encoded = segmenter.encode(image)
            result = segmenter.decode(encoded, confidence=True)
            case = {
                "name": name + (" whole" if whole else ""),
                "whole": whole,
                "image": out.array(image),
                "vocabulary": f"{name}.safetensors",
                "short_side": meta["short_side"],
                "options": options,
                "features": out.array(encoded.features),
                "labels": out.array(result.labels),
                "confidence": out.array(result.confidence),
                "logits": out.array(encoded.features @ segmenter.vocabulary.embeddings.T),
            }
            if not whole:
                tied = np.unpackbits(arrays["tied"], count=height * width).reshape(height, width)
                case |= {"official": out.array(arrays["labels"]), "tied": out.array(tied)}
            cases.append(case)
    return cases


def message_of(action: Callable[[], object]) -> str:
    """How an action is refused; empty if it is not."""
    try:
        action()
    except ScclipError as error:
        return str(error)
    return ""


def _set(*place: str | int, value: object) -> Callable[[Path], None]:
    def edit(document: Any) -> None:
        for key in place[:-1]:
            document = document[key]
        document[place[-1]] = value

    return lambda path: edit_manifest(path, edit)


def _remove(*place: str | int) -> Callable[[Path], None]:
    def edit(document: Any) -> None:
        for key in place[:-1]:
            document = document[key]
        del document[place[-1]]

    return lambda path: edit_manifest(path, edit)


def _manifest(content: str | bytes) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content
    return lambda path: (path / "bundle.json").write_bytes(data)


def _flip(name: str) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        content = bytearray((path / name).read_bytes())
        content[len(content) // 2] ^= 1
        (path / name).write_bytes(content)

    return flip


def _external(location: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        place = location.replace("OUTSIDE", str(path.parent / "stolen.data"))
        shutil.copy(path / DATA, path.parent / "stolen.data")
        (path / ENCODER).write_bytes(encoder_model(6, 6, external=place).SerializeToString())
        relist(path)
        (path / "linked.data").symlink_to(path.parent / "stolen.data")

    return change


def _outside_link(path: Path) -> None:
    shutil.move(path / ENCODER, path.parent / f"{path.name}.moved")
    (path / ENCODER).symlink_to(path.parent / f"{path.name}.moved")


def _relisted(name: str, content: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / name).write_bytes(content)
        relist(path)

    return change


BROKEN: dict[str, Callable[[Path], object]] = {
    "sound": lambda _: None,
    "no-manifest": lambda path: (path / "bundle.json").unlink(),
    "empty": _manifest(""),
    "cut": _manifest('{"format_version": 1'),
    "deep": _manifest("[" * 100_000),
    "deep-sound": _manifest("[" * 100_000 + "]" * 100_000),
    "list": _manifest("[]"),
    "nothing": _manifest("{}"),
    "bytes": _manifest(b"\xff\xfe\x00"),
    "huge": _manifest(b" " * ((16 << 20) + 1)),
    "version-2": _manifest('{"format_version": 2}'),
    "version-true": _manifest('{"format_version": true}'),
    "version-text": _manifest('{"format_version": "1"}'),
    "window-0": _set("preprocessing", "window", value=0),
    "window-half": _set("preprocessing", "window", value=96.5),
    "window-other": _set("preprocessing", "window", value=112),
    "color": _set("preprocessing", "color", value="BGR"),
    "mean": _set("preprocessing", "mean", value=[1, 2]),
    "mean-text": _set("preprocessing", "mean", value=[1, 2, "x"]),
    "fp64": _set("encoders", 0, "precision", value="fp64"),
    "no-encoders": _set("encoders", value=[]),
    "encoders-object": _set("encoders", value={"a": 1}),
    "sha": _set("model", "checkpoint_sha256", value="abc"),
    "probability": _set("decoding", "prob_threshold", value=2),
    "scale": _set("decoding", "logit_scale", value=0),
    "area-text": _set("decoding", "area_threshold", value="big"),
    "grid-kind": _set("encoders", 0, "grid", value={"kind": "round"}),
    "grid-rows": _set("encoders", 0, "grid", value={"kind": "window", "rows": 0, "columns": 6}),
    "grid-extra": _set("encoders", 0, "grid", value={"kind": "dynamic", "rows": 6}),
    "calibration": _set("calibration", value={"method": "scclip"}),
    "calibration-kind": _set("calibration", value={"method": "magic"}),
    "file-hash": _set("files", ENCODER, "sha256", value="xyz"),
    "file-bytes": _set("files", ENCODER, "bytes", value=-1),
    "name-empty": _set("name", value=""),
    "name-number": _set("name", value=3),
    "name-quotes": _set("preprocessing", "color", value='it\'s "so"\n'),
    "long": _set("preprocessing", "color", value="ä" * 500),
    "axis": _set("encoders", 0, "axes", "batch", value={"min": 0, "max": None}),
    "axis-extra": _set("encoders", 0, "axes", "batch", value={"min": 1, "max": None, "step": 2, "unit": 1}),
    "no-model": _remove("model"),
    "no-files": _remove("files"),
    "two-missing": lambda path: (_remove("tokenizer")(path), _remove("name")(path)),
    "opset": _set("encoders", 0, "opset", value=17),
    "tensor-name": _set("encoders", 0, "inputs", 0, "name", value="pixels"),
    "tensor-dtype": _set("encoders", 0, "inputs", 0, "dtype", value="float32"),
    "tensor-shape": _set("encoders", 0, "inputs", 0, "shape", value=["batch", 224, 224, 3]),
    "features-shape": _set("encoders", 0, "outputs", 0, "shape", value=["batch", 36, 512]),
    "text-shape": _set("text_encoder", "outputs", 0, "shape", value=["batch", 9]),
    "missing-data": lambda path: (path / DATA).unlink(),
    "truncated": lambda path: (path / ENCODER).write_bytes((path / ENCODER).read_bytes()[:-7]),
    "unlisted": _remove("files", ENCODER),
    "link": _outside_link,
    "flipped-graph": _flip(ENCODER),
    "flipped-data": _flip(DATA),
    "weights-climb": _external("../stolen.data"),
    "weights-absolute": _external("OUTSIDE"),
    "weights-linked": _external("linked.data"),
    "weights-unlisted": _external("unlisted.data"),
    "graph-garbage": _relisted(ENCODER, b"not an onnx file at all"),
    "graph-ff": _relisted(ENCODER, b"\xff" * 40),
    "graph-empty": _relisted(ENCODER, b""),
} | {
    f"path-{number}": _set("encoders", 0, "file", value=name)
    for number, name in enumerate(
        ["../outside.onnx", "/etc/passwd", "sub/../../outside.onnx", "..\\outside", "a\0b"]
    )
}


def bundle_cases(folder: Path) -> list[dict[str, str]]:
    """Broken bundles and how Python refuses them."""
    sound = folder / "sound"
    sound.parent.mkdir(parents=True, exist_ok=True)
    build_bundle(sound)
    (folder / "file.scclip").write_text("")
    cases = []
    for name, breaking in BROKEN.items():
        path = folder / f"{name}.scclip"
        shutil.copytree(sound, path, symlinks=True)
        breaking(path)
        cases.append({"path": str(path)})
    cases += [{"path": str(folder / name)} for name in ("file.scclip", "nowhere.scclip")]
    for case in cases:

        def use(path: str = case["path"]) -> None:
            bundle = Bundle.open(path)
            bundle.checked_graph(bundle.encoders[0].file)

        case["message"] = message_of(use)
    return cases


def vocabulary_cases(folder: Path) -> list[dict[str, str]]:
    """Broken vocabulary files and how Python refuses them."""
    from safetensors.numpy import save

    folder.mkdir()
    rows = unit(np.random.default_rng(0), 3, 8)
    good = {
        "format": "scclip-vocabulary/1",
        "classes": '["a", "b"]',
        "queries": '["a", "b", "b2"]',
        "query_class": "[0, 1, 1]",
        "background": "null",
        "templates": "imagenet",
        "text_model_sha256": "ab" * 32,
    }
    changes: dict[str, dict[str, str | None]] = {
        "sound": {}, "format": {"format": "scclip-vocabulary/9" * 5}, "no-format": {"format": None},
        "no-classes": {"classes": None}, "classes-json": {"classes": "["}, "classes-kind": {"classes": "[1]"},
        "classes-object": {"classes": "{}"}, "same": {"classes": '["a", "a"]'}, "few": {"queries": '["a"]'},
        "index-high": {"query_class": "[0, 1, 2]"}, "index-low": {"query_class": "[0, 1, -1]"},
        "index-gap": {"query_class": "[1, 1, 1]"}, "index-float": {"query_class": "[0, 1, 1.0]"},
        "background": {"background": "2"}, "background-text": {"background": '"a"'},
        "no-sha": {"text_model_sha256": None}, "deep": {"classes": "[" * 5000},
    }  # fmt: skip
    for name, change in changes.items():
        metadata = {key: value for key, value in (good | change).items() if value is not None}
        (folder / name).write_bytes(save({"embeddings": rows}, metadata=metadata))
    tensors = {
        "long-rows": {"embeddings": rows * 2}, "nan": {"embeddings": np.full((3, 8), np.nan, np.float32)},
        "double": {"embeddings": rows.astype(np.float64)}, "flat": {"embeddings": rows[0]},
        "none": {"embeddings": np.zeros((0, 8), np.float32)}, "other": {"rows": rows},
        "two": {"embeddings": rows, "more": rows},
    }  # fmt: skip
    for name, content in tensors.items():
        (folder / name).write_bytes(save(content, metadata=good))
    data = (folder / "sound").read_bytes()
    for name, content in {"empty": b"", "cut": data[:100], "short": data[:-4], "long": data + b"1234",
                          "length": b"\xff" * 8 + data[8:], "text": b"hello there"}.items():  # fmt: skip
        (folder / name).write_bytes(content)
    paths = [*sorted(folder.iterdir()), folder / "nowhere", folder]
    return [
        {"path": str(path), "message": message_of(lambda path=path: load_vocabulary(path))} for path in paths
    ]


def image_cases(bundle: Path) -> list[dict[str, Any]]:
    """Shapes, with the options, that the Python runtime refuses."""
    cases = []
    for height, width, options in (
        (0, 5, {}), (1, 20_000, {}), (3000, 9, {"max_windows": 20}), (100, 100, {"max_pixels": 9999}),
        (30, 30, {"short_side": 5000}),
    ):  # fmt: skip
        segmenter = Segmenter(bundle, **options)
        image = np.zeros((height, width, 3), np.uint8)
        message = message_of(lambda s=segmenter, i=image: s.encode(i))
        cases.append({"height": height, "width": width, "options": options, "message": message})
    refused: tuple[dict[str, Any], ...] = (
        {"stride": 500}, {"backend": "magic"}, {"device": "tpu"}, {"device": "cuda"}, {"precision": "fp16"},
        {"precision": "bf16"}, {"ort_provider": "magic"}, {"ort_provider": "cuda", "device": "cpu"},
        {"whole_image": True, "precision": "int8"},
    )  # fmt: skip
    return cases + [
        {"options": options, "message": message_of(lambda o=options: Segmenter(bundle, **o))}
        for options in refused
    ]


def export(folder: Path) -> None:
    """The tiny synthetic model as FOLDER/tiny.scclip."""
    from safetensors.numpy import save_file

    from scclip_export.cli import run

    save_file(
        {name: np.array(value) for name, value in clip_state_dict("tiny").items()},
        folder / "tiny.safetensors",
    )
    bundle = folder / "tiny.scclip"
    arguments = ["--checkpoint", folder / "tiny.safetensors", "--output", bundle, "--dynamic-grid"]
    if run([str(argument) for argument in arguments]) != 0:
        raise SystemExit("the export failed")


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--export-only", action="store_true")
    arguments = parser.parse_args()
    if arguments.export_only:
        export(arguments.folder)
        return
    if arguments.bundle is None:
        parser.error("name a bundle with --bundle")
    shutil.rmtree(arguments.folder, ignore_errors=True)
    arguments.folder.mkdir(parents=True)
    folder = arguments.folder.resolve()
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    bundle = arguments.bundle.resolve()
    out = Fixtures(folder)
    document = {
        "bundle": str(bundle),
        "threads": THREADS,
        "resize": resize_cases(),
        "decode": decode_cases(out),
        "golden": golden_cases(out, bundle),
        "bundles": bundle_cases(folder / "bundles"),
        "vocabularies": vocabulary_cases(folder / "vocabularies"),
        "images": image_cases(bundle),
    }
    (folder / "fixtures.json").write_text(json.dumps(document))


if __name__ == "__main__":
    main()

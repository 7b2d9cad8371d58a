"""What the Python runtime refuses, and in which words: bundles, vocabularies, images and options."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fixture_arrays import unit

from scclip_rt import Segmenter
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.errors import ScclipError
from scclip_rt.vocabulary.classes import find_background
from scclip_rt.vocabulary.file import load_vocabulary
from tiny_bundle import build_bundle, edit_manifest, encoder_model, relist

ENCODER, DATA = "encoder.fp32.onnx", "encoder.fp32.onnx.data"


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


def close_cases() -> list[list[Any]]:
    """A background's name, the classes, and what Python says: the index, None, or the refusal."""
    animals = ["Cat", "big  dog", "cats", "cart", "carter", "ärger", "larger", "x" * 300]
    names = [
        "cat",
        "CAT ",
        "Big Dog",
        "none",
        "None",
        "catt",
        "cta",
        "crat",
        "ärge",
        "lager",
        "zebra",
        "",
        "xx",
    ]
    names += ["x" * 300, "y" * 300]
    cases: list[list[Any]] = []
    for name in names:
        try:
            cases.append([name, animals, find_background(animals, name)])
        except ScclipError as error:
            cases.append([name, animals, str(error)])
    return cases


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
        {"backend": "openvino", "precision": "fp16"}, {"backend": "openvino", "device": "cuda:0"},
        {"backend": "openvino", "precision": "int8"}, {"backend": "openvino", "precision": "bf16"},
    )  # fmt: skip
    return cases + [
        {"options": options, "message": message_of(lambda o=options: Segmenter(bundle, **o))}
        for options in refused
    ]

"""Write web/tests/fixtures: what the Python runtime computes, for the tests of the TypeScript one to compare with.

Run it in the repository's root after a change of the demo bundle or of a rule: `python web/tests/make_fixtures.py`.
Images and features are not stored: both sides make them from the same generator of numbers.
"""

import base64
import dataclasses
import hashlib
import json
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scclip_rt import Segmenter
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.decode.decode import decode
from scclip_rt.decode.interpolation import interpolation_axis
from scclip_rt.decode.plan import decode_plan
from scclip_rt.decode.settings import DecodeSettings
from scclip_rt.errors import ScclipError
from scclip_rt.image.geometry import Tiling, resize, resize_shape, whole_image_shape
from scclip_rt.overlay import class_colours
from scclip_rt.vocabulary.classes import find_background, parse_classes
from scclip_rt.vocabulary.templates import TEMPLATE_SETS
from scclip_rt.vocabulary.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
SCENE = ROOT / "scclip_rt" / "demo" / "scene.png"


def numbers(seed: int, count: int) -> NDArray[np.uint32]:
    """The generator both sides have: mixed bits of a counter, 32 each."""
    value = np.arange(count, dtype=np.uint64) + np.uint64(seed * 0x9E3779B1 % 2**32)
    mask = np.uint64(0xFFFFFFFF)
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        value &= mask
        value ^= value >> np.uint64(shift)
        value = (value * np.uint64(factor)) & mask
    return (value ^ (value >> np.uint64(15))).astype(np.uint32)


def noise(seed: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Bytes."""
    return (numbers(seed, int(np.prod(shape))) >> 24).astype(np.uint8).reshape(shape)


def vectors(seed: int, rows: int, width: int) -> NDArray[np.float32]:
    """Unit rows; sums in float64, as JavaScript has them."""
    values = numbers(seed, rows * width).reshape(rows, width) / 2**32 - 0.5
    return (values / np.sqrt((values * values).sum(axis=1, keepdims=True))).astype(np.float32)


def packed(array: NDArray[Any]) -> str:
    """Base64 of an array's little-endian bytes."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def resize_cases() -> list[dict[str, Any]]:
    """Shrinking, enlarging, halving, one axis, a line, a single pixel."""
    sizes = [
        ((40, 60), (28, 42)), ((20, 31), (40, 62)), ((64, 48), (32, 24)), ((33, 50), (33, 20)), ((1, 9), (7, 40)),
        ((97, 3), (50, 50)), ((1, 1), (5, 6)), ((120, 160), (113, 151)), ((50, 75), (50, 75)),
    ]  # fmt: skip
    return [
        {
            "source": source,
            "target": target,
            "sha256": hashlib.sha256(resize(noise(seed, (*source, 3)), target).tobytes()).hexdigest(),
        }
        for seed, (source, target) in enumerate(sizes)
    ]


def shape_cases() -> list[dict[str, Any]]:
    """Sizes of images, and what they are resized to."""
    sizes = [
        (336, 448),
        (448, 336),
        (1, 1),
        (3000, 4000),
        (375, 500),
        (100, 5000),
        (5000, 90),
        (224, 224),
        (333, 501),
    ]
    return [
        {
            "size": size,
            "windows": resize_shape(*size, short_side=336, min_side=224),
            "whole": whole_image_shape(*size, patch=16, short_side=336),
        }
        for size in sizes
    ]


def axis_cases() -> list[dict[str, Any]]:
    """Matrices of one axis, cells by place."""
    cases = [
        {"starts": (0, 112, 224), "window": 224, "cells": 14, "resized": 448, "length": 300},
        {"starts": (0, 10, 13), "window": 20, "cells": 5, "resized": 33, "length": 70},
        {"starts": (0,), "window": 96, "cells": 6, "resized": 96, "length": 11},
    ]
    out = []
    for case in cases:
        axis = interpolation_axis(**case, tile=64)  # type: ignore[arg-type]
        dense = axis.matrix()[:, axis.order]
        out.append({**case, "order": axis.order.tolist(), "matrix": packed(dense)})
    return out


def decode_cases() -> list[dict[str, Any]]:
    """Labels of made-up features under each rule."""
    tiling = Tiling.windows(40, 56, window=32, stride=16)
    grid, shape, width = (4, 4), (47, 83), 24
    features = vectors(1, len(tiling) * 16, width).reshape(len(tiling), 16, width)
    plain = {"logit_scale": 12.0}
    cases: list[dict[str, Any]] = [
        {"queries": 6, "classes": [0, 0, 1, 2, 2, 3], **plain},
        {"queries": 60, "classes": list(range(60)), **plain},
        {"queries": 6, "classes": [0, 0, 1, 2, 2, 3], "background": 1, "prob_threshold": 0.4, **plain},
        {"queries": 5, "classes": [0, 1, 2, 3, 4], "prob_threshold": 0.5, **plain},
        {"queries": 7, "classes": [0, 1, 2, 3, 4, 5, 6], "background": 0, "area_threshold": 0.12, **plain},
        {
            "queries": 7,
            "classes": [0, 1, 2, 3, 4, 5, 6],
            "class_threshold": 0.55,
            "prob_threshold": 0.2,
            **plain,
        },
        {"queries": 3, "classes": [0, 1, 2], "area_threshold": 1.0, "prob_threshold": 0.1, **plain},
        {"queries": 700, "classes": list(range(700)), "logit_scale": 40.0, "prob_threshold": 0.02},
        {"queries": 2, "classes": [0, 1], "same_text": True, **plain},
    ]
    out = []
    for number, case in enumerate(cases):
        text = vectors(100 + number, case["queries"], width)
        if case.get("same_text"):
            text[1] = text[0]
        options = {k: v for k, v in case.items() if k not in ("queries", "classes", "same_text")}
        settings = DecodeSettings(
            query_class=np.array(case["classes"]),
            num_classes=max(case["classes"]) + 1,
            with_confidence=True,
            **options,
        )
        plan = decode_plan(tiling, grid, shape)
        found = decode(features, text, plan, settings)
        unsure = decode(features, text, plan, dataclasses.replace(settings, with_confidence=False))
        if not np.array_equal(found.labels, unsure.labels):
            raise SystemExit(f"labels of case {number} depend on whether confidence is asked for")
        confidence = found.confidence[::7, ::7] if found.confidence is not None else np.zeros(0, np.float32)
        out.append(
            {
                **case,
                "seed": 100 + number,
                "labels": packed(found.labels),
                "bits": found.labels.itemsize * 8,
                "unlabelled": found.unlabelled,
                "confidence": packed(confidence),
            }
        )
    return out


TEXTS = (
    "dog", "a photo of a Dog.", "it's  THE\tdog's 2nd home", "naïve café", "cafe\u0301", "日本語 テスト",
    "ｆｕｌｌ ｗｉｄｔｈ", "“quoted” ‘text’", "&eacute;tude &notit; &#128512; &copy b&c",
    "ﬁsh &amp; chips", "&lt;tag&gt;", "emoji 🙂🙃 ok", "ΑΣ ΣΑΣ", "İstanbul", "x" * 60,
    "a-b_c/d:e", "tree’s", "we'll they've I'm she'd", "１２３ 456", "\ufeffbom",
    "tab\x1b[31mred", "Ω≈ç√∫", "ſ'ſ",
)  # fmt: skip


def class_cases() -> list[dict[str, Any]]:
    """Class lists: names, background, or that they are refused."""
    sources: list[Any] = [
        "cat; dog, puppy", "sky\ngrass, lawn\n\n background ", ["cat", "dog, puppy,", ["a, b", "c"]],
        "Cat, cat, CAT; dog", "cat; CAT", "", "  ;  ", "cat, , dog", ["cat", ""], "a" * 1001, "R&amp;D; sky",
        "R&D; AT&T; &eacute;t&eacute", "caf\u00e9; cafe\u0301", "dog,;cat",
    ]  # fmt: skip
    out = []
    for source in sources:
        try:
            classes = parse_classes(source)
            background = find_background([names[0] for names in classes])
            out.append({"source": source, "classes": classes, "background": background})
        except ScclipError:
            out.append({"source": source, "refused": True})
    return out


def embedding_cases(segment: Segmenter) -> list[dict[str, Any]]:
    """Rows of names by the demo's text encoder."""
    names = ["zebra", "wet grass, lawn", "night sky"]
    out = []
    for templates in ("imagenet", "none"):
        with_templates = Segmenter(
            "demo", classes="; ".join(names), templates=templates, encoder=segment.backend
        )
        vocabulary = with_templates.vocabulary
        out.append(
            {"classes": "; ".join(names), "templates": templates, "rows": packed(vocabulary.embeddings)}
        )
    return out


def scene_cases() -> list[dict[str, Any]]:
    """Labels of the packaged scene, of parts of it, whole, and with other classes."""
    scene = np.array(Image.open(SCENE).convert("RGB"))
    parts = [(0, 0, 336, 448), (40, 30, 250, 100), (100, 200, 120, 240), (10, 10, 90, 70)]
    own = "grass, lawn; brick wall; the night sky, stars; wood; background"
    cases: list[dict[str, Any]] = [{"part": part} for part in parts]
    cases += [{"part": parts[0], "whole_image": True}, {"part": parts[1], "whole_image": True}]
    cases += [{"part": parts[0], "classes": own}, {"part": parts[0], "precision": "int8"}]
    cases += [
        {"part": parts[0], "short_side": 300, "stride": 80, "prob_threshold": 0.3, "area_threshold": 0.05}
    ]
    out = []
    for case in cases:
        options = {key: value for key, value in case.items() if key != "part"}
        options.setdefault("precision", "fp32")
        top, left, height, width = case["part"]
        result = Segmenter("demo", backend="onnxruntime", **options)(
            scene[top : top + height, left : left + width]
        )
        out.append({**case, "labels": packed(result.labels), "size": [height, width]})
    return out


def main() -> None:
    """Write everything."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        segment = Segmenter("demo", backend="onnxruntime", precision="fp32")
        bundle = Bundle.open("demo")
        tokenizer = Tokenizer.from_file(bundle.checked_path(bundle.manifest.tokenizer))
        document = {
            "resize": resize_cases(),
            "shapes": shape_cases(),
            "axes": axis_cases(),
            "decode": decode_cases(),
            "tokens": [{"text": text, "ids": tokenizer.encode([text])[0]} for text in TEXTS],
            "classes": class_cases(),
            "templates": {name: "\n".join(patterns) for name, patterns in TEMPLATE_SETS.items()},
            "embeddings": embedding_cases(segment),
            "colours": class_colours([*range(300), 65535], background=3, unlabelled=65535).tolist(),
            "scenes": scene_cases(),
        }
    folder = Path(__file__).parent / "fixtures"
    folder.mkdir(exist_ok=True)
    (folder / "python.json.z").write_bytes(zlib.compress(json.dumps(document).encode(), 9))


if __name__ == "__main__":
    main()

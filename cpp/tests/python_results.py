"""What the Python runtime computes: resizing, decoding and the golden cases."""

import hashlib
import importlib.util
import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
from fixture_arrays import Fixtures, unit

from scclip_rt import Segmenter
from scclip_rt.backends.processor import BF16_FLAGS, processor_flags
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.decode.decode import decode
from scclip_rt.decode.pamr import pixel_weights
from scclip_rt.decode.plan import decode_plan
from scclip_rt.decode.settings import DecodeSettings
from scclip_rt.image.geometry import Tiling, resize
from scclip_rt.vocabulary.classes import find_background, parse_classes
from scclip_rt.vocabulary.file import Vocabulary, save_vocabulary
from scclip_rt.vocabulary.tokenizer import Tokenizer
from synthetic import scene
from tiny_bundle import add_int8_encoder, build_bundle

DATA = Path(__file__).resolve().parents[2] / "tests" / "data"
SEEDS = {"tiny_six": 1, "tiny_voc21": 1, "tiny_voc21_pamr": 1, "tiny_portrait_560": 2}
THREADS = 2


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


def token_cases(bundle_path: Path, number: int = 3000) -> list[list[Any]]:
    """Names and their token ids: words, punctuation, scripts, marks, wide forms, emoji, entities."""
    import ftfy

    bundle = Bundle.open(bundle_path)
    tokenizer = Tokenizer.from_file(bundle.checked_path(bundle.manifest.tokenizer))
    rng = random.Random(9)
    words = [
        "cat",
        "Dog",
        "traffic light",
        "it's",
        "we'll",
        "O'Neill",
        "R&B",
        "&amp;",
        "&lt;b&gt;",
        "&#233;",
        "x²",
        "½",
    ]
    words += [
        "naïve",
        "NAÏVE",
        "Straße",
        "ΟΔΥΣΣΕΥΣ",
        "Σ",
        "ﬁsh",
        "ＡＢＣ",
        "ｱｲｳ",
        "\u201cq\u201d",
        "İstanbul",
        "東京",
        "собака",
    ]
    words += [
        "e\u0301",
        "हिन्दी",
        "한국어",
        "عربي",
        "👩‍👩‍👧",
        "🇩🇪",
        "a\u00a0b",
        "c\td",
        "e\u2028f",
        "\ufeffg",
        "\x1b[31mh",
        "ǆ",
        "ŉ",
        "'ſ",
    ]
    ranges = ((0x20, 0x7F), (0xA0, 0x250), (0x370, 0x530), (0x590, 0x700), (0x900, 0xA00), (0x1E00, 0x2000))
    ranges += (
        (0x2000, 0x2070),
        (0x2100, 0x2400),
        (0x3000, 0x3100),
        (0x4E00, 0x4F00),
        (0xFB00, 0xFB07),
        (0xFF00, 0xFFF0),
    )
    names = list(words)
    while len(names) < number:
        parts = []
        for _ in range(rng.randint(1, 4)):
            if rng.random() < 0.5:
                parts.append(rng.choice(words))
            else:
                low, high = rng.choice(ranges)
                parts.append("".join(chr(rng.randrange(low, high)) for _ in range(rng.randint(1, 6))))
        names.append(rng.choice((" ", "", "  ", "-")).join(parts))
    # Letters that one library's Unicode tables lack, and text that ftfy would decode again on a guess, are left out.
    unguessed = [name for name in names if ftfy.fix_text(name) == ftfy.fix_text(name, fix_encoding=False)]
    known = [name for name in unguessed if all(unicodedata.category(c) != "Cn" for c in name)]
    return [[name, tokenizer.encode([name])[0]] for name in known]


def embedded_case(out: Fixtures, bundle_path: Path) -> dict[str, str]:
    """A class list and the vocabularies that Python embeds, in float32 and in int8."""
    classes = "sky; Grass, lawn; traffic light; background, nothing; it's a dog"
    files = {"fp32": "embedded.safetensors", "int8": "embedded.int8.safetensors"}
    for precision, file in files.items():
        options = {"cache": False, "threads": THREADS, "text_precision": precision}
        vocabulary = Segmenter(bundle_path, classes=classes, **options).vocabulary
        save_vocabulary(vocabulary, out.folder / file, force=True)
    return {"classes": classes, "vocabulary": files["fp32"], "int8_vocabulary": files["int8"]}


def nv12_case(out: Fixtures) -> dict[str, Any]:
    """A frame of a camera and what OpenCV makes of it; every value of Y, U and V is in it."""
    import cv2

    rng = np.random.default_rng(5)
    height, width = 64, 96
    frame = rng.integers(0, 256, (height * 3 // 2, width), dtype=np.uint8)
    rgb = cv2.cvtColor(frame, cv2.COLOR_YUV2RGB_NV12)
    return {"height": height, "width": width, "frame": out.array(frame), "rgb": out.array(rgb)}


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
        {"class_threshold": 0.2, "with_confidence": True},
        {"class_threshold": 0.4, "area_threshold": 0.02, "background": 1},
        {"area_threshold": 1.0, "with_confidence": True},
        {"class_threshold": 1.0, "with_confidence": True, "background": 0},
        {"maps": "minmax", "logit_scale": 2.0, "with_confidence": True},
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
        for option in options[: None if number < 2 else 9]:
            if option.get("background", 0) >= classes:
                continue
            stretched = option.get("maps") == "minmax"
            if stretched and number:  # maps tie where they are at their highest: too much of a small image
                continue
            used = unit(np.random.default_rng(7), *features.shape) if stretched else features
            result = decode(
                used,
                text,
                decode_plan(tiling, (grid, grid), shape),
                DecodeSettings(query_class=query_class, num_classes=classes, **option),
                threads=1,
            )
            case = common | {
                "features": out.array(used) if stretched else common["features"],
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


def refine_cases(out: Fixtures) -> list[dict[str, Any]]:
    """PAMR: the weights of an image, and the labels and confidence of maps refined by them."""
    rng = np.random.default_rng(2)
    mean, std = (122.771, 116.746, 104.094), (68.501, 66.632, 70.323)
    shapes = [
        # resized, output, queries, classes, options
        ((224, 336), (75, 100), 9, 5, {"with_confidence": True}),
        ((300, 224), (61, 33), 5, 5, {"area_threshold": 0.2, "with_confidence": True}),
        ((224, 224), (9, 140), 3, 2, {"prob_threshold": 0.4, "background": 0}),
        ((224, 230), (1, 1), 2, 2, {}),
        ((224, 230), (1, 77), 4, 4, {"with_confidence": True}),
        ((224, 230), (50, 1), 4, 4, {"with_confidence": True}),
    ]
    cases = []
    for resized, shape, queries, classes, options in shapes:
        tiling = Tiling.windows(*resized, window=224, stride=112)
        features, text = unit(rng, len(tiling), 196, 24), unit(rng, queries, 24)
        features[:, :98] = features[:, :1]
        image = scene(*resized, len(cases))
        image[: resized[0] // 4] = image[0, 0]  # flat: no deviation at all
        affinity = pixel_weights(image, shape, mean=mean, std=std, threads=1)
        query_class = np.concatenate([np.arange(classes), rng.integers(0, classes, queries - classes)])
        result = decode(
            features,
            text,
            decode_plan(tiling, (14, 14), shape),
            DecodeSettings(query_class=query_class, num_classes=classes, **options),
            refine=affinity,
            threads=1,
        )
        case = {
            "features": out.array(features),
            "text": out.array(text),
            "query_class": query_class.tolist(),
            "resized": resized,
            "shape": shape,
            "window": 224,
            "stride": 112,
            "grid": 14,
            "classes": classes,
            "options": options,
            "labels": out.array(result.labels),
            "image": out.array(image),
            "mean": mean,
            "std": std,
            "weights": out.array(affinity.weights),
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
        with np.load(DATA / f"{name}.npz") as file:
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
        refine = "pamr" if "pamr_steps" in meta else None
        for whole in (False,) if refine else (False, True):
            settings = options | {
                "vocabulary": out.folder / f"{name}.safetensors",
                "threads": THREADS,
                "short_side": meta["short_side"],
                "whole_image": whole,
                "refine": refine,
            }
            segmenter = Segmenter(bundle, **settings)
            encoded = segmenter.encode(image)
            result = segmenter.decode(encoded, confidence=True)
            case = {
                "name": name + (" whole" if whole else ""),
                "whole": whole,
                "refine": refine is not None,
                "image": out.array(image),
                "vocabulary": f"{name}.safetensors",
                "short_side": meta["short_side"],
                "options": options,
                "features": out.array(encoded.features),
                "labels": out.array(result.labels),
                "confidence": out.array(result.confidence),
                "logits": out.array(encoded.features @ segmenter.vocabulary.embeddings.T),
                "openvino": [
                    {"precision": precision}
                    | _run(out, bundle, image, backend="openvino", precision=precision, **settings)
                    for precision in _openvino_precisions()
                ],
            }
            if not whole:
                tied = np.unpackbits(arrays["tied"], count=height * width).reshape(height, width)
                case |= {"official": out.array(arrays["labels"]), "tied": out.array(tied)}
            cases.append(case)
    return cases


METHODS = (
    "scclip", "sfp", "naclip", "clearclip", "sclip", "segearth", "resclip", "maskclip", "none", "gem", "surgery",
)  # fmt: skip
PRESETS = {
    "naclip": ["voc21"],
    "clearclip": ["context60"],
    "sclip": ["voc21"],
    "segearth": ["potsdam"],
    "sfp": ["voc21"],
}


def method_cases(out: Fixtures, folder: Path) -> list[dict[str, Any]]:
    """Labels by each method's bundle: windows, whole images, a benchmark's settings, OpenVINO.

    The second image is so narrow that methods which pad cut it into windows smaller than the others.
    """
    images = [scene(375, 500, 1), scene(60, 500, 2)]
    cases = []
    for method in METHODS:
        bundle = folder / f"{'tiny' if method == 'scclip' else method}.scclip"
        vocabulary = out.folder / f"{method}.safetensors"
        save_vocabulary(method_vocabulary(Bundle.open(bundle)), vocabulary)
        ways: list[dict[str, Any]] = [{}, {"whole_image": True}]
        ways += [{"preset": preset} for preset in PRESETS.get(method, [])]
        ways += [{"backend": "openvino", "precision": name} for name in _openvino_precisions()[:1]]
        for way in ways:
            segmenter = Segmenter(bundle, vocabulary=vocabulary, threads=THREADS, **way)
            encoded = segmenter.encode(images[0])
            case = {
                "method": method,
                "bundle": str(bundle),
                "vocabulary": vocabulary.name,
                "options": way,
                "images": [out.array(image) for image in images],
                "features": out.array(encoded.features),
                "labels": [out.array(segmenter(image).labels) for image in images],
                "confidence": out.array(segmenter.decode(encoded, confidence=True).confidence),
            }
            if encoded.class_features is not None:
                case["class_features"] = out.array(encoded.class_features)
            cases.append(case)
    return cases


def alone_case(out: Fixtures, folder: Path) -> dict[str, Any]:
    """One class by Surgery, which Python compares with the empty text: as a name, and as a vocabulary file."""
    bundle = folder / "surgery.scclip"
    segmenter = Segmenter(bundle, classes="sky", cache=False, threads=THREADS)
    save_vocabulary(segmenter.vocabulary, out.folder / "alone.safetensors")
    image = scene(375, 500, 1)
    labels = out.array(segmenter(image).labels)
    return {
        "bundle": str(bundle),
        "classes": "sky",
        "vocabulary": "alone.safetensors",
        "images": [out.array(image)],
        "labels": labels,
    }


def method_vocabulary(bundle: Bundle) -> Vocabulary:
    """Nine random queries of six classes, none of them the background."""
    classes = tuple("abcdef")
    return Vocabulary(
        embeddings=unit(np.random.default_rng(4), 9, bundle.model.embed_dim),
        classes=classes,
        queries=(*classes, "g", "h", "i"),
        query_class=np.array([0, 1, 2, 3, 4, 5, 1, 1, 4]),
        background=None,
        templates="none",
        text_model_sha256=bundle.text_encoder.model_sha256,
    )


def _openvino_precisions() -> list[str]:
    if importlib.util.find_spec("openvino") is None:
        return []
    return ["fp32", "bf16"] if processor_flags() & BF16_FLAGS else ["fp32"]


def _run(out: Fixtures, bundle: Bundle | Path, image: np.ndarray, **settings: Any) -> dict[str, Any]:
    segmenter = Segmenter(bundle, **settings)
    encoded = segmenter.encode(image)
    return {
        "features": out.array(encoded.features),
        "labels": out.array(segmenter.decode(encoded).labels),
    }


def int8_cases(out: Fixtures) -> list[dict[str, Any]]:
    """Static QDQ: a small encoder on both CPU libraries; the demo's whole image on OpenVINO, bf16 beside or not."""
    bundle = build_bundle(out.folder / "int8.scclip")
    add_int8_encoder(bundle)
    rows = unit(np.random.default_rng(3), 5, 8)
    names = tuple("abcde")
    save_vocabulary(
        Vocabulary(
            embeddings=rows,
            classes=names,
            queries=names,
            query_class=np.arange(5),
            background=None,
            templates="none",
            text_model_sha256=Bundle.open(bundle).text_encoder.model_sha256,
        ),
        out.folder / "int8.safetensors",
    )
    demo = Bundle.open("demo")
    save_vocabulary(method_vocabulary(demo), out.folder / "int8_demo.safetensors")
    image = scene(180, 260, 4)
    cases = []
    for path, vocabulary, backend, whole in (
        (bundle, "int8.safetensors", "onnxruntime", False),
        (bundle, "int8.safetensors", "openvino", False),
        (demo.path, "int8_demo.safetensors", "openvino", True),
    ):
        if backend == "openvino" and not _openvino_precisions():
            continue
        settings = {"backend": backend, "whole_image": whole, "precision": "int8", "threads": THREADS}
        run = _run(out, path, image, vocabulary=out.folder / vocabulary, **settings)
        of = {"image": out.array(image), "bundle": str(path), "vocabulary": vocabulary}
        cases.append(of | {"backend": backend, "whole_image": whole} | run)
    return cases

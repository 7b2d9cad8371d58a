"""The golden cases, end to end: a checkpoint file through `scclip-export`, an image through `scclip segment`.

The arrays in tests/data are what the official SC-CLIP implementation computes (float32, CPU) on the weights and
images of tests/synthetic.py. `tied` marks pixels where the best two classes are within 1e-3 of each other.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from PIL import Image

from scclip_rt.cli import run
from scclip_rt.vocabulary.file import load_vocabulary
from synthetic import scene

DATA = Path(__file__).parent / "data"
SEEDS = {"tiny_six": 1, "tiny_voc21": 1, "tiny_voc21_pamr": 1, "tiny_portrait_560": 2}


@dataclass(frozen=True)
class Golden:
    arrays: dict[str, NDArray[Any]]
    image: NDArray[np.uint8]
    tied: NDArray[np.bool_]
    options: list[str]


def golden(name: str) -> Golden:
    with np.load(DATA / f"{name}.npz") as file:
        arrays = dict(file)
    meta = json.loads(str(arrays["meta"]))
    shape = arrays["labels"].shape
    tied = np.unpackbits(arrays["tied"], count=shape[0] * shape[1]).reshape(shape).astype(bool)
    options = ["--short-side", str(meta["short_side"])]
    for flag, key in (
        ("--logit-scale", "logit_scale"),
        ("--prob-threshold", "prob_thd"),
        ("--area-threshold", "area_thd"),
    ):
        value = meta.get(key, meta["official_defaults"][key])
        if value is not None:
            options += [flag, str(value)]
    if "pamr_steps" in meta:
        options += ["--refine", "pamr"]
    return Golden(arrays, scene(*shape, SEEDS[name]), tied, options)


@pytest.mark.parametrize("name", SEEDS)
def test_labels_are_those_of_the_official_implementation(
    name: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    case = golden(name)
    Image.fromarray(case.image).save(tmp_path / "image.png")
    (tmp_path / "classes.txt").write_text("\n".join(case.arrays["classes"]) + "\n")
    arguments = ["segment", tiny_bundle, tmp_path / "image.png", "--classes", tmp_path / "classes.txt"]
    arguments += ["--output", tmp_path / "out", "--confidence", *case.options]
    assert run([str(argument) for argument in arguments]) == 0

    labels = np.asarray(Image.open(tmp_path / "out" / "image.labels.png"))
    wrong = labels != case.arrays["labels"]
    agreement = 1 - wrong.mean()
    if name == "tiny_voc21_pamr":
        assert agreement >= 0.999
    else:
        assert not wrong[~case.tied].any()
        assert agreement >= 0.9999
    confidence = np.asarray(Image.open(tmp_path / "out" / "image.confidence.png")) / 255
    expected = case.arrays["confidence"].astype(np.float64)
    np.testing.assert_allclose(confidence[::8, ::8], expected, atol=4e-3)  # half a grey level, and float16


@pytest.mark.parametrize("name", ["tiny_six", "tiny_voc21"])
def test_vocabulary_is_that_of_the_official_templates(name: str, tiny_bundle: Path, tmp_path: Path) -> None:
    case = golden(name)
    (tmp_path / "classes.txt").write_text("\n".join(case.arrays["classes"]) + "\n")
    output = tmp_path / "vocabulary.safetensors"
    arguments = ["embed", tiny_bundle, "--classes", tmp_path / "classes.txt", "--output", output]
    assert run([str(argument) for argument in arguments]) == 0
    vocabulary = load_vocabulary(output)
    np.testing.assert_allclose(vocabulary.embeddings, case.arrays["text"], atol=2e-6)
    assert list(vocabulary.query_class) == case.arrays["query_idx"].tolist()


def test_first_window_matches_stage_by_stage(tiny_bundle: Path) -> None:
    case = golden("tiny_six")
    height, width = (int(side) for side in case.arrays["resized"])
    resized = cv2.resize(case.image, (width, height), interpolation=cv2.INTER_LINEAR)
    session = ort.InferenceSession(str(tiny_bundle / "encoder.fp32.onnx"), providers=["CPUExecutionProvider"])
    feed = {"windows": resized[None, :224, :224], "text": case.arrays["text"]}
    features, logits, outliers = session.run(["features", "logits", "outliers"], feed)
    np.testing.assert_allclose(features[0], case.arrays["crop_features"], atol=1e-5)
    np.testing.assert_allclose(logits[0], case.arrays["crop_features"] @ case.arrays["text"].T, atol=1e-5)
    assert outliers[0].tolist() == case.arrays["outliers"].tolist()

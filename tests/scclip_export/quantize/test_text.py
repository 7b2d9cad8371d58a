"""`scclip-export --int8-text`: both graphs by one plan, near float32, chosen by name, and not mixed with float32."""

import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import onnxruntime as ort
import pytest

from oracles.text import embed_names
from scclip_export import parity
from scclip_export.checkpoint.architecture import build_clip, infer_architecture
from scclip_export.onnx.trace import operators
from scclip_export.quantize import text_prompts
from scclip_rt import Bundle, Segmenter
from scclip_rt.backends import open_text_backend
from scclip_rt.cli import run as scclip
from scclip_rt.errors import BackendError
from scclip_rt.vocabulary.embedding import embedding_cache_directory
from scclip_rt.vocabulary.open import TextTower
from scclip_rt.vocabulary.templates import IMAGENET_TEMPLATES, load_templates
from scclip_rt.vocabulary.tokenizer import Tokenizer, pad

Export = Callable[..., int]
NAMES = (("zebra",), ("traffic light",), ("a cup of tea",))
FILES = ("text_encoder.int8.onnx", "text_encoder.int8.resumed.onnx")


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, export_once: Callable[..., Path]) -> Path:
    return export_once("tiny-int8-text", tiny_checkpoint, "--int8-text")


def embed(bundle: Path, precision: str, **options: Path) -> np.ndarray:
    tower = TextTower(Bundle.open(bundle), precision=precision)
    return tower.embed(NAMES, load_templates("imagenet"), background="none", **options).embeddings


def test_the_record_says_how_it_was_calibrated_and_how_close_it_is(bundle: Path) -> None:
    from importlib import resources

    document = json.loads((bundle / "bundle.json").read_text())
    schema = json.loads((resources.files("scclip_rt") / "bundle/schema/bundle.schema.json").read_text())
    jsonschema.validate(document, schema)
    text = document["text_encoder"]
    made = text["int8"]
    assert (made["file"], made["resumed"]["file"]) == FILES
    assert made["inputs"] == text["inputs"]
    assert made["outputs"] == text["outputs"]
    assert made["resumed"]["inputs"] == text["resumed"]["inputs"]
    assert made["quantization"]["int8_layers"] + len(made["quantization"]["float_layers"]) == 4 * 2
    for graph in (made, made["resumed"]):
        assert graph["parity"]["thresholds"] == {"least_cosine": parity.TEXT_COSINE}
        assert parity.TEXT_COSINE <= graph["parity"]["least_cosine"] < graph["parity"]["mean_cosine"] < 1


def test_both_graphs_have_the_same_weights_and_what_stays_float_is_float32s(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    opened.verify_all()
    data = {"text_encoder.onnx.data", "text_encoder.int8.onnx.data"}
    for file in FILES:
        assert opened.data_files(file) == data
    whole, resumed = (
        {tensor.name: tensor for tensor in onnx.load(str(bundle / file)).graph.initializer} for file in FILES
    )
    narrow = {name for name, tensor in whole.items() if tensor.data_type == onnx.TensorProto.INT8}
    assert len([name for name in narrow if name.endswith("weight_int8")]) == 6 * 2
    assert all(whole[name].raw_data == resumed[name].raw_data for name in narrow)
    size = (bundle / "text_encoder.int8.onnx.data").stat().st_size
    assert size < 0.3 * (bundle / "text_encoder.onnx.data").stat().st_size


@pytest.mark.parametrize("file", FILES)
def test_products_are_integers_once_optimised(bundle: Path, file: str, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(bundle / file), options, providers=["CPUExecutionProvider"])
    found = Counter(operators(tmp_path / "optimised.onnx"))
    assert found["QGemm"] == 6 * 2


def test_embeddings_are_near_the_naive_loops(bundle: Path, tiny_state: dict) -> None:
    clip = build_clip(infer_architecture(tiny_state)[0], tiny_state).eval()
    loop = embed_names(clip, [name for (name,) in NAMES], IMAGENET_TEMPLATES).numpy()
    np.testing.assert_allclose(embed(bundle, "fp32"), loop, rtol=0, atol=1e-6)
    cosines = (embed(bundle, "int8") * loop).sum(axis=1)
    assert parity.TEXT_COSINE <= cosines.min() <= cosines.max() < 1 - 1e-7


def test_a_text_does_not_depend_on_those_beside_it(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    tokenizer = Tokenizer.from_file(bundle / opened.manifest.tokenizer)
    rows = pad(tokenizer.encode(["a zebra", "a photo", "no thing", "the sea"]))
    text = open_text_backend(opened, precision="int8")
    singles = np.concatenate([text.encode(row[None]) for row in rows])
    np.testing.assert_allclose(text.encode(rows), singles, rtol=0, atol=1e-6)


def test_the_cache_keeps_precisions_apart(bundle: Path) -> None:
    folder = embedding_cache_directory()
    assert folder is not None
    first = {precision: embed(bundle, precision, cache_dir=folder) for precision in ("fp32", "int8")}
    assert not np.array_equal(first["fp32"], first["int8"])
    for precision, rows in first.items():
        assert np.array_equal(embed(bundle, precision, cache_dir=folder), rows)


def test_prompts_to_calibrate_on_and_to_check_with_share_no_name(bundle: Path) -> None:
    tokenizer = Tokenizer.from_file(bundle / "tokenizer.json")
    prompts, others = text_prompts(tokenizer, 77)
    assert min(len(prompts), len(others)) > 100
    assert not {tuple(ids) for ids in prompts} & {tuple(ids) for ids in others}
    more, checked = text_prompts(tokenizer, 77, ["sky", "tartan"])
    assert len(more) - len(prompts) in (7, 8)
    assert not {tuple(ids) for ids in more} & {tuple(ids) for ids in checked}
    short = text_prompts(tokenizer, 8)
    assert max(len(ids) for part in short for ids in part) <= 8


def test_a_missed_limit_writes_nothing(
    tiny_checkpoint: Path,
    export_cli: Export,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(parity, "TEXT_COSINE", 1.0)
    assert export_cli("--checkpoint", tiny_checkpoint, "--int8-text", "--output", tmp_path / "a.scclip") == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("scclip-export: error: parity missed by text_encoder.int8.onnx")
    assert not list(tmp_path.iterdir())


def test_a_segmenter_and_the_commands_take_it_by_name(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [name for (name,) in NAMES]
    segmenter = Segmenter(bundle, classes=names, text_precision="int8", cache=False)
    assert np.array_equal(segmenter.vocabulary.embeddings, embed(bundle, "int8"))
    elsewhere = pickle.loads(pickle.dumps(segmenter))
    elsewhere.set_classes(names[:2])
    assert np.array_equal(elsewhere.vocabulary.embeddings, segmenter.vocabulary.embeddings[:2])
    out = tmp_path / "v.safetensors"
    line = ["embed", str(bundle), "--classes", "; ".join(names), "--output", str(out), "--no-cache"]
    assert scclip([*line, "--text-precision", "int8"]) == 0
    again = Segmenter(bundle, vocabulary=out).vocabulary
    assert np.array_equal(again.embeddings, segmenter.vocabulary.embeddings)
    assert scclip(["inspect", str(bundle)]) == 0
    assert "text encoder text_encoder.int8.resumed.onnx (int8" in capsys.readouterr().out


def test_what_the_bundle_lacks_is_refused(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BackendError, match="the bundle has: fp32") as caught:
        Segmenter(tiny_bundle, classes=["a", "b"], text_precision="int8")
    assert caught.value.field == "text_precision"
    line = ["embed", str(tiny_bundle), "--classes", "a", "--output", "none.safetensors"]
    assert scclip([*line, "--text-precision", "int8"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1

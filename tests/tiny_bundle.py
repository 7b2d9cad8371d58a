"""A bundle small enough to build in a test: pooled patches for an encoder, a table of tokens for text."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PATCH, WINDOW, STRIDE, EMBED, CONTEXT = 16, 96, 48, 8, 77
ROWS = WINDOW // PATCH
ZERO_SHA = "0" * 64

EditManifest = Callable[[dict[str, Any]], None]


def projection() -> np.ndarray:
    """(3, EMBED): the first three dimensions are red, green and blue, the others mix them."""
    mixed = np.random.default_rng(0).normal(size=(3, EMBED - 3)) * 0.2
    return np.concatenate([np.eye(3), mixed], axis=1).astype(np.float32)


def encoder_model(rows: int | str, columns: int | str, *, external: str | None = None) -> onnx.ModelProto:
    """Mean colour of each patch, centred, projected, to unit length: a batch equals its singles."""
    patches: int | str = rows * columns if isinstance(rows, int) and isinstance(columns, int) else "patches"
    height, width = (side * PATCH if isinstance(side, int) else side for side in (rows, columns))
    nodes = [
        helper.make_node("Cast", ["windows"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["pixels", "middle"], ["centred"]),
        helper.make_node("Transpose", ["centred"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "AveragePool", ["channels"], ["pooled"], kernel_shape=[PATCH, PATCH], strides=[PATCH, PATCH]
        ),
        helper.make_node("Reshape", ["pooled", "flat"], ["flattened"]),
        helper.make_node("Transpose", ["flattened"], ["colours"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["colours", "projection"], ["projected"]),
        helper.make_node("LpNormalization", ["projected"], ["features"], axis=-1, p=2),
        helper.make_node("Transpose", ["text"], ["queries"], perm=[1, 0]),
        helper.make_node("MatMul", ["features", "queries"], ["logits"]),
    ]
    weights = numpy_helper.from_array(projection(), "projection")
    if external is not None:
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        for key, value in (("location", external), ("offset", "0"), ("length", str(projection().nbytes))):
            weights.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        nodes,
        "encoder",
        [
            helper.make_tensor_value_info("windows", TensorProto.UINT8, ["batch", height, width, 3]),
            helper.make_tensor_value_info("text", TensorProto.FLOAT, ["queries", EMBED]),
        ],
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", patches, EMBED]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", patches, "queries"]),
        ],
        [
            weights,
            numpy_helper.from_array(np.float32(120.5), "middle"),
            numpy_helper.from_array(np.array([0, 3, -1], np.int64), "flat"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def text_model() -> onnx.ModelProto:
    """Each token is a row of a table; a text is the unit mean of its rows."""
    table = np.random.default_rng(1).normal(size=(49408, EMBED)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "tokens"], ["rows"]),
            helper.make_node("ReduceMean", ["rows", "axes"], ["mean"], keepdims=0),
            helper.make_node("LpNormalization", ["mean"], ["embeddings"], axis=-1, p=2),
        ],
        "text",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", EMBED])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1], np.int64), "axes")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def tensor(name: str, dtype: str, *shape: int | str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def encoder_entry(file: str, grid: dict[str, Any], precision: str = "fp32") -> dict[str, Any]:
    height: int | str = grid["rows"] * PATCH if "rows" in grid else "height"
    width: int | str = grid["columns"] * PATCH if "rows" in grid else "width"
    patches: int | str = grid["rows"] * grid["columns"] if "rows" in grid else "patches"
    axes: dict[str, Any] = {name: {"min": 1, "max": None} for name in ("batch", "queries")}
    if "rows" not in grid:
        side = {"min": 6 * PATCH, "max": None, "multiple_of": PATCH}
        axes |= {"height": side, "width": side, "patches": {"min": 36, "max": None}}
    return {
        "file": file,
        "precision": precision,
        "grid": grid,
        "opset": 20,
        "runs_on": ["cpu", "cuda"],
        "inputs": [
            tensor("windows", "uint8", "batch", height, width, 3),
            tensor("text", "float32", "queries", EMBED),
        ],
        "outputs": [
            tensor("features", "float32", "batch", patches, EMBED),
            tensor("logits", "float32", "batch", patches, "queries"),
        ],
        "axes": axes,
        "parity": {"features": 1e-7},
    }


def manifest_document(encoders: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "format_version": 1,
        "name": "tiny",
        "created_with": {"scclip-rt": "test"},
        "model": {
            "backbone": None,
            "architecture": "pooled patches",
            "pretrained": None,
            "checkpoint_sha256": ZERO_SHA,
            "width": 3,
            "layers": 1,
            "heads": 1,
            "patch_size": PATCH,
            "image_size": WINDOW,
            "embed_dim": EMBED,
            "activation": "quickgelu",
            "assumptions": [],
        },
        "calibration": {"method": "none"},
        "preprocessing": {
            "color": "RGB",
            "interpolation": "opencv-linear-u8",
            "short_side": 128,
            "long_side": 2048,
            "window": WINDOW,
            "stride": STRIDE,
            "mean": [122.771, 116.746, 104.094],
            "std": [68.501, 66.632, 70.323],
        },
        "decoding": {"logit_scale": 40.0, "prob_threshold": 0.0, "area_threshold": None},
        "encoders": encoders,
        "text_encoder": {
            "file": "text_encoder.onnx",
            "context_length": CONTEXT,
            "model_sha256": ZERO_SHA,
            "inputs": [tensor("tokens", "int64", "batch", "tokens")],
            "outputs": [tensor("embeddings", "float32", "batch", EMBED)],
            "axes": {"batch": {"min": 1, "max": None}, "tokens": {"min": 1, "max": CONTEXT}},
            "parity": {},
        },
        "tokenizer": "tokenizer.json",
        "vocabularies": [],
        "files": {},
    }


def tokenizer_document() -> str:
    """CLIP's tokenizer in small: every byte a token, no merges; the special tokens have CLIP's numbers."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*letters, *(f"{letter}</w>" for letter in letters)])}
    vocabulary |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[],
            end_of_word_suffix="</w>",
            continuing_subword_prefix="",
            unk_token="<|endoftext|>",
        )
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        ("<|endoftext|>", 49407), ("<|startoftext|>", 49406), trim_offsets=False, add_prefix_space=False
    )
    return str(tokenizer.to_str())


def list_files(root: Path, document: dict[str, Any]) -> None:
    document["files"] = {
        path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
        for path in sorted(root.iterdir())
        if path.name != "bundle.json"
    }


def build_bundle(root: Path) -> Path:
    """A sound bundle with a window encoder (weights in a data file), a dynamic and a fixed one."""
    root.mkdir(parents=True)
    (root / "encoder.fp32.onnx.data").write_bytes(projection().tobytes())
    data = "encoder.fp32.onnx.data"
    onnx.save(encoder_model(ROWS, ROWS, external=data), root / "encoder.fp32.onnx")
    (root / "encoder.fp32.dynamic.onnx").write_bytes(encoder_model("height", "width").SerializeToString())
    (root / "encoder.fp32.128x192.onnx").write_bytes(encoder_model(8, 12).SerializeToString())
    (root / "text_encoder.onnx").write_bytes(text_model().SerializeToString())
    (root / "tokenizer.json").write_text(tokenizer_document(), "utf-8")
    document = manifest_document(
        [
            encoder_entry("encoder.fp32.onnx", {"kind": "window", "rows": ROWS, "columns": ROWS}),
            encoder_entry("encoder.fp32.dynamic.onnx", {"kind": "dynamic"}),
            encoder_entry("encoder.fp32.128x192.onnx", {"kind": "fixed", "rows": 8, "columns": 12}),
        ]
    )
    list_files(root, document)
    (root / "bundle.json").write_text(json.dumps(document), "utf-8")
    return root


def edit_manifest(root: Path, edit: EditManifest) -> None:
    """Change bundle.json."""
    document = json.loads((root / "bundle.json").read_text("utf-8"))
    edit(document)
    (root / "bundle.json").write_text(json.dumps(document), "utf-8")


def relist(root: Path) -> None:
    """Bring `files` of bundle.json up to date with what lies in the directory."""
    document = json.loads((root / "bundle.json").read_text("utf-8"))
    list_files(root, document)
    (root / "bundle.json").write_text(json.dumps(document), "utf-8")


def add_attention(root: Path) -> Path:
    """Every encoder in fp16 too, and before it a form called that with ONNX's Attention, marked as by the exporter."""

    def edit(document: dict[str, Any]) -> None:
        for entry in list(document["encoders"]):
            for name, opset, device in (("fp16", 20, "cuda"), ("fp16.opset23", 23, "tensorrt")):
                file = entry["file"].replace("fp32", name)
                (root / file).write_bytes((root / entry["file"]).read_bytes())
                form = {"file": file, "precision": "fp16", "opset": opset, "runs_on": [device]}
                document["encoders"].insert(0, entry | form)

    edit_manifest(root, edit)
    relist(root)
    return root


def blocks_image(height: int = 200, width: int = 300, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: coloured blocks with some noise."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (-(-height // 50), -(-width // 50), 3))
    image = np.kron(blocks, np.ones((50, 50, 1)))[:height, :width] + rng.integers(-8, 9, (height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def quantised_model() -> onnx.ModelProto:
    """The tiny encoder with its product in int8: static scales on both operands, weights per channel."""
    model = encoder_model(6, 6)
    weights = projection()
    scales = (np.abs(weights).max(axis=0) / 127).astype(np.float32)
    add = [
        numpy_helper.from_array(np.round(weights / scales).astype(np.int8), "weights8"),
        numpy_helper.from_array(scales, "weight_scales"),
        numpy_helper.from_array(np.zeros(len(scales), np.int8), "weight_zeros"),
        numpy_helper.from_array(np.float32(1.1), "scale"),
        numpy_helper.from_array(np.uint8(128), "zero"),
    ]
    model.graph.initializer.extend(add)
    nodes = list(model.graph.node)
    place = next(i for i, node in enumerate(nodes) if node.op_type == "MatMul")
    nodes[place].input[:] = ["colours_dq", "weights_dq"]
    nodes[place:place] = [
        helper.make_node("QuantizeLinear", ["colours", "scale", "zero"], ["colours_q"]),
        helper.make_node("DequantizeLinear", ["colours_q", "scale", "zero"], ["colours_dq"]),
        helper.make_node(
            "DequantizeLinear", ["weights8", "weight_scales", "weight_zeros"], ["weights_dq"], axis=1
        ),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def add_int8_encoder(root: Path) -> None:
    """Put the tiny encoder in int8 into a bundle, for windows and CPUs."""
    (root / "encoder.int8.onnx").write_bytes(quantised_model().SerializeToString())
    window = {"kind": "window", "rows": 6, "columns": 6}
    entry = encoder_entry("encoder.int8.onnx", window, "int8") | {"runs_on": ["cpu"]}
    edit_manifest(root, lambda document: document["encoders"].append(entry))
    relist(root)

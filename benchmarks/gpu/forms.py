"""Other forms of a bundle's encoders for benchmarks/gpu, so that one run times them beside each other."""

import hashlib
import json
import shutil
from pathlib import Path

import onnx

from scclip_rt.bundle.bundle import Bundle

FORMS = ("plain", "attention", "biases")
"""Without the file with ONNX's Attention; with it; every product's bias added behind it, in the file that is taken."""


def write_form(bundle: Path, form: str, folder: Path) -> Path:
    """Write a bundle, of links where that does, in which the runtime takes one form of each encoder.

    Args:
        bundle: any bundle.
        form: one of `FORMS`.
        folder: where to; it must not exist.

    Raises:
        ValueError: the bundle has no file with ONNX's Attention, which `attention` asks for.
    """
    document = json.loads((bundle / "bundle.json").read_text("utf-8"))
    with_attention = {encoder.file for encoder in Bundle.open(bundle).encoders if encoder.has_attention}
    if form == "attention" and not with_attention:
        raise ValueError("the bundle has no encoder with ONNX's Attention: export it with --fp16 --opset23")
    if form == "plain":
        document["encoders"] = [e for e in document["encoders"] if e["file"] not in with_attention]
    for name in document["files"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if form == "biases":  # beside a graph that is no link, ONNX Runtime takes no link for its weights
            shutil.copyfile(bundle / name, folder / name)
        else:
            (folder / name).symlink_to((bundle / name).resolve())
    if form == "biases":
        for entry in document["encoders"]:
            path = folder / entry["file"]
            data = biases_behind(onnx.load(str(path), load_external_data=False)).SerializeToString()
            path.write_bytes(data)
            document["files"][path.name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / "bundle.json").write_text(json.dumps(document), "utf-8")
    return folder


def biases_behind(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every Gemm's bias as an Add behind it, in place.

    ONNX Runtime's CUDA kernel of Gemm first writes the bias to all rows of the result (`BroadcastBiasKernel`), which
    the product then reads. ONNX Runtime fuses an Add into a MatMul, but not into a Gemm.
    """
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "Gemm" and len(node.input) == 3:
            bias, result = node.input.pop(), node.output[0]
            node.output[0] = f"{result}.without_bias"
            nodes.append(onnx.helper.make_node("Add", [node.output[0], bias], [result]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model

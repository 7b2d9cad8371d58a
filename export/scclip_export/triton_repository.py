"""`scclip-export --triton-repository`: a bundle as a model repository for NVIDIA Triton, and for OpenVINO Model Server.

    DIR/models/scclip/           image bytes and class names to labels: Triton's Python backend, the runtime's own code
    DIR/models/scclip_encoder/   windows to features: ONNX with its weights in a file, batched by Triton, or a plan
    DIR/models/scclip_text/      tokens to embeddings
    DIR/ovms/                    the two graphs and a configuration for OpenVINO Model Server
    DIR/README.md                how to run it

Every shape is written out: Triton's auto-completion takes the first axis of every input for a batch, which `queries` is
not. The encoder's graph is cut to its features, so that its only input has the batch first.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import onnx

from scclip_rt import __version__
from scclip_rt.bundle.bundle import MANIFEST_FILE, Bundle
from scclip_rt.bundle.engine_sidecar import Engine, read_engines, source_sha256
from scclip_rt.bundle.manifest import EncoderSpec
from scclip_rt.errors import BundleError, OptionError
from scclip_rt.files import atomic_directory
from scclip_rt.serving.settings import MAX_PIXELS, Limits
from scclip_rt.serving.triton_model import ENCODER, TEXT

MODEL = "scclip"
IMAGE = "nvcr.io/nvidia/tritonserver:26.09-py3"
_MAX_BATCH = 8
_QUEUE = 64
_TIMEOUT_MICROSECONDS = 30_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryReport:
    """What was written: the folder, its models, and the engine that went in, if one did."""

    path: Path
    models: tuple[str, ...]
    engine: str | None


def write_repository(
    bundle: Bundle,
    target: Path,
    *,
    force: bool = False,
    precision: str = "fp32",
    text_precision: str = "fp32",
) -> RepositoryReport:
    """Write a model repository, completely or not at all.

    Weights are copied: onnx refuses to read those that have a second name (a hard link).

    Args:
        bundle: with an encoder of windows.
        target: the folder to make.
        force: replace what is there.
        precision: of the ONNX encoder.
        text_precision: of the text encoder, `fp32` or `int8`.

    Raises:
        OptionError: the bundle has no encoder of that precision.
        BackendError: it has no text encoder of that precision.
        BundleError: a file is damaged.
        OutputError: the folder exists, or can't be written.
    """
    spec = _encoder(bundle, precision)
    engine, text = _engine(bundle), bundle.text_graphs(text_precision).file
    parameters = {"TEXT_PRECISION": text_precision}
    if engine is None and text_precision != "fp32":
        parameters["TEXT_SHA256"] = source_sha256(bundle, text)  # of files that are not in the small bundle
    with atomic_directory(target, force=force) as root:
        models = root / "models"
        _write_encoder(bundle, spec, engine, models / ENCODER)
        _write_text(bundle, text, models / TEXT)
        _write_pipeline(bundle, spec, engine, parameters, models / MODEL)
        _write_ovms(bundle, spec, text, root / "ovms")
        (root / "README.md").write_text(_readme(bundle, engine), "utf-8")
    return RepositoryReport(
        path=target, models=(MODEL, ENCODER, TEXT), engine=None if engine is None else engine.file
    )


def _encoder(bundle: Bundle, precision: str) -> EncoderSpec:
    found = [spec for spec in bundle.encoders_for("window") if spec.precision == precision]
    if not found:
        have = ", ".join(sorted({spec.precision for spec in bundle.encoders_for("window")})) or "none"
        raise OptionError(
            f"{bundle.path} has no encoder of windows in {precision}; it has {have}. Pick one of them with "
            "--repository-precision"
        )
    return found[0]


def _engine(bundle: Bundle) -> Engine | None:
    """The first TensorRT engine for windows: Triton has TensorRT, not TensorRT for RTX."""
    for engine in read_engines(bundle):
        if isinstance(engine, Engine) and engine.library == "tensorrt" and engine.grid.kind == "window":
            return engine
    return None


def _write_encoder(bundle: Bundle, spec: EncoderSpec, engine: Engine | None, folder: Path) -> None:
    side, width = bundle.preprocessing.window, bundle.model.embed_dim
    patches = (side // bundle.model.patch_size) ** 2
    version = folder / "1"
    version.mkdir(parents=True)
    if engine is not None:
        shutil.copyfile(bundle.checked_path(engine.file), version / "model.plan")
        config = _plan_config(side, patches, width)
    else:
        graph = version / "model.onnx"  # a folder: Triton's layout for a model of several files
        graph.mkdir()
        features_graph(bundle, spec.file, graph / "model.onnx")
        config = _encoder_config(side, patches, width)
    (folder / "config.pbtxt").write_text(config, "utf-8")


def features_graph(bundle: Bundle, file: str, target: Path) -> None:
    """The encoder without its queries: `windows` to `features`. Weights keep their file, which is put beside it.

    Raises:
        BundleError: the graph has no such input and output, or needs another input.
    """
    model = onnx.load(bundle.checked_graph(file), load_external_data=False)
    graph = model.graph
    needed, nodes = {"features"}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(name for name in node.input if name)
    inputs = [value for value in graph.input if value.name in needed]
    if [value.name for value in inputs] != ["windows"]:
        names = [value.name for value in inputs]
        raise BundleError(f"{bundle.path / file}: features should need `windows` alone; they need {names}")
    outputs = [value for value in graph.output if value.name == "features"]
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    for field, values in (
        (graph.node, nodes[::-1]),
        (graph.input, inputs),
        (graph.output, outputs),
        (graph.initializer, weights),
    ):
        kept = [type(value).FromString(value.SerializeToString()) for value in values]
        del field[:]
        field.extend(kept)
    del graph.value_info[:]
    for name in bundle.data_files(file):
        shutil.copyfile(bundle.checked_path(name), target.parent / Path(name).name)
    onnx.save(model, target)
    onnx.checker.check_model(str(target))


def _write_text(bundle: Bundle, file: str, folder: Path) -> None:
    graph = folder / "1" / "model.onnx"
    graph.mkdir(parents=True)
    _copy_graph(bundle, file, graph / "model.onnx")
    (folder / "config.pbtxt").write_text(_text_config(bundle.model.embed_dim), "utf-8")


def _write_pipeline(
    bundle: Bundle, spec: EncoderSpec, engine: Engine | None, parameters: dict[str, str], folder: Path
) -> None:
    """The Python model, and of the bundle what it needs: all with an engine, else everything but the weights."""
    version = folder / "1"
    inside = version / "bundle"
    version.mkdir(parents=True)
    if engine is not None:
        for name in bundle.manifest.files:
            (inside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.checked_path(name), inside / name)
        shutil.copyfile(bundle.path / MANIFEST_FILE, inside / MANIFEST_FILE)
    else:
        _write_small_bundle(bundle, spec, inside)
    (version / "model.py").write_text(
        '"""The runtime\'s own model; its bundle lies beside this file."""\n\n'
        "from scclip_rt.serving.triton_model import TritonPythonModel\n\n"
        '__all__ = ["TritonPythonModel"]\n',
        "utf-8",
    )
    (folder / "config.pbtxt").write_text(_pipeline_config(engine is not None, parameters), "utf-8")


def _write_small_bundle(bundle: Bundle, spec: EncoderSpec, folder: Path) -> None:
    """A bundle that says how to prepare and decode; graphs without weights: they run in the other models."""
    document = json.loads((bundle.path / MANIFEST_FILE).read_text("utf-8"))
    document["encoders"] = [entry for entry in document["encoders"] if entry["file"] == spec.file]
    document.pop("engines", None)
    document.pop("gpu_kernels", None)
    for other in ("resumed", "int8"):
        document["text_encoder"].pop(other, None)
    keep = {spec.file, bundle.text_encoder.file, bundle.manifest.tokenizer, *bundle.manifest.vocabularies}
    document["files"] = {name: entry for name, entry in document["files"].items() if name in keep}
    for name in sorted(keep):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.checked_path(name), folder / name)
    (folder / MANIFEST_FILE).write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    Bundle.open(folder)


def _write_ovms(bundle: Bundle, spec: EncoderSpec, text: str, folder: Path) -> None:
    """The same graphs for OpenVINO Model Server, which wants model and weights in the version's folder."""
    for model in (ENCODER, TEXT):
        (folder / model / "1").mkdir(parents=True)
    features_graph(bundle, spec.file, folder / ENCODER / "1" / "model.onnx")
    _copy_graph(bundle, text, folder / TEXT / "1" / "model.onnx")
    side = bundle.preprocessing.window
    # Else OpenVINO computes in bf16 where the processor can.
    plugin = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    models = [
        {
            "config": {
                "name": ENCODER,
                "base_path": f"/models/{ENCODER}",
                "shape": f"(-1,{side},{side},3)",
                "nireq": 2,
                "plugin_config": plugin,
            }
        },
        {
            "config": {
                "name": TEXT,
                "base_path": f"/models/{TEXT}",
                "shape": "(-1,-1)",
                "plugin_config": plugin,
            }
        },
    ]
    (folder / "config.json").write_text(json.dumps({"model_config_list": models}, indent=2) + "\n", "utf-8")


def _copy_graph(bundle: Bundle, file: str, target: Path) -> None:
    """A graph under another name; its weights beside it under theirs."""
    shutil.copyfile(bundle.checked_path(file), target)
    for name in bundle.data_files(file):
        shutil.copyfile(bundle.checked_path(name), target.parent / Path(name).name)


def _encoder_config(side: int, patches: int, width: int) -> str:
    return f"""\
# windows (uint8, the batch first) to unit features. Explicit: auto-completion is not needed.
name: "{ENCODER}"
backend: "onnxruntime"
max_batch_size: {_MAX_BATCH}
input [ {{ name: "windows" data_type: TYPE_UINT8 dims: [ {side}, {side}, 3 ] }} ]
output [ {{ name: "features" data_type: TYPE_FP32 dims: [ {patches}, {width} ] }} ]
# Batches hold what is there; nothing waits to fill one. A full queue refuses, an old request is dropped.
dynamic_batching {{
  max_queue_delay_microseconds: 0
  default_queue_policy {{
    timeout_action: REJECT
    default_timeout_microseconds: {_TIMEOUT_MICROSECONDS}
    allow_timeout_override: true
    max_queue_size: {_QUEUE}
  }}
}}
instance_group [ {{ count: 1 kind: KIND_AUTO }} ]
"""


def _plan_config(side: int, patches: int, width: int) -> str:
    return f"""\
# The engine has a second input whose first axis is no batch, so Triton must not batch.
name: "{ENCODER}"
platform: "tensorrt_plan"
max_batch_size: 0
input [
  {{ name: "windows" data_type: TYPE_UINT8 dims: [ -1, {side}, {side}, 3 ] }},
  {{ name: "text" data_type: TYPE_FP32 dims: [ -1, {width} ] }}
]
output [
  {{ name: "features" data_type: TYPE_FP32 dims: [ -1, {patches}, {width} ] }},
  {{ name: "logits" data_type: TYPE_FP32 dims: [ -1, {patches}, -1 ] }}
]
instance_group [ {{ count: 1 kind: KIND_GPU }} ]
"""


def _text_config(width: int) -> str:
    return f"""\
# Rows of tokens to unit embeddings. Rows of one request have one length, those of two requests may not: no batching.
name: "{TEXT}"
backend: "onnxruntime"
max_batch_size: 0
input [ {{ name: "tokens" data_type: TYPE_INT64 dims: [ -1, -1 ] }} ]
output [ {{ name: "embeddings" data_type: TYPE_FP32 dims: [ -1, {width} ] }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
"""


def _pipeline_config(local: bool, parameters: dict[str, str]) -> str:
    limits = Limits()
    kind = "KIND_GPU" if local else "KIND_CPU"
    parameters = parameters | {
        "ENCODER": "local" if local else "triton",
        "MAX_BATCH": str(_MAX_BATCH),
        "MAX_PIXELS": str(MAX_PIXELS),
        "MAX_CLASSES": str(limits.max_classes),
    }
    lines = "\n".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
        for key, value in parameters.items()
    )
    return f"""\
# One encoded image a request, and class names if the bundle's own list is not wanted.
name: "{MODEL}"
backend: "python"
max_batch_size: 0
input [
  {{ name: "IMAGE" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "CLASSES" data_type: TYPE_STRING dims: [ -1 ] optional: true }}
]
output [
  {{ name: "LABELS" data_type: TYPE_UINT16 dims: [ -1, -1 ] }},
  {{ name: "CLASS_NAMES" data_type: TYPE_STRING dims: [ -1 ] }}
]
{lines}
# Instances prepare and decode images beside each other; the encoder is one.
instance_group [ {{ count: {1 if local else 2} kind: {kind} }} ]
"""


def _readme(bundle: Bundle, engine: Engine | None) -> str:
    gpus = " --gpus all" if engine is not None else ""
    return f"""\
# {bundle.name} for NVIDIA Triton and OpenVINO Model Server

Written by `scclip-export --triton-repository` {__version__}. The model `{MODEL}` takes `IMAGE` (the bytes of a file)
and, if you like, `CLASSES` (an entry a class, synonyms after commas), and gives `LABELS` (uint16, 65535 is unlabelled)
and `CLASS_NAMES`. It calls `{ENCODER}` and `{TEXT}`, which may also be called alone.

The Python backend needs the runtime in Triton's image (DIST is a folder with the wheel that `make dist` builds):

    printf 'FROM {IMAGE}\\nCOPY . /dist\\nRUN pip install /dist/*.whl\\n' | docker build -t triton-scclip -f - DIST
    docker run --rm{gpus} --shm-size 1g -p 8000:8000 -p 8001:8001 -p 8002:8002 -v "$PWD/models":/models:ro \\
        triton-scclip tritonserver --model-repository /models --disable-auto-complete-config

OpenVINO Model Server runs the two graphs (resizing, cutting and decoding are the client's, as `scclip_rt` does them):

    docker run --rm -p 9000:9000 -p 8000:8000 -v "$PWD/ovms":/models:ro openvino/model_server:latest \\
        --config_path /models/config.json --port 9000 --rest_port 8000
"""

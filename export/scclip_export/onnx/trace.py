"""Trace the encoders to ONNX, and facts about the graphs that come out."""

import contextlib
import functools
import gc
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.fx.config
from onnx import TensorProto
from onnxscript import TracedOnnxFunction
from torch import Tensor, nn

from scclip_export.errors import ExportError
from scclip_export.model.calibration import CalibrationConfig
from scclip_export.model.dtypes import DtypePolicy
from scclip_export.model.encoder import CalibratedEncoder
from scclip_export.model.text_encoder import ResumedTextEncoder, TextEncoder
from scclip_export.onnx.capture import capture, translated_as_it_is
from scclip_export.onnx.clean_graph import clean
from scclip_export.onnx.repeat import one_block_for_all, repeat_blocks
from scclip_export.onnx.shared_weights import save_model
from scclip_rt.image.geometry import MIN_PATCHES

# Operators whose output shape or control flow depends on data: TensorRT can't plan them, and nothing here needs them.
FORBIDDEN_OPS = frozenset({"NonZero", "Loop", "If", "Scan", "Unique", "Compress", "SequenceAt", "Random"})


def onnx_from_encoder(
    encoder: CalibratedEncoder,
    path: Path,
    *,
    opset: int,
    example_size: tuple[int, int],
    base: Path | None = None,
) -> None:
    """Trace the image encoder with dynamic batch and queries, and dynamic sides if it has no fixed grid.

    Args:
        encoder: float32, in eval mode.
        path: the .onnx file; weights go to `path` + ".data".
        opset: ONNX opset, 18 to 23.
        example_size: (height, width) of the windows to trace with, pixels.
        base: an ONNX file in the same folder whose equal weights are used.

    Raises:
        ExportError: the exporter fails, or the graph holds an operator that no engine can plan.
    """
    patch = encoder.embedding.patch_size
    height, width = example_size
    # Three examples: 0, 1 and 2 are sizes that tracing may take for constants.
    windows = torch.randint(0, 256, (3, height, width, 3), dtype=torch.uint8)
    text = torch.nn.functional.normalize(torch.randn(5, encoder.proj.out_features), dim=-1)
    window_axes: dict[int, torch.export.Dim] = {0: torch.export.Dim("batch", min=1)}
    if encoder.grid is None:
        if encoder.parts.pads:
            window_axes[1] = torch.export.Dim("height", min=2, max=8192 * patch)
            window_axes[2] = torch.export.Dim("width", min=2, max=8192 * patch)
        else:
            window_axes[1] = patch * torch.export.Dim("rows", min=MIN_PATCHES, max=8192)
            window_axes[2] = patch * torch.export.Dim("columns", min=MIN_PATCHES, max=8192)
    outputs = ["features", "logits"]
    if encoder.debug_outputs:
        outputs.append("outliers")
    _trace(
        encoder,
        (windows, text),
        path,
        opset=opset,
        input_names=["windows", "text"],
        output_names=outputs,
        dynamic_shapes={"windows": window_axes, "text": {0: torch.export.Dim("queries", min=1)}},
        shapes=_encoder_shapes(encoder, example_size),
        base=base,
    )


def _encoder_shapes(encoder: CalibratedEncoder, size: tuple[int, int]) -> dict[str, list[int | str]]:
    """The shapes of docs/bundle.md, to replace the names that tracing makes up."""
    height: int | str
    width: int | str
    patches: int | str
    outliers: int | str
    height, width, patches, outliers = "height", "width", "patches", "outliers"
    if encoder.grid is not None:
        (height, width), patches = size, encoder.grid[0] * encoder.grid[1]
        if isinstance(encoder.parts, CalibrationConfig):
            outliers = encoder.parts.outliers(patches)
        patches += encoder.class_row
    embed = encoder.proj.out_features
    return {
        "windows": ["batch", height, width, 3],
        "text": ["queries", embed],
        "features": ["batch", patches, embed],
        "logits": ["batch", patches, "queries"],
        "outliers": ["batch", outliers],
    }


def onnx_from_text_encoder(encoder: TextEncoder, path: Path, *, opset: int) -> None:
    """Trace the text encoder with dynamic batch and length; arguments as `onnx_from_encoder`."""
    context = len(encoder.positions)
    tokens = torch.randint(1, 100, (3, min(9, context)))
    axes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("tokens", min=2, max=context)}
    _trace(
        encoder,
        (tokens,),
        path,
        opset=opset,
        input_names=["tokens"],
        output_names=["embeddings"],
        dynamic_shapes={"tokens": axes},
        shapes={"tokens": ["batch", "tokens"], "embeddings": ["batch", encoder.proj.out_features]},
    )


def onnx_from_resumed_text_encoder(
    encoder: ResumedTextEncoder, path: Path, *, opset: int, base: Path | None = None
) -> None:
    """Trace the text encoder that goes on from known beginnings; arguments as `onnx_from_encoder`."""
    context, layers = len(encoder.positions), len(encoder.blocks)
    blocks: Any = encoder.blocks
    heads: int = blocks[0].num_heads
    width = encoder.table.shape[1]
    known: list[int | str] = [layers, 2, "beginnings", heads, "known", width // heads]
    present = [f"present.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    tokens = torch.randint(1, 100, (3, min(7, context)))
    past = torch.randn(layers, 2, 5, heads, min(4, context), width // heads)
    _trace(
        encoder,
        (tokens, past, torch.tensor([1, 2, 3, 1, 2]), torch.tensor([4, 0, 2])),
        path,
        opset=opset,
        input_names=["tokens", "past", "past_lengths", "beginnings"],
        output_names=["embeddings", *present],
        dynamic_shapes={
            "tokens": {
                0: (batch := torch.export.Dim("batch", min=1)),
                1: torch.export.Dim("tokens", min=1, max=context),
            },
            "past": {
                2: (count := torch.export.Dim("known_beginnings", min=1)),
                4: torch.export.Dim("known", min=1, max=context),
            },
            "past_lengths": {0: count},
            "beginnings": {0: batch},
        },
        shapes={
            "tokens": ["batch", "tokens"],
            "past": known,
            "past_lengths": ["beginnings"],
            "beginnings": ["batch"],
            "embeddings": ["batch", encoder.proj.out_features],
            **{name: ["batch", heads, "tokens", width // heads] for name in present},
        },
        base=base,
    )


def _trace(
    module: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    *,
    opset: int,
    input_names: list[str],
    output_names: list[str],
    dynamic_shapes: dict[str, dict[int, torch.export.Dim]],
    shapes: dict[str, list[int | str]],
    base: Path | None = None,
) -> None:
    program = _program(
        module,
        example,
        path.name,
        opset=opset,
        input_names=input_names,
        output_names=output_names,
        dynamic_shapes=dynamic_shapes,
    )
    save_model(program.model, path, base)
    _tidy(path, shapes)
    found = Counter(operators(path)) & Counter(dict.fromkeys(FORBIDDEN_OPS, 1))
    if found:
        raise ExportError(f"{path.name} holds operators that engines can't plan: {', '.join(found)}")


def trace_function(
    module: nn.Module,
    example: tuple[Tensor, ...],
    axes: list[int],
    *,
    opset: int,
    input_names: list[str],
    output_names: list[str],
    name: str,
) -> onnx.ModelProto:
    """Trace a module that has no weights, with a dynamic batch, to a model in memory.

    Args:
        module: takes `*inputs`.
        example: one tensor per input.
        axes: which axis of each is the batch.
        opset: ONNX opset.
        input_names: of the graph.
        output_names: of the graph.
        name: for messages.

    Raises:
        ExportError: the exporter fails.
    """
    batch = torch.export.Dim("batch", min=1)
    program = _program(
        module,
        example,
        name,
        opset=opset,
        input_names=input_names,
        output_names=output_names,
        dynamic_shapes=(tuple({axis: batch} for axis in axes),),
    )
    model: onnx.ModelProto = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    return model


def _program(
    module: nn.Module,
    example: tuple[Tensor, ...],
    name: str,
    *,
    opset: int,
    input_names: list[str],
    output_names: list[str],
    dynamic_shapes: Any,
) -> Any:
    """torch.onnx's program of a module, cleaned; arguments as `trace_function`."""
    with _quiet(), _light(), torch.no_grad(), one_block_for_all(module):
        captured = capture(module, example, dynamic_shapes, opset=opset)
        try:
            with translated_as_it_is(captured=captured is not None):
                program: Any = torch.onnx.export(
                    captured or module,
                    example,
                    dynamo=True,
                    opset_version=opset,
                    input_names=input_names,
                    output_names=output_names,
                    dynamic_shapes=None if captured else dynamic_shapes,
                    optimize=False,
                    verbose=False,
                )
            repeat_blocks(program.model, module)
            clean(program.model)
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise ExportError(f"tracing {name} failed: {str(error).splitlines()[0][:300]}") from error
    return program


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch.onnx's progress and deprecation chatter off the terminal; errors still raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _light() -> Iterator[None]:
    """Leave out work of a trace that nothing here reads (torch 2.14, onnxscript 0.7).

    Stack traces of every node, which `_tidy` drops; looking for garbage hundreds of times; and reading the source of
    each of onnxscript's operators anew, which every trace does. In all a sixth of a trace's time.
    """
    stacks, collects = torch.fx.config.do_not_emit_stack_traces, gc.isenabled()
    read_source: Any = TracedOnnxFunction.function_ir
    read_once = functools.cached_property(read_source.fget)
    read_once.__set_name__(TracedOnnxFunction, "function_ir")
    try:
        torch.fx.config.do_not_emit_stack_traces = True
        TracedOnnxFunction.function_ir = read_once  # type: ignore[method-assign, assignment]
        gc.collect()  # weights that the trace before may have left
        gc.disable()
        yield
    finally:
        torch.fx.config.do_not_emit_stack_traces = stacks
        TracedOnnxFunction.function_ir = read_source  # type: ignore[method-assign]
        if collects:
            gc.enable()


def _tidy(path: Path, shapes: dict[str, list[int | str]]) -> None:
    """Name the axes of inputs and outputs, and drop trace metadata.

    The stack traces that torch.onnx keeps per node name the exporting machine's folders and are half of the file.
    """
    model = onnx.load(str(path), load_external_data=False)
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    model.producer_name, model.doc_string = "scclip-export", ""
    for value in (*model.graph.input, *model.graph.output):
        for dim, length in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            dim.Clear()
            if isinstance(length, int):
                dim.dim_value = length
            else:
                dim.dim_param = length
    onnx.save(model, str(path))


# Operators that compute in float32 in every precision.
_FLOAT32_OPS = frozenset(
    ("LayerNormalization", "Softmax", "TopK", "ReduceL2", "ReduceMean", "ReduceSum", "Reciprocal", "Div")
)
_ONNX_DTYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
}


def check_dtypes(path: Path, policy: DtypePolicy) -> None:
    """Check that an encoder computes in the dtypes of a policy and stores its weights in them.

    Raises:
        ExportError: a projection, an attention product or a norm in another dtype: a narrow file that is float32 in
            truth, or the other way round.
    """
    model = onnx.load(str(path), load_external_data=False)
    types = tensor_types(model)
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    linear = _ONNX_DTYPES[policy.linear]
    wrong = []
    for node in model.graph.node:
        wanted = None
        if node.op_type == "Gemm" or (node.op_type == "MatMul" and node.input[1] in weights):
            wanted = linear
        elif node.op_type == "Attention":
            wanted = _ONNX_DTYPES[policy.attention]
        elif node.op_type in _FLOAT32_OPS and node.input[0] in types:
            wanted = TensorProto.FLOAT if types[node.input[0]] in _ONNX_DTYPES.values() else None
        found = types.get(node.input[0])
        if wanted is not None and found != wanted:
            wrong.append(f"{node.op_type} {node.name} in {TensorProto.DataType.Name(found or 0)}")
    if wrong:
        raise ExportError(f"{path.name} does not follow its table of dtypes: {', '.join(wrong[:5])}")


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of every tensor of a graph that shape inference can tell, by name."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {tensor.name: tensor.data_type for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        types[value.name] = value.type.tensor_type.elem_type
    return types


def operators(path: Path) -> list[str]:
    """Return the operator of every node of an ONNX file, subgraphs and functions included."""
    model = onnx.load(str(path), load_external_data=False)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    found = []
    while nodes:
        node = nodes.pop()
        found.append(node.op_type)
        for attribute in node.attribute:
            nodes.extend(attribute.g.node)
            nodes.extend(n for graph in attribute.graphs for n in graph.node)
    return found

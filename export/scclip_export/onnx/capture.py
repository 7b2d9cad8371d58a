"""Capture a module in one pass, for torch.onnx to translate.

torch.onnx captures a module, runs what it captured twice to decompose it, and once more to look for mixed types. With
symbolic sizes each of these takes as long as the first. Here operators are decomposed while the module runs, and the
look at types takes what is known of each value. What comes out is the same operators (torch 2.12 and 2.14, onnxscript
0.7). All of this leans on torch's inside: where it is another, or a capture fails, torch.onnx goes its own way.
"""

import contextlib
import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

try:
    from torch.export import _trace
    from torch.export.exported_program import (
        _override_composite_implicit_decomp,
        _split_decomp_table_to_cia_and_python_decomp,
    )
    from torch.onnx._internal.exporter import _decomp, _fx_passes, _registration
    from torch.onnx._internal.fx.passes import type_promotion
    from torch.utils._sympy.functions import FloorDiv
    from torch.utils._sympy.interp import _run_sympy_handler
    from torch.utils._sympy.reference import PythonReferenceAnalysis
except ImportError:
    _KNOWN = False
else:
    _KNOWN = all(
        name in vars(place)
        for place, name in (
            (_trace, "make_fx"),
            (_fx_passes, "decompose_with_registry"),
            (_registration.ONNXRegistry, "from_torchlib"),
            (type_promotion, "_TypePromotionInterpreter"),
        )
    )


def capture(module: nn.Module, example: tuple[Tensor, ...], dynamic_shapes: Any, *, opset: int) -> Any:
    """Capture a module, decomposed to operators that torch.onnx translates.

    Args:
        module: in eval mode; it changes no tensor in place.
        example: its inputs.
        dynamic_shapes: of `torch.export.export`.
        opset: ONNX opset.

    Returns:
        A `torch.export.ExportedProgram` for `torch.onnx.export` inside `translated_as_it_is`; None if it can't be made.
    """
    if not _KNOWN:
        return None
    with contextlib.suppress(Exception):  # torch.onnx's own way says what is wrong
        composite, table = _decompositions(opset)
        decomposing = functools.partial(_decomposing, table)
        with (
            torch.fx.experimental._config.patch(backed_size_oblivious=True),  # type: ignore[attr-defined]
            # Values are kept by their sizes, and five of six are new: of a dynamic grid keeping took a fifth.
            torch._dynamo.config.patch(fake_tensor_cache_enabled=False),
            _override_composite_implicit_decomp(composite),
            _replaced(_trace, "make_fx", decomposing),
        ):
            program = torch.export.export(
                module,
                example,
                dynamic_shapes=dynamic_shapes,
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
        _simplify_divisions(program.graph)
        return program
    return None


def _decomposing(table: dict[Any, Callable[..., Any]], function: Callable[..., Any], **_: Any) -> Any:
    """`make_fx` as `torch.export` calls it, with decompositions."""
    return make_fx(function, record_module_stack=True, decomposition_table=table)


@functools.cache
def _registry(opset_version: int) -> Any:
    return _FROM_TORCHLIB(opset_version=opset_version)


_FROM_TORCHLIB: Any = _registration.ONNXRegistry.from_torchlib if _KNOWN else None


@functools.cache
def _decompositions(opset: int) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """What becomes of composite operators, and of those that torch.onnx does not know."""
    known = set(_decomp.get_onnx_implemented_overloads(_registry(opset_version=max(opset, 18))))
    table: dict[Any, Any] = dict(_decomp.create_onnx_friendly_decomposition_table(known))
    composite, others = _split_decomp_table_to_cia_and_python_decomp(table)
    return composite, others


@contextlib.contextmanager
def translated_as_it_is(*, captured: bool) -> Iterator[None]:
    """While inside, torch.onnx reads its table of operators once in a process, and values' types off the graph.

    Args:
        captured: whether what it translates comes from `capture`, and needs no decomposing.
    """
    if not _KNOWN:
        yield
        return
    with contextlib.ExitStack() as patches:
        for place, name, value in (
            (_registration.ONNXRegistry, "from_torchlib", staticmethod(_registry)),
            (type_promotion._TypePromotionInterpreter, "run_node", _known_value),
            *(((_fx_passes, "decompose_with_registry", lambda program, _: program),) if captured else ()),
        ):
            patches.enter_context(_replaced(place, name, value))
        yield


@contextlib.contextmanager
def _replaced(place: Any, name: str, value: Any) -> Iterator[None]:
    """Another value of a name in a module or a class, while inside."""
    before = vars(place)[name]
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)


def _known_value(interpreter: Any, node: fx.Node) -> Any:
    """`_TypePromotionInterpreter.run_node`, which else computes every value again that the graph tells."""
    with interpreter._set_current_node(node):
        rule = type_promotion.get_type_promotion_rule(node, interpreter.type_promotion_table)
        if rule is not None:
            interpreter._maybe_promote_node(node, rule)
    if node.op == "call_function" and "val" in node.meta:
        return node.meta["val"]
    return fx.Interpreter.run_node(interpreter, node)


def _simplify_divisions(graph: fx.Graph) -> None:
    """Write divided sizes from their simplified expressions, in which factors cancel: (b · n · 2) // n is 2 · b.

    Not where that divides something else: of (16 · k - h) // 2 it makes 8 · k + (-h) // 2, and ONNX divides toward 0.
    """
    tracer = fx.proxy.GraphAppendingTracer(graph)
    known: dict[Any, Any] = {}

    def written(expression: Any) -> Any:
        if expression not in known:
            if not expression.args:
                return int(expression)
            parts = [written(part) for part in expression.args]
            known[expression] = _run_sympy_handler(PythonReferenceAnalysis, parts, expression)
            _tell_value(known[expression].node)
        return known[expression]

    for node in list(graph.nodes):
        size = node.meta.get("val")
        if not isinstance(size, torch.SymInt):
            continue
        expression = size.node.expr
        divisions = expression.atoms(FloorDiv) - known.keys()
        if node.target is operator.floordiv and expression.args and divisions <= {expression}:
            with graph.inserting_before(node):
                node.replace_all_uses_with(written(expression).node)
        else:
            known.setdefault(expression, fx.Proxy(node, tracer))
    graph.eliminate_dead_code()


def _tell_value(node: fx.Node) -> None:
    """Keep what a node of sizes computes beside it, and what its inputs do."""
    if "val" in node.meta:
        return
    for part in node.all_input_nodes:
        _tell_value(part)
    arguments = (part.meta["val"] if isinstance(part, fx.Node) else part for part in node.args)
    function: Any = node.target
    node.meta["val"] = function(*arguments)

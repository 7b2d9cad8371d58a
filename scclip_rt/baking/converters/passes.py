"""Rewriting a graph into the form that a converter reads rightly: each pass changes one thing and no number."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto


def scatter_axis_first(model: ModelProto) -> int:
    """Put the attribute `axis` of ScatterElements before `reduction`.

    MNN 3.6.1 reads the two by their place: in the other order it scatters along another axis, and says nothing.

    Returns:
        How many nodes have both.
    """
    changed = 0
    for node in model.graph.node:
        if node.op_type == "ScatterElements" and len(node.attribute) > 1:
            ordered = sorted(node.attribute, key=lambda item: str(item.name))
            del node.attribute[:]
            node.attribute.extend(ordered)
            changed += 1
    return changed

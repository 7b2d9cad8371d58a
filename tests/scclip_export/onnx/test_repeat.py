"""One block is traced for all of its form; the graph is the one that tracing every block gives."""

import contextlib

import onnx
import pytest
import torch
from onnx import numpy_helper
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from scclip_export.model.blocks import Block
from scclip_export.onnx import trace


class Tower(nn.Module):
    """Four blocks, of which the third has other layers than the rest, and a mask that all of them share."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        made = [
            ResidualAttentionBlock(8, 2, act_layer=nn.ReLU if index == 2 else nn.GELU) for index in range(4)
        ]
        self.blocks = nn.ModuleList(Block(block) for block in made).eval()

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        index = torch.arange(length)
        mask = torch.where(index.unsqueeze(0) > index.unsqueeze(1), float("-inf"), 0.0)
        rows = x.reshape(-1, 8)
        for block in self.blocks:
            rows = block(rows, length, mask)
        return rows.view(-1, length, 8)


def program(module: nn.Module) -> onnx.ModelProto:
    axes = {"x": {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("length", min=2)}}
    made = trace._program(
        module,
        (torch.randn(3, 5, 8),),
        "tower",
        opset=20,
        input_names=["x"],
        output_names=["y"],
        dynamic_shapes=axes,
    )
    return made.model_proto


def without_names(model: onnx.ModelProto) -> list[tuple[object, ...]]:
    """Every node with its attributes, and where its inputs are from: a weight's bytes, an input, or a node's place."""
    known: dict[str, object] = {value.name: value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        known[tensor.name] = numpy_helper.to_array(tensor).tobytes()
    rows = []
    for place, node in enumerate(model.graph.node):
        attributes = sorted(item.SerializeToString() for item in node.attribute)
        rows.append((node.domain, node.op_type, attributes, [known[name] for name in node.input]))
        known.update({name: (place, index) for index, name in enumerate(node.output)})
    return rows


def test_the_graph_is_the_one_of_tracing_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = Tower()
    repeated = program(tower)
    assert "forward" not in vars(tower.blocks[0])
    monkeypatch.setattr(trace, "one_block_for_all", lambda _: contextlib.nullcontext())
    plain = program(tower)
    assert without_names(repeated) == without_names(plain)
    assert [entry.domain for entry in repeated.opset_import] == [""]
    assert len(plain.graph.node) > 4 * 15


def test_blocks_work_again_after_a_trace_that_failed() -> None:
    tower = Tower()
    with pytest.raises(ZeroDivisionError), trace.one_block_for_all(tower):
        raise ZeroDivisionError
    assert tower(torch.randn(1, 3, 8)).shape == (1, 3, 8)

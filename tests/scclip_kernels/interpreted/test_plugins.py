"""The plug-ins' kernels, launched as TensorRT launches them: inputs, integers, outputs, and the table's grid."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from oracles.kernels import assert_within_budget
from scclip_export.engines.plugins.functions import REFERENCES
from scclip_kernels.plugins.plugins import plugin_kernel
from scclip_kernels.plugins.table import PLUGINS

BATCH, COLUMNS, PATCHES, WIDTH, HEADS = 2, 7, 49, 32, 2
NARROW = {"fp32": torch.float32, "fp16": torch.float16}


def launch(name: str, narrow: str, inputs: Sequence[Tensor], **attributes: float) -> list[Tensor]:
    """Run a plug-in's kernel with nothing but what TensorRT passes; outputs start as NaN."""
    plugin = PLUGINS[name]
    kernel = plugin_kernel(name, narrow, attributes)
    sizes = {"batch": BATCH, "patches": PATCHES, **attributes}
    dtypes = {"wide": torch.float32, "half": torch.float16, "narrow": NARROW[narrow], "int": torch.int32}
    outputs = [torch.full(output.sizes(sizes), -7, dtype=dtypes[output.kind]) for output in plugin.outputs]
    integers = [sizes[integer.removeprefix("num_")] for integer in plugin.integers]
    assert [tensor.dtype for tensor in inputs] == [dtypes[kind] for kind in plugin.inputs.values()]
    assert all(tensor.is_contiguous() for tensor in inputs)
    grid = kernel.grid(PATCHES, BATCH, lambda value, block: -(-value // block))
    kernel.variant.kernel[grid](*inputs, *integers, *outputs, **kernel.variant.constants)
    return outputs


def tokens(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Neighbouring patches are alike, so that similarities lie on both sides of the floor."""
    return (torch.randn(*shape) + 1.2 * torch.randn(*shape[:-2], 1, shape[-1])).to(dtype)


def factors(guide: Tensor) -> list[Tensor]:
    return launch("halves", "fp32", (guide,), width=WIDTH)


def reference(name: str, inputs: Sequence[Tensor], dtype: torch.dtype, **attributes: float) -> list[Tensor]:
    """The function in the ONNX file, in float64 or as it is."""
    wide = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in inputs]
    return list(REFERENCES[name](*(wide if dtype == torch.float64 else inputs), **attributes))


def test_anomaly_scores() -> None:
    features = tokens(BATCH, PATCHES, WIDTH)
    inputs = factors(features - features.mean(dim=1, keepdim=True))
    distance, neighbors, _ = launch("k_distance", "fp32", inputs, width=WIDTH, neighbors=30)
    plain, expected = reference("k_distance", inputs, torch.float32, neighbors=30)
    oracle, _ = reference("k_distance", inputs, torch.float64, neighbors=30)
    assert_within_budget(distance, plain, oracle)
    assert torch.equal(neighbors.sort(dim=-1).values, expected.sort(dim=-1).values)
    (scores,) = launch("anomaly_score", "fp32", (distance, neighbors), neighbors=30)
    (plain,) = reference("anomaly_score", (distance, neighbors), torch.float32)
    (oracle,) = reference("anomaly_score", (distance, neighbors), torch.float64)
    assert_within_budget(scores, plain, oracle)


def test_resolution() -> None:
    inputs = (tokens(BATCH, PATCHES, WIDTH), tokens(BATCH, PATCHES, WIDTH), torch.rand(BATCH, PATCHES))
    got = launch("outlier_repair", "fp32", inputs, width=WIDTH, columns=COLUMNS, outliers=5)
    plain = reference("outlier_repair", inputs, torch.float32, columns=COLUMNS, outliers=5)
    oracle = REFERENCES["outlier_repair"](*inputs[:2], inputs[2], columns=COLUMNS, outliers=5)
    for ours, torchs, exact in zip(got, plain, oracle, strict=True):
        assert_within_budget(ours, torchs, exact.double())
        assert (ours != inputs[0]).any()


@pytest.mark.parametrize("narrow", NARROW)
def test_aggregate(narrow: str) -> None:
    inputs = (
        tokens(BATCH, PATCHES, WIDTH, dtype=NARROW[narrow]),
        *factors(tokens(BATCH, PATCHES, WIDTH)),
    )
    got, _ = launch("aggregate", narrow, inputs, width=WIDTH, floor=0.4)
    (plain,) = reference("aggregate", inputs, torch.float32, floor=0.4)
    (oracle,) = reference("aggregate", inputs, torch.float64, floor=0.4)
    assert_within_budget(got, plain, oracle)


def test_halves() -> None:
    """Together they are the rows, nearly to the last bit of float32; the function's powers of two may be others."""
    rows = tokens(BATCH, PATCHES, WIDTH)
    for pair, scale, square in (factors(rows), reference("halves", (rows,), torch.float32)):
        together = pair.double().sum(dim=2) * scale.double().unsqueeze(-1)
        assert ((together - rows).abs() <= 2.0**-21 * rows.abs() + 2.0**-25 * scale.unsqueeze(-1)).all()
        torch.testing.assert_close(square, rows.square().sum(dim=-1))


@pytest.mark.parametrize("narrow", NARROW)
def test_attention_by_key_and_by_similarity(narrow: str) -> None:
    guide = tokens(BATCH, PATCHES, WIDTH)
    mean = torch.nn.functional.normalize(guide, dim=-1).mean(dim=1).square().sum(dim=-1)
    pair = [tokens(2, BATCH, PATCHES, WIDTH, dtype=NARROW[narrow]) for _ in range(2)]
    by_key, value = launch("attend_by_key", narrow, pair, width=WIDTH, heads=HEADS)
    plain, plain_value = reference("attend_by_key", pair, torch.float32, heads=HEADS)
    oracle, _ = reference("attend_by_key", pair, torch.float64, heads=HEADS)
    assert_within_budget(by_key, plain, oracle)
    assert torch.equal(value, plain_value)
    inputs = (value, *factors(guide), mean, by_key)
    got, _ = launch("attend_by_similarity", narrow, inputs, width=WIDTH)
    (plain,) = reference("attend_by_similarity", inputs, torch.float32)
    (oracle,) = reference("attend_by_similarity", inputs, torch.float64)
    assert_within_budget(got, plain, oracle)

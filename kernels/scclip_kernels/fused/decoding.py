"""Decode: the window logits of one image to its label map, without a (queries, H, W) tensor (METHOD §4).

    v_q(y, x) = scale · sum_{a, b} R[y, a] C[x, b] logit_q[a, b]
    label     = class of argmax_q v_q;  confidence = exp(max_q v_q - logsumexp_q v_q)

R and C are sparse: a pixel reads two to nine cells per axis. A program takes a run of columns of a few
rows: it combines the rows' cells into a small tile, multiplies by the columns' weights, and reduces over
queries as it goes. Equal values go to the lower query, as in `scclip_rt.decode`. The area rule is the same
kernel run twice: pixels are counted per class in between, and the second run leaves out the queries of
small classes.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from scclip_kernels.fused._launch import check_shape, check_tensors, on_device_of, wrap_triton

BLOCK_X = 32
BLOCK_Y = 8
BLOCK_Q = 32
BLOCK_C = 16
COUNT_BLOCK = 4096
COUNT_CLASSES = 256
KEEP_BLOCK = 1024


class AxisTables(NamedTuple):
    """One axis of the decode on the device: the arrays of `scclip_rt._sparse_axis.SparseAxis` as tensors.

    Attributes:
        rank: (length, taps) int32.
        weight: (length, taps) float32.
        cells: (cells,) int32.
    """

    rank: Tensor
    weight: Tensor
    cells: Tensor

    @classmethod
    def of(cls, axis: Any, device: torch.device | str) -> "AxisTables":
        """Upload a `SparseAxis`."""
        return cls(*(torch.from_numpy(part).to(device) for part in (axis.rank, axis.weight, axis.cells)))

    def matrix(self) -> Tensor:
        """Dense (length, cells) float64, cells by place."""
        dense = torch.zeros(len(self.rank), len(self.cells), dtype=torch.float64, device=self.rank.device)
        return dense.scatter_add(1, self.rank.long(), self.weight.double())


@triton.jit
def _decode_kernel(
    logits, row_rank, row_weight, row_cells, column_rank, column_weight, column_cells, query_class, query_keep,
    labels, confidence,
    height, width, num_queries, row_taps, column_taps, unlabelled, fallback, logit_scale, prob_threshold,
    SOFT: tl.constexpr, MASKED: tl.constexpr,
    BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Label BLOCK_Y rows of BLOCK_X columns; see the module's formula.

    logits (patches, num_queries) float; tables as `SparseAxis`; query_class (num_queries,) int32;
    query_keep (num_queries,) uint8, read if MASKED: 0 leaves a query out of the arg-max, not out of the
    soft-max; labels (height, width) uint8 or uint16; confidence (height, width) float32, written if SOFT.
    Pixels below prob_threshold (SOFT) get `fallback`, pixels without any query `unlabelled`.
    """
    x = tl.program_id(0) * BLOCK_X + tl.arange(0, BLOCK_X)
    x_valid = x < width
    first = 2147483647
    last = 0
    for tap in range(column_taps):
        index = tl.load(column_rank + x * column_taps + tap, mask=x_valid, other=0)
        first = tl.minimum(first, tl.min(tl.where(x_valid, index, 2147483647)))
        last = tl.maximum(last, tl.max(tl.where(x_valid, index, 0)) + 1)
    top = tl.program_id(1) * BLOCK_Y
    for y in range(top, tl.minimum(top + BLOCK_Y, height)):
        highest = tl.full((BLOCK_X,), float("-inf"), tl.float32)  # of all queries
        total = tl.zeros((BLOCK_X,), tl.float32)  # sum of exponentials relative to it
        best = tl.full((BLOCK_X,), float("-inf"), tl.float32)  # of the queries kept
        winner = tl.full((BLOCK_X,), -1, tl.int32)
        for start in range(0, num_queries, BLOCK_Q):
            query = start + tl.arange(0, BLOCK_Q)
            query_valid = query < num_queries
            values = tl.zeros((BLOCK_X, BLOCK_Q), tl.float32)
            for cell_start in range(first, last, BLOCK_C):
                cell = cell_start + tl.arange(0, BLOCK_C)
                column = tl.load(column_cells + cell, mask=cell < last, other=0)
                tile = tl.zeros((BLOCK_C, BLOCK_Q), tl.float32)
                for tap in range(row_taps):
                    weight = tl.load(row_weight + y * row_taps + tap)
                    if weight != 0.0:
                        row = tl.load(row_cells + tl.load(row_rank + y * row_taps + tap))
                        patch = (row + column).to(tl.int64)
                        address = logits + patch[:, None] * num_queries + query[None, :]
                        valid = (cell < last)[:, None] & query_valid[None, :]
                        tile += weight * tl.load(address, mask=valid, other=0.0).to(tl.float32)
                band = tl.zeros((BLOCK_X, BLOCK_C), tl.float32)
                for tap in range(column_taps):
                    index = tl.load(column_rank + x * column_taps + tap, mask=x_valid, other=0)
                    share = tl.load(column_weight + x * column_taps + tap, mask=x_valid, other=0.0)
                    band += tl.where(index[:, None] == cell[None, :], share[:, None], 0.0)
                values = tl.dot(band, tile, values, input_precision="ieee")
            values = tl.where(query_valid[None, :], values * logit_scale, float("-inf"))
            if SOFT:
                peak = tl.maximum(highest, tl.max(values, axis=1))
                total = total * tl.exp(highest - peak) + tl.sum(tl.exp(values - peak[:, None]), axis=1)
                highest = peak
            if MASKED:
                keep = tl.load(query_keep + query, mask=query_valid, other=0)
                values = tl.where((keep != 0)[None, :], values, float("-inf"))
            value, index = tl.max(values, axis=1, return_indices=True)
            better = value > best
            winner = tl.where(better, start + index, winner)
            best = tl.where(better, value, best)
        label = tl.load(query_class + winner, mask=winner >= 0, other=0)
        label = tl.where(winner >= 0, label, unlabelled)
        place = tl.cast(y, tl.int64) * width + x
        if SOFT:
            probability = tl.exp(best - highest) / total
            label = tl.where(probability < prob_threshold, fallback, label)
            tl.store(confidence + place, probability, mask=x_valid)
        tl.store(labels + place, label.to(labels.dtype.element_ty), mask=x_valid)


@triton.jit
def _count_kernel(labels, counts, num_pixels, num_classes, BLOCK: tl.constexpr, CLASSES: tl.constexpr):
    """Add to counts (num_classes,) int32 how often each label occurs among labels (num_pixels,)."""
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    first = tl.program_id(1) * CLASSES
    label = tl.load(labels + pixel, mask=pixel < num_pixels, other=0).to(tl.int32) - first
    inside = (pixel < num_pixels) & (label >= 0) & (label < CLASSES) & (label + first < num_classes)
    histogram = tl.histogram(tl.where(inside, label, 0), CLASSES, mask=inside)
    lane = tl.arange(0, CLASSES)
    tl.atomic_add(counts + first + lane, histogram, mask=(histogram > 0) & (first + lane < num_classes))


@triton.jit
def _keep_kernel(
    counts, area_threshold, query_class, query_keep, num_queries, num_classes, background, BLOCK: tl.constexpr
):
    """query_keep[q] = 1 if the class of q is the background or has more than its share of the foreground.

    counts (num_classes,) int32; area_threshold (1,) float64; background: its class, or -1.
    """
    total = tl.zeros((BLOCK,), tl.int64)
    for start in range(0, num_classes, BLOCK):
        index = start + tl.arange(0, BLOCK)
        count = tl.load(counts + index, mask=(index < num_classes) & (index != background), other=0)
        total += count.to(tl.int64)
    limit = tl.load(area_threshold) * tl.sum(total).to(tl.float64)
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    label = tl.load(query_class + query, mask=query < num_queries, other=0)
    count = tl.load(counts + label, mask=query < num_queries, other=0)
    keep = (count.to(tl.float64) > limit) | (label == background)
    tl.store(query_keep + query, keep.to(tl.uint8), mask=query < num_queries)


@triton_op("scclip::decode", mutates_args={})
def _decode(
    logits: Tensor,
    row_rank: Tensor,
    row_weight: Tensor,
    row_cells: Tensor,
    column_rank: Tensor,
    column_weight: Tensor,
    column_cells: Tensor,
    query_class: Tensor,
    num_classes: int,
    logit_scale: float,
    prob_threshold: float,
    area_threshold: float,
    background: int,
    soft: bool,
) -> tuple[Tensor, Tensor]:
    height, width = row_rank.shape[0], column_rank.shape[0]
    num_queries = logits.shape[-1]
    dtype, unlabelled = (torch.uint8, 255) if num_classes <= 254 else (torch.uint16, 65535)
    labels = torch.empty((height, width), dtype=dtype, device=logits.device)
    confidence = torch.empty((height, width) if soft else (0, 0), dtype=torch.float32, device=logits.device)
    keep = torch.ones(num_queries, dtype=torch.uint8, device=logits.device)
    fallback = unlabelled if background < 0 else background
    grid = (triton.cdiv(width, BLOCK_X), triton.cdiv(height, BLOCK_Y))
    removes = area_threshold > 0
    for masked in (False, True) if removes else (False,):
        last = masked or not removes
        wrap_triton(_decode_kernel)[grid](
            logits, row_rank, row_weight, row_cells, column_rank, column_weight, column_cells, query_class,
            keep, labels, confidence, height, width, num_queries, row_rank.shape[1], column_rank.shape[1],
            unlabelled, fallback, logit_scale, prob_threshold if last else 0.0, SOFT=soft and last,
            MASKED=masked, BLOCK_X=BLOCK_X, BLOCK_Y=BLOCK_Y, BLOCK_Q=BLOCK_Q, BLOCK_C=BLOCK_C,
        )  # fmt: skip
        if not last:
            counts = torch.zeros(num_classes, dtype=torch.int32, device=logits.device)
            blocks = (triton.cdiv(height * width, COUNT_BLOCK), triton.cdiv(num_classes, COUNT_CLASSES))
            wrap_triton(_count_kernel)[blocks](
                labels, counts, height * width, num_classes, BLOCK=COUNT_BLOCK, CLASSES=COUNT_CLASSES
            )
            share = torch.full((1,), area_threshold, dtype=torch.float64, device=logits.device)
            wrap_triton(_keep_kernel)[(triton.cdiv(num_queries, KEEP_BLOCK),)](
                counts, share, query_class, keep, num_queries, num_classes, background, BLOCK=KEEP_BLOCK
            )
    return labels, confidence


def decode(
    logits: Tensor,
    rows: AxisTables,
    columns: AxisTables,
    *,
    query_class: Tensor,
    num_classes: int,
    logit_scale: float = 40.0,
    prob_threshold: float = 0.0,
    area_threshold: float = 0.0,
    background: int | None = None,
    with_confidence: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Label every pixel of one image, on the device.

    Args:
        logits: (windows, N, Q) cosines, fp32, fp16 or bf16.
        rows: of `scclip_rt._sparse_axis.sparse_plan`.
        columns: the same.
        query_class: (Q,) int32, class of each query; all below `num_classes`.
        num_classes: at most 65,534.
        logit_scale: factor on the cosines before the soft-max.
        prob_threshold: see `scclip_rt.decode.decode`, as for the next two.
        area_threshold: 0 removes no class.
        background: a class or None.
        with_confidence: also return the probability of the best query.

    Returns:
        labels (H, W) uint8, or uint16 above 254 classes; confidence (H, W) float32 or None.

    Raises:
        ValueError: shapes, dtypes or devices don't fit.
    """
    _check(logits, rows, columns, query_class, num_classes)
    soft = with_confidence or prob_threshold > 0
    with on_device_of(logits):
        labels, confidence = _decode(
            logits.contiguous(), *rows, *columns, query_class.contiguous(), num_classes, float(logit_scale),
            float(prob_threshold), float(area_threshold), -1 if background is None else background, soft,
        )  # fmt: skip
    return labels, confidence if with_confidence else None


def decode_reference(
    logits: Tensor,
    rows: AxisTables,
    columns: AxisTables,
    *,
    query_class: Tensor,
    num_classes: int,
    logit_scale: float = 40.0,
    prob_threshold: float = 0.0,
    area_threshold: float = 0.0,
    background: int | None = None,
    with_confidence: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The same in plain torch, with a (H, W, Q) tensor; float64 throughout if the logits are, else float32."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    patches = logits.flatten(0, 1).to(dtype)[rows.cells.long()[:, None] + columns.cells.long()[None, :]]
    across = torch.einsum("xb,abq->xaq", columns.matrix().to(dtype), patches)
    values = torch.einsum("ya,xaq->yxq", rows.matrix().to(dtype), across) * logit_scale
    probabilities, classes = values.softmax(dim=-1), query_class.long()
    unlabelled = 255 if num_classes <= 254 else 65535
    labels = classes[values.argmax(dim=-1)]
    confidence = probabilities.amax(dim=-1)
    if area_threshold > 0:
        counts = torch.bincount(labels.flatten(), minlength=num_classes).double()
        if background is not None:
            counts[background] = 0
        removed = counts <= area_threshold * counts.sum()
        if background is not None:
            removed[background] = False
        left_out = removed[classes]
        labels = classes[values.masked_fill(left_out, float("-inf")).argmax(dim=-1)]
        labels = torch.full_like(labels, unlabelled) if bool(left_out.all()) else labels
        confidence = probabilities.masked_fill(left_out, 0.0).amax(dim=-1)
    fallback = unlabelled if background is None else background
    if prob_threshold > 0:
        labels = torch.where(confidence < prob_threshold, fallback, labels)
    labels = labels.to(torch.uint8 if num_classes <= 254 else torch.uint16)
    return labels, confidence.float() if with_confidence else None


def _check(
    logits: Tensor, rows: AxisTables, columns: AxisTables, query_class: Tensor, num_classes: int
) -> None:
    check_tensors("decode", _decode_kernel, logits=logits)
    check_shape("decode", "logits", logits, (None, None, None))
    check_shape("decode", "query_class", query_class, (logits.shape[-1],))
    if not 1 <= num_classes <= 65534:
        raise ValueError(f"decode: labels hold 1 to 65,534 classes; got {num_classes:,}")
    for name, tables in (("rows", rows), ("columns", columns)):
        if tables.rank.shape != tables.weight.shape or tables.rank.dim() != 2:
            raise ValueError(
                f"decode: {name}.rank and {name}.weight must both be (length, taps); got "
                f"{tuple(tables.rank.shape)} and {tuple(tables.weight.shape)}"
            )
    integers = {"query_class": query_class, "rows.rank": rows.rank, "rows.cells": rows.cells}
    for name, tensor in (integers | {"columns.rank": columns.rank, "columns.cells": columns.cells}).items():
        if tensor.dtype != torch.int32 or tensor.device != logits.device:
            raise ValueError(
                f"decode: {name} must be int32 on {logits.device}; got {tensor.dtype} on {tensor.device}"
            )
    if len(rows.cells) * len(columns.cells) != logits.shape[0] * logits.shape[1]:
        raise ValueError(
            f"decode: the tables are for {len(rows.cells)}×{len(columns.cells)} patches; the logits have "
            f"{logits.shape[0]} windows of {logits.shape[1]}"
        )

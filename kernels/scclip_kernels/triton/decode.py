"""Decode: the window logits of one image to its label map, without a (queries, H, W) tensor (METHOD §4).

    v_q(y, x) = scale · sum_{a, b} R[y, a] C[x, b] logit_q[a, b]
    label     = class of argmax_q v_q;  confidence = exp(max_q v_q - logsumexp_q v_q)

R and C are sparse: a pixel reads two to nine cells per axis, and its neighbours read the same ones. Two kernels:

1. For a strip of columns, every row of cells and every query, the columns' cells are combined: S[q, a, x] = Σ_b C[x, b]
   logit_q[a, b]. That is smaller than (queries, H, W) by the zoom along y, and the strips have a bound: STRIP_BYTES.
2. A lane has a few rows of pixels of one column. It reads the few cells of S that these need once per query, has their
   weights in registers, and reduces over queries as it goes; loads are contiguous along x, and none waits for another.

Equal values go to the lower query, as in `scclip_rt.decode.decode`; a value that is no number wins nowhere. The area
rule is the second kernel run twice: pixels are counted per class in between, and the second run leaves out the queries
of small classes.
"""

from typing import Any, NamedTuple, Protocol

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from scclip_kernels.triton.areas import COUNT_BLOCK, COUNT_CLASSES, KEEP_BLOCK, _count_kernel, _keep_kernel
from scclip_kernels.triton.launch import check_shape, check_tensors, on_device_of, wrap_triton

BLOCK_X = 32
BLOCK_Q = 32
# SLICES: warps that share the queries of a pixel; FEW, MANY: cells whose weights stay in registers. From one H100, a
# 375×500 photo with 20, 150 and 1,000 queries.
ROWS = {"BLOCK_X": BLOCK_X, "BLOCK_Y": 4, "SLICES": 4, "FEW": 3, "MANY": 6, "UNROLL": 4}
COLUMN_WARPS = 1
STRIP_BYTES = 64 << 20


class DecodeSettings(Protocol):
    """What is read of `scclip_rt.decode.settings.DecodeSettings`: one description of a decode, on host and device."""

    @property
    def num_classes(self) -> int: ...  # noqa: D102
    @property
    def logit_scale(self) -> float: ...  # noqa: D102
    @property
    def prob_threshold(self) -> float: ...  # noqa: D102
    @property
    def area_threshold(self) -> float: ...  # noqa: D102
    @property
    def background(self) -> int | None: ...  # noqa: D102
    @property
    def with_confidence(self) -> bool: ...  # noqa: D102
    @property
    def soft(self) -> bool: ...  # noqa: D102


class AxisTables(NamedTuple):
    """One axis of the decode on the device: the arrays of `scclip_rt.decode.bands.BandAxis` as tensors.

    Attributes:
        span: (blocks, 2) int32.
        band: (blocks, most cells of a block, pixels of a block) float32.
        cells: (cells,) int32.
        length: output pixels.
    """

    span: Tensor
    band: Tensor
    cells: Tensor
    length: int

    @classmethod
    def of(cls, axis: Any, device: torch.device | str) -> "AxisTables":
        """Upload a `BandAxis`."""
        span, band, cells = (torch.from_numpy(part).to(device) for part in (axis.span, axis.band, axis.cells))
        return cls(span, band, cells, axis.length)

    def matrix(self) -> Tensor:
        """Dense (length, cells) float64, cells by place."""
        blocks, reach, block = self.band.shape
        place = (self.span[:, :1].long() + torch.arange(reach, device=self.band.device)).clamp(
            max=len(self.cells) - 1
        )
        dense = torch.zeros(blocks, len(self.cells), block, dtype=torch.float64, device=self.band.device)
        dense.scatter_add_(1, place[..., None].expand(-1, -1, block), self.band.double())
        return dense.transpose(1, 2).flatten(0, 1)[: self.length]


@triton.jit
def _decode_columns_kernel(
    logits, row_cells, column_span, column_band, column_cells, strip,
    first_block, num_blocks, num_cells, num_queries, band_cells, logit_scale,
    BLOCK_X: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """strip[i, q, a, x] = scale * sum_b C[x, b] logit_q[a, b]: BLOCK_Q queries of a block of columns, one row of cells.

    logits (patches, num_queries) float; tables as `scclip_rt.decode.bands.BandAxis` with num_blocks blocks of BLOCK_X;
    strip (blocks, num_queries, num_cells, BLOCK_X) float32, of which the first is block `first_block` of the image.
    """
    index = tl.program_id(1)
    block = first_block + index
    cell = tl.program_id(0) % num_cells
    query = tl.program_id(0) // num_cells * BLOCK_Q + tl.arange(0, BLOCK_Q)
    query_valid = query < num_queries
    inside = block < num_blocks  # the last strip may be cut short
    first = tl.load(column_span + 2 * block, mask=inside, other=0)
    count = tl.load(column_span + 2 * block + 1, mask=inside, other=0)
    row = tl.load(row_cells + cell)
    lane = tl.arange(0, BLOCK_X)
    weights = column_band + block.to(tl.int64) * band_cells * BLOCK_X + lane
    values = tl.zeros((BLOCK_Q, BLOCK_X), tl.float32)
    for start in range(0, count, 4):
        for step in tl.static_range(4):
            used = start + step < count
            patch = (row + tl.load(column_cells + first + start + step, mask=used, other=0)).to(tl.int64)
            weight = tl.load(weights + (start + step) * BLOCK_X, mask=used & (lane >= 0), other=0.0)
            logit = tl.load(logits + patch * num_queries + query, mask=query_valid & used, other=0.0)
            values += logit.to(tl.float32)[:, None] * weight[None, :]
    values *= tl.cast(logit_scale, tl.float32)  # torch.compile passes Python's floats as float64
    line = (index.to(tl.int64) * num_queries + query) * num_cells + cell
    tl.store(strip + line[:, None] * BLOCK_X + lane[None, :], values, mask=query_valid[:, None])


@triton.jit
def _best_queries(
    strip, weights, query_keep, slice_of, count, num_cells, num_queries,
    SOFT: tl.constexpr, MASKED: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr,
    SLICES: tl.constexpr, LANES: tl.constexpr, CELLS: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Best query of each lane's share of them for BLOCK_Y rows: (best, winner, highest of all, sum of exponentials).

    `strip` points to each lane's column in the first of `count` rows of cells, `weights` to that row's. With CELLS > 0
    at most so many cells are read, and their weights stay in registers.
    """
    best = tl.full((BLOCK_Y, LANES), float("-inf"), tl.float32)
    winner = tl.full((BLOCK_Y, LANES), -1, tl.int32)
    highest = tl.full((BLOCK_Y, LANES), -3.0e38, tl.float32)  # finite: a difference to it is a number
    total = tl.zeros((BLOCK_Y, LANES), tl.float32)
    lines = tl.arange(0, BLOCK_Y)
    stride = num_cells * BLOCK_X
    held = ()
    for cell in tl.static_range(CELLS):
        weight = tl.load(weights + cell * BLOCK_Y + lines, mask=(lines >= 0) & (cell < count), other=0.0)
        held = held + (weight,)  # type: ignore[assignment]  # noqa: RUF005 (Triton unpacks no tuples)
    for start in tl.range(0, num_queries, SLICES, loop_unroll_factor=UNROLL):
        query = tl.minimum(start + slice_of, num_queries - 1)  # the last one again changes no arg-max
        source = strip + query.to(tl.int64) * stride
        values = tl.zeros((BLOCK_Y, LANES), tl.float32)
        if CELLS > 0:
            for cell in tl.static_range(CELLS):
                value = tl.load(source + cell * BLOCK_X, mask=(slice_of >= 0) & (cell < count), other=0.0)
                values += held[cell][:, None] * value[None, :]
        else:
            for cell in range(count):
                weight = tl.load(weights + cell * BLOCK_Y + lines)
                values += weight[:, None] * tl.load(source + cell * BLOCK_X)[None, :]
        if SOFT:
            counted = tl.where((start + slice_of < num_queries)[None, :], values, float("-inf"))
            difference = counted - highest
            fraction = tl.exp(-tl.abs(difference))
            total = tl.where(difference > 0, total * fraction + 1.0, total + fraction)
            highest = tl.maximum(highest, counted)
        if MASKED:
            keep = tl.load(query_keep + query)
            values = tl.where((keep != 0)[None, :], values, float("-inf"))
        better = values > best
        winner = tl.where(better, query[None, :], winner)
        best = tl.where(better, values, best)
    return best, winner, highest, total


@triton.jit
def _decode_rows_kernel(
    strip, row_span, row_band, query_class, query_keep, labels, confidence,
    first_block, height, width, num_cells, num_queries, band_cells, unlabelled, fallback, prob_threshold,
    SOFT: tl.constexpr, MASKED: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr,
    SLICES: tl.constexpr, FEW: tl.constexpr, MANY: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Label BLOCK_Y rows of BLOCK_X columns of a strip: v_q(y, x) = sum_a R[y, a] strip[i, q, a, x].

    A lane holds BLOCK_Y pixels of one column and takes every SLICES-th query. strip as `_decode_columns_kernel` writes
    it; row tables as `BandAxis` with blocks of BLOCK_Y; query_class (num_queries,) int32; query_keep (num_queries,)
    uint8, read if MASKED: 0 leaves a query out of the arg-max, not out of the soft-max; labels (height, width) uint8 or
    uint16; confidence (height, width) float32, written if SOFT. Pixels below prob_threshold (SOFT) get `fallback`,
    pixels without any query `unlabelled`.
    """
    LANES: tl.constexpr = SLICES * BLOCK_X
    lane = tl.arange(0, LANES)
    block = tl.program_id(1)
    first = tl.load(row_span + 2 * block)
    count = tl.load(row_span + 2 * block + 1)
    line = tl.program_id(0).to(tl.int64) * num_queries * num_cells + first
    source = strip + line * BLOCK_X + lane % BLOCK_X
    weights = row_band + block.to(tl.int64) * band_cells * BLOCK_Y
    slice_of = lane // BLOCK_X
    if count <= FEW:
        best, winner, highest, total = _best_queries(
            source, weights, query_keep, slice_of, count, num_cells, num_queries,
            SOFT, MASKED, BLOCK_X, BLOCK_Y, SLICES, LANES, FEW, UNROLL,
        )  # fmt: skip
    elif count <= MANY:
        best, winner, highest, total = _best_queries(
            source, weights, query_keep, slice_of, count, num_cells, num_queries,
            SOFT, MASKED, BLOCK_X, BLOCK_Y, SLICES, LANES, MANY, UNROLL,
        )  # fmt: skip
    else:
        best, winner, highest, total = _best_queries(
            source, weights, query_keep, slice_of, count, num_cells, num_queries,
            SOFT, MASKED, BLOCK_X, BLOCK_Y, SLICES, LANES, 0, 1,
        )  # fmt: skip
    best = tl.reshape(best, (BLOCK_Y, SLICES, BLOCK_X))
    winner = tl.reshape(winner, (BLOCK_Y, SLICES, BLOCK_X))
    top = tl.max(best, axis=1)
    among = (best == top[:, None, :]) & (winner >= 0)
    chosen = tl.min(tl.where(among, winner, 2147483647), axis=1)
    found = chosen < 2147483647
    label = tl.load(query_class + chosen, mask=found, other=0)
    label = tl.where(found, label, unlabelled)
    y = block * BLOCK_Y + tl.arange(0, BLOCK_Y)
    x = (first_block + tl.program_id(0)) * BLOCK_X + tl.arange(0, BLOCK_X)
    place = y.to(tl.int64)[:, None] * width + x[None, :]
    valid = (y < height)[:, None] & (x < width)[None, :]
    if SOFT:
        highest = tl.reshape(highest, (BLOCK_Y, SLICES, BLOCK_X))
        total = tl.reshape(total, (BLOCK_Y, SLICES, BLOCK_X))
        peak = tl.max(highest, axis=1)
        total = tl.sum(total * tl.exp(highest - peak[:, None, :]), axis=1)
        probability = tl.exp(top - peak) / total
        label = tl.where(probability < tl.cast(prob_threshold, tl.float32), fallback, label)
        tl.store(confidence + place, probability, mask=valid)
    tl.store(labels + place, label.to(labels.dtype.element_ty), mask=valid)


@triton_op("scclip::decode", mutates_args={})
def _decode(
    logits: Tensor,
    row_span: Tensor,
    row_band: Tensor,
    row_cells: Tensor,
    height: int,
    column_span: Tensor,
    column_band: Tensor,
    column_cells: Tensor,
    width: int,
    query_class: Tensor,
    num_classes: int,
    logit_scale: float,
    prob_threshold: float,
    area_threshold: float,
    background: int,
    soft: bool,
) -> tuple[Tensor, Tensor]:
    num_queries, num_cells = logits.shape[-1], row_cells.shape[0]
    dtype, unlabelled = (torch.uint8, 255) if num_classes <= 254 else (torch.uint16, 65535)
    labels = torch.empty((height, width), dtype=dtype, device=logits.device)
    confidence = torch.empty((height, width) if soft else (0, 0), dtype=torch.float32, device=logits.device)
    keep = torch.ones(num_queries, dtype=torch.uint8, device=logits.device)
    fallback = unlabelled if background < 0 else background
    num_blocks = column_span.shape[0]
    across = blocks_per_strip(num_blocks, num_cells * num_queries)
    strip = torch.empty((across, num_queries, num_cells, BLOCK_X), dtype=torch.float32, device=logits.device)
    removes = area_threshold > 0
    for masked in (False, True) if removes else (False,):
        last = masked or not removes
        for first in range(0, num_blocks, across):
            if not masked or across < num_blocks:  # else the strip is still there
                wrap_triton(_decode_columns_kernel)[(num_cells * triton.cdiv(num_queries, BLOCK_Q), across)](
                    logits, row_cells, column_span, column_band, column_cells, strip, first, num_blocks, num_cells,
                    num_queries, column_band.shape[1], logit_scale, BLOCK_X=BLOCK_X, BLOCK_Q=BLOCK_Q,
                    num_warps=COLUMN_WARPS,
                )  # fmt: skip
            wrap_triton(_decode_rows_kernel)[(across, row_span.shape[0])](
                strip, row_span, row_band, query_class, keep, labels, confidence, first, height, width, num_cells,
                num_queries, row_band.shape[1], unlabelled, fallback, prob_threshold if last else 0.0,
                SOFT=soft and last, MASKED=masked, **ROWS,
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


def blocks_per_strip(num_blocks: int, lines: int) -> int:
    """Blocks of BLOCK_X columns that are decoded at a time: of `lines` × BLOCK_X float32 each, STRIP_BYTES in all."""
    strips = triton.cdiv(num_blocks, max(STRIP_BYTES // (4 * BLOCK_X * lines), 1))
    return triton.cdiv(num_blocks, strips)


def decode(
    logits: Tensor,
    rows: AxisTables,
    columns: AxisTables,
    query_class: Tensor,
    settings: DecodeSettings,
) -> tuple[Tensor, Tensor | None]:
    """Label every pixel of one image, on the device.

    Args:
        logits: (windows, N, Q) cosines, fp32, fp16 or bf16.
        rows: of `scclip_rt.decode.bands.band_plan` with blocks of BLOCK_Y and BLOCK_X.
        columns: the same.
        query_class: (Q,) int32 on the device, class of each query; all below `num_classes`.
        settings: number of classes (at most 65,534), scale and thresholds; its classes of the queries are not read.

    Returns:
        labels (H, W) uint8, or uint16 above 254 classes; confidence (H, W) float32 or None.

    Raises:
        ValueError: shapes, dtypes or devices don't fit.
    """
    _check(logits, rows, columns, query_class, settings.num_classes)
    background = -1 if settings.background is None else settings.background
    with on_device_of(logits):
        labels, confidence = _decode(
            logits.contiguous(), *rows, *columns, query_class.contiguous(), settings.num_classes,
            float(settings.logit_scale), float(settings.prob_threshold), float(settings.area_threshold),
            background, settings.soft,
        )  # fmt: skip
    return labels, confidence if settings.with_confidence else None


def decode_reference(
    logits: Tensor,
    rows: AxisTables,
    columns: AxisTables,
    query_class: Tensor,
    settings: DecodeSettings,
) -> tuple[Tensor, Tensor | None]:
    """The same in plain torch, with a (H, W, Q) tensor; float64 throughout if the logits are, else float32."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    patches = logits.flatten(0, 1).to(dtype)[rows.cells.long()[:, None] + columns.cells.long()[None, :]]
    across = torch.einsum("xb,abq->xaq", columns.matrix().to(dtype), patches)
    values = torch.einsum("ya,xaq->yxq", rows.matrix().to(dtype), across) * settings.logit_scale
    probabilities, classes = values.softmax(dim=-1), query_class.long()
    unlabelled = 255 if settings.num_classes <= 254 else 65535
    labels = classes[values.argmax(dim=-1)]
    confidence = probabilities.amax(dim=-1)
    if settings.area_threshold > 0:
        counts = torch.bincount(labels.flatten(), minlength=settings.num_classes).double()
        if settings.background is not None:
            counts[settings.background] = 0
        removed = counts <= settings.area_threshold * counts.sum()
        if settings.background is not None:
            removed[settings.background] = False
        left_out = removed[classes]
        labels = classes[values.masked_fill(left_out, float("-inf")).argmax(dim=-1)]
        labels = torch.full_like(labels, unlabelled) if bool(left_out.all()) else labels
        confidence = probabilities.masked_fill(left_out, 0.0).amax(dim=-1)
    fallback = unlabelled if settings.background is None else settings.background
    if settings.prob_threshold > 0:
        labels = torch.where(confidence < settings.prob_threshold, fallback, labels)
    labels = labels.to(torch.uint8 if settings.num_classes <= 254 else torch.uint16)
    return labels, confidence.float() if settings.with_confidence else None


def _check(
    logits: Tensor, rows: AxisTables, columns: AxisTables, query_class: Tensor, num_classes: int
) -> None:
    check_tensors("decode", _decode_rows_kernel, logits=logits)
    check_shape("decode", "logits", logits, (None, None, None))
    check_shape("decode", "query_class", query_class, (logits.shape[-1],))
    if not 1 <= num_classes <= 65534:
        raise ValueError(f"decode: labels hold 1 to 65,534 classes; got {num_classes:,}")
    for name, tables, block in (("rows", rows, ROWS["BLOCK_Y"]), ("columns", columns, BLOCK_X)):
        check_shape("decode", f"{name}.band", tables.band, (triton.cdiv(tables.length, block), None, block))
        check_shape("decode", f"{name}.span", tables.span, (len(tables.band), 2))
    integers = {"query_class": query_class, "rows.span": rows.span, "rows.cells": rows.cells}
    for name, tensor in (integers | {"columns.span": columns.span, "columns.cells": columns.cells}).items():
        if tensor.dtype != torch.int32 or tensor.device != logits.device:
            raise ValueError(
                f"decode: {name} must be int32 on {logits.device}; got {tensor.dtype} on {tensor.device}"
            )
    if len(rows.cells) * len(columns.cells) != logits.shape[0] * logits.shape[1]:
        raise ValueError(
            f"decode: the tables are for {len(rows.cells)}×{len(columns.cells)} patches; the logits have "
            f"{logits.shape[0]} windows of {logits.shape[1]}"
        )

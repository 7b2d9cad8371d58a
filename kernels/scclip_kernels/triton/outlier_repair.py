"""Outlier repair in one launch behind the scores: the m highest of a window are found and repaired.

    outlier_i = (number of j with score_j > score_i, or equal and j < i) < m
    y_i       = mean of the sound 8-neighbours of an outlier that has any, else x_i

Every program copies its own patches as they lie, except the outliers among them: one in twenty, so what they cost
hardly counts. Ranks are counted from the scores, so no list of outliers is written.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from scclip_kernels.anomaly import outlier_indices
from scclip_kernels.outlier_repair import neighbor_weights, repair
from scclip_kernels.triton.launch import check_shape, check_tensors, on_device_of, wrap_triton

BLOCK_M = 8
BLOCK_N = 64
BLOCK_D = 256


@triton.jit
def _are_outliers(scores, place, valid, num_patches, num_outliers, BLOCK_N: tl.constexpr):
    """Whether the patches at `place` (R,) are among the `num_outliers` of highest score; False where not `valid`."""
    score = tl.load(scores + place, mask=valid, other=float("-inf"))
    rank = tl.zeros_like(place)
    for start in range(0, num_patches, BLOCK_N):
        other = start + tl.arange(0, BLOCK_N)
        rival = tl.load(scores + other, mask=other < num_patches, other=float("-inf"))[None, :]
        earlier = (rival == score[:, None]) & (other[None, :] < place[:, None])
        ahead = ((rival > score[:, None]) | earlier) & (other < num_patches)[None, :]
        rank += tl.sum(ahead.to(tl.int32), axis=1)
    return valid & (rank < num_outliers)


@triton.jit
def _repair_kernel(
    patches, guide, scores, out_patches, out_guide,
    num_patches, width, columns, num_outliers,
    patches_b, patches_n, patches_d, guide_b, guide_n, guide_d,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Repair BLOCK_M patches of one window in both tensors.

    patches, guide (B, N, D); scores (B, N) fp32; out_patches, out_guide (B, N, D) contiguous.
    """
    window = tl.program_id(1).to(tl.int64)
    scores += window * num_patches
    patches += window * patches_b
    guide += window * guide_b
    out_patches += window * num_patches * width
    out_guide += window * num_patches * width
    own = tl.arange(0, BLOCK_M)
    row = tl.program_id(0) * BLOCK_M + own
    row_valid = row < num_patches
    outlier = _are_outliers(scores, row, row_valid, num_patches, num_outliers, BLOCK_N)
    copied = row_valid & ~outlier
    for start in range(0, width, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        mask = copied[:, None] & (d < width)[None, :]
        place = row[:, None] * width + d[None, :]
        x = tl.load(patches + row[:, None] * patches_n + d[None, :] * patches_d, mask=mask)
        tl.store(out_patches + place, x, mask=mask)
        x = tl.load(guide + row[:, None] * guide_n + d[None, :] * guide_d, mask=mask)
        tl.store(out_guide + place, x, mask=mask)
    for m in range(BLOCK_M):
        if tl.sum(((own == m) & outlier).to(tl.int32)) > 0:
            patch = tl.program_id(0) * BLOCK_M + m
            # Nine of sixteen lanes: the 3 × 3 patches around it, itself in the middle.
            lane = tl.arange(0, 16)
            grid_row = patch // columns + lane // 3 - 1
            grid_column = patch % columns + lane % 3 - 1
            around = grid_row * columns + grid_column
            inside = (lane < 9) & (grid_row >= 0) & (grid_column >= 0) & (grid_column < columns)
            inside = inside & (around < num_patches)
            sound = inside & ~_are_outliers(scores, around, inside, num_patches, num_outliers, BLOCK_N)
            count = tl.sum(sound.to(tl.int32))
            taken = tl.where(count > 0, sound, lane == 4)
            total = tl.maximum(count, 1).to(tl.float32)
            for start in range(0, width, BLOCK_D):
                d = start + tl.arange(0, BLOCK_D)
                valid = d < width
                mask = taken[:, None] & valid[None, :]
                place = patch * width + d
                x = tl.load(
                    patches + around[:, None] * patches_n + d[None, :] * patches_d, mask=mask, other=0.0
                )
                x = tl.sum(x.to(tl.float32), axis=0) / total
                tl.store(out_patches + place, x.to(out_patches.dtype.element_ty), mask=valid)
                x = tl.load(guide + around[:, None] * guide_n + d[None, :] * guide_d, mask=mask, other=0.0)
                x = tl.sum(x.to(tl.float32), axis=0) / total
                tl.store(out_guide + place, x.to(out_guide.dtype.element_ty), mask=valid)


@triton_op("scclip::repair_outliers", mutates_args={})
def _repair_outliers(
    patches: Tensor, guide: Tensor, scores: Tensor, num_outliers: int, columns: int
) -> tuple[Tensor, Tensor]:
    batch, num_patches, width = patches.shape
    out_patches = torch.empty(patches.shape, dtype=patches.dtype, device=patches.device)
    out_guide = torch.empty(guide.shape, dtype=guide.dtype, device=guide.device)
    wrap_triton(_repair_kernel)[(triton.cdiv(num_patches, BLOCK_M), batch)](
        patches, guide, scores, out_patches, out_guide, num_patches, width, columns, num_outliers,
        *patches.stride(), *guide.stride(),
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_D=BLOCK_D,
    )  # fmt: skip
    return out_patches, out_guide


def repair_outliers(
    patches: Tensor, guide: Tensor, scores: Tensor, *, num_outliers: int, columns: int
) -> tuple[Tensor, Tensor]:
    """Replace the patches of highest score by the mean of their sound neighbours, in two tensors alike.

    Args:
        patches: (B, N, D), fp32, fp16 or bf16, any strides.
        guide: (B, N, D), the same.
        scores: (B, N) float32, see `anomaly_scores`; of equal ones the lower index is the outlier.
        num_outliers: m, see `scclip_kernels.num_outliers`.
        columns: columns of the patch grid; divides N.

    Returns:
        Both, repaired, contiguous, in their dtypes; sound patches are copied.

    Raises:
        ValueError: shapes, dtypes or devices don't fit.
    """
    check_tensors("repair_outliers", _repair_kernel, patches=patches, guide=guide, scores=scores)
    check_shape("repair_outliers", "patches", patches, (None, None, None))
    check_shape("repair_outliers", "guide", guide, tuple(patches.shape))
    check_shape("repair_outliers", "scores", scores, tuple(patches.shape[:2]))
    if columns < 1 or patches.shape[1] % columns:
        raise ValueError(f"repair_outliers: {patches.shape[1]} patches don't make rows of {columns}")
    with on_device_of(patches):
        return _repair_outliers(patches, guide, scores.float().contiguous(), num_outliers, columns)


def repair_outliers_reference(
    patches: Tensor, guide: Tensor, scores: Tensor, *, num_outliers: int, columns: int
) -> tuple[Tensor, Tensor]:
    """The same in plain torch; among equal scores its choice of outliers is torch.topk's."""
    outliers = outlier_indices(scores, num_outliers)
    weights = neighbor_weights(outliers, patches.shape[1], columns)
    return repair(patches, outliers, weights), repair(guide, outliers, weights)

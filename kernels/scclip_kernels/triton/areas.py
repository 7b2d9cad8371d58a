"""The decode's area rule (METHOD §4): pixels counted per class, queries of small classes marked."""

import triton
import triton.language as tl

COUNT_BLOCK = 4096
COUNT_CLASSES = 256
KEEP_BLOCK = 1024


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

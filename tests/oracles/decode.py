"""Decoding written naively, as the method states it, in float64: what the fast form is held against."""

import numpy as np
import torch
from torch.nn import functional

from scclip_rt.decode.plan import decode_plan, label_type
from scclip_rt.image.geometry import Tiling


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    rows = rng.standard_normal(shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def naive_map(features, text, tiling: Tiling, grid, shape) -> np.ndarray:
    """Cosines of every query at every pixel, (Q, H, W) float64."""
    logits = torch.from_numpy(features).double() @ torch.from_numpy(text).double().T
    patches = logits.transpose(1, 2).reshape(len(features), len(text), *grid)
    windows = functional.interpolate(patches, size=tiling.window, mode="bilinear")
    total = torch.zeros(len(text), tiling.height, tiling.width, dtype=torch.float64)
    count = torch.zeros(tiling.height, tiling.width, dtype=torch.float64)
    index = 0
    for top in tiling.rows:
        for left in tiling.columns:
            place = np.s_[..., top : top + tiling.window[0], left : left + tiling.window[1]]
            total[place] += windows[index]
            count[place] += 1
            index += 1
    return functional.interpolate((total / count)[None], size=shape, mode="bilinear")[0].numpy()


def naive_labels(maps, query_class, num_classes, scale, prob_threshold, area_threshold, background):
    """The rule written with probabilities of classes; also the relative gap to the runner-up, and the confidence."""
    logits = maps * scale
    queries = np.exp(logits - logits.max(0))
    queries /= queries.sum(0)
    classes = np.stack([queries[np.asarray(query_class) == c].max(0) for c in range(num_classes)])
    if area_threshold > 0:
        counts = np.bincount(classes.argmax(0).ravel(), minlength=num_classes)
        foreground = np.arange(num_classes) != (-1 if background is None else background)
        removed = foreground & (counts <= area_threshold * counts[foreground].sum())
        classes[removed] = 0
    labels = classes.argmax(0)
    best = classes.max(0)
    top = np.sort(classes, axis=0)
    runner_up = top[-2] if num_classes > 1 else 0 * best
    gap = 1 - np.divide(runner_up, best, out=np.zeros_like(best), where=best > 0)
    unlabelled = label_type(num_classes)[1]
    labels[best == 0] = unlabelled  # every class was removed
    if prob_threshold > 0:
        labels[best < prob_threshold] = unlabelled if background is None else background
        gap = np.minimum(gap, np.abs(best - prob_threshold))
    return labels, gap, best


def case(seed, size, shape, window, stride, grid, num_queries, width=16):
    rng = np.random.default_rng(seed)
    tiling = Tiling.windows(*size, window=window, stride=stride)
    features = unit(rng, len(tiling), grid[0] * grid[1], width)
    text = unit(rng, num_queries, width)
    return features, text, tiling, decode_plan(tiling, grid, shape)

"""PAMR on one 375×500 photo, 34 queries: the runtime's form beside the usual one.

    python -m benchmarks.cpu.pamr [--json benchmarks/results/pamr.json]

The usual form keeps a (queries, height, width) tensor and gathers all 16 neighbours of it at every step. Both sides
take the same window features; labels are compared before anything is told about time.
"""

import sys

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import parser, timed, write_report
from benchmarks.models import photo, work_folder
from scclip_rt.bench.inputs import random_queries
from scclip_rt.decode.decode import decode
from scclip_rt.decode.pamr import pixel_weights
from scclip_rt.decode.plan import decode_plan
from scclip_rt.decode.settings import DecodeSettings
from scclip_rt.image.geometry import Tiling, resize, resize_shape
from scclip_rt.image.load import load_image

MEAN, STD = (122.771, 116.746, 104.094), (68.501, 66.632, 70.323)
DILATIONS, STEPS, QUERIES, WIDTH = (8, 16), 10, 34, 512


def neighbors(x: Tensor, *, center: bool) -> Tensor:
    """(B, H, W) → (B, taps, H, W): the 8 neighbours at each dilation, with `center` the pixel itself as well."""
    taps = []
    for d in DILATIONS:
        padded = F.pad(x.unsqueeze(0), (d, d, d, d), mode="replicate")[0]
        height, width = x.shape[-2:]
        shifts = [(i, j) for i in (0, d, 2 * d) for j in (0, d, 2 * d) if center or (i, j) != (d, d)]
        taps += [padded[:, i : i + height, j : j + width] for i, j in shifts]
    return torch.stack(taps, dim=1)


def usual_pamr(image: Tensor, maps: Tensor) -> Tensor:
    """Refine maps (Q, H, W) by a normalised image (3, H, W), the usual way."""
    sigma = neighbors(image, center=True).std(dim=1, keepdim=True)
    distance = (neighbors(image, center=False) - image.unsqueeze(1)).abs()
    weights = (-distance / (1e-8 + 0.1 * sigma)).mean(dim=0).softmax(dim=0)
    for _ in range(STEPS):
        maps = (neighbors(maps, center=False) * weights).sum(dim=1)
    return maps


def features(windows: int, patches: int) -> NDArray[np.float32]:
    """Smooth random unit features (windows, patches, WIDTH)."""
    drawn = np.random.default_rng(1).standard_normal((windows, patches, WIDTH)).cumsum(axis=1)
    return (drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)).astype(np.float32)


def main() -> None:
    """Compare, then time, print and write."""
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=5, help="timed runs of the runtime's form (5)")
    args = options.parse_args()
    image = load_image(photo(work_folder()))
    shape = image.shape[:2]
    resized = resize(image, resize_shape(*shape, short_side=336, min_side=224))
    tiling = Tiling.windows(*resized.shape[:2], window=224, stride=112)
    dense, embeddings = features(len(tiling), 196), random_queries(QUERIES, WIDTH)
    plan = decode_plan(tiling, (14, 14), shape)

    def ours() -> NDArray[np.integer]:
        weights = pixel_weights(resized, shape, mean=MEAN, std=STD, steps=STEPS)
        settings = DecodeSettings(query_class=range(QUERIES), num_classes=QUERIES, prob_threshold=0.01)
        return decode(dense, embeddings, plan, settings, refine=weights).labels

    def usual() -> NDArray[np.integer]:
        mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (MEAN, STD))
        pixels = (torch.from_numpy(resized).float().permute(2, 0, 1) - mean) / std
        pixels = F.interpolate(pixels[None], size=shape, mode="bilinear", align_corners=False)[0]
        refined = usual_pamr(pixels, resized_maps(dense, embeddings, tiling, shape))
        best = (refined * 40).softmax(dim=0).max(dim=0)
        return torch.where(best.values < 0.01, 255, best.indices).numpy()

    seconds, labels = timed(usual)
    runs = [timed(ours) for _ in range(args.runs + 1)][1:]
    agreement = float((runs[0][1] == labels).mean())
    if agreement < 0.999:
        sys.exit(f"labels agree on {agreement:.3%} of pixels only: no timing of a wrong result")
    median = float(np.median([run[0] for run in runs]))
    print(
        f"usual {seconds:.1f} s, scclip-rt {median:.2f} s: {seconds / median:.0f}×; equal labels {agreement:.3%}"
    )
    rows = {
        "usual_seconds": seconds,
        "runtime_seconds": [run[0] for run in runs],
        "label_agreement": agreement,
    }
    write_report(args.json, "PAMR, 34 queries, 375×500", **rows)


def resized_maps(
    dense: NDArray[np.float32], embeddings: NDArray[np.float32], tiling: Tiling, shape: tuple[int, ...]
) -> Tensor:
    """Cosine maps (Q, H, W) the long way: upsample, add, divide, resize."""
    total = torch.zeros(len(embeddings), tiling.height, tiling.width)
    count = torch.zeros(1, tiling.height, tiling.width)
    size = tiling.window[0]
    logits = torch.from_numpy(dense @ embeddings.T).transpose(1, 2).unflatten(-1, (14, 14))
    logits = F.interpolate(logits, size=(size, size), mode="bilinear", align_corners=False)
    corners = [(y, x) for y in tiling.rows for x in tiling.columns]
    for (y, x), window in zip(corners, logits, strict=True):
        total[:, y : y + size, x : x + size] += window
        count[:, y : y + size, x : x + size] += 1
    return F.interpolate((total / count)[None], size=shape[:2], mode="bilinear", align_corners=False)[0]


if __name__ == "__main__":
    main()

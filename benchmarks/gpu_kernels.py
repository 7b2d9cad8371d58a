"""Each Triton kernel of benchmarks/gpu.py: first against a float64 oracle, then beside plain and compiled torch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from gpu_clock import Clock
from gpu_models import ARCHITECTURES, DTYPES, calibration, heads
from torch import Tensor

# STYLE: a path may be twice as far from a float64 oracle as plain torch in its dtype, plus a floor.
FACTOR = 2.0
FLOOR = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 1.6e-2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One operation on one size.

    Attributes:
        kernel: its name.
        fused: the Triton kernel, as the model calls it.
        reference: plain torch on the same tensors.
        oracle: plain torch in float64 on the CPU.
        moved: bytes that have to be read and written.
    """

    kernel: str
    fused: Callable[[], Tensor]
    reference: Callable[[], Tensor]
    oracle: Callable[[], Tensor]
    moved: int


def kernel_rows(
    clock: Clock,
    *,
    arch: str,
    patches: tuple[int, ...],
    windows: tuple[int, ...],
    precisions: tuple[str, ...],
    copy_rate: float,
) -> Iterator[dict[str, Any]]:
    """Check and time every kernel over the sizes; a row per kernel, size and dtype.

    Yields:
        `error` and `reference_error` against the oracle, `allowed` and whether the kernel is `sound`; milliseconds of
        the kernel, of plain torch and of compiled torch; and the share of the copy ceiling.
    """
    for count in windows:
        for number in patches:
            for precision in precisions:
                for case in _cases(arch, number, count, precision, clock.device):
                    size = {"arch": arch, "patches": number, "windows": count, "precision": precision}
                    yield size | _row(clock, case, precision, copy_rate)


def _row(clock: Clock, case: Case, precision: str, copy_rate: float) -> dict[str, Any]:
    row: dict[str, Any] = {"question": "kernel", "kernel": case.kernel}
    oracle = case.oracle()
    error, reference_error = (_distance(run(), oracle) for run in (case.fused, case.reference))
    allowed = FACTOR * reference_error + FLOOR[precision]
    row |= {"error": error, "reference_error": reference_error, "allowed": allowed, "sound": error <= allowed}
    if not row["sound"]:
        return row  # no time of a wrong result
    row["milliseconds"] = clock.device_time(case.fused)
    row["reference_milliseconds"] = clock.device_time(case.reference)
    if clock.on_gpu:
        compiled = torch.compile(case.reference, dynamic=False)
        row["compiled_milliseconds"] = clock.device_time(compiled)
    row["of_copy_ceiling"] = case.moved / (row["milliseconds"]["p50"] / 1000) / copy_rate
    return row


def _distance(found: Tensor, oracle: Tensor) -> float:
    """Largest difference, relative to the oracle's root mean square."""
    difference = (found.double().cpu() - oracle).abs().max()
    return float(difference / oracle.square().mean().sqrt())


def _cases(arch: str, patches: int, windows: int, precision: str, device: torch.device) -> Iterator[Case]:
    from scclip_kernels import num_outliers
    from scclip_kernels.fused import affinity, anomaly, attention, resolution

    width = ARCHITECTURES[arch][0]
    config, dtype = calibration(arch), DTYPES[precision]
    make = torch.Generator().manual_seed(0)
    # Tokens that are alike in part, as a ViT's are: similarities fall on both sides of the floor.
    common = torch.randn(windows, 1, width, generator=make)
    drawn = [(common + torch.randn(windows, patches, width, generator=make)).to(dtype) for _ in range(6)]
    tokens, guide, *pairs = (part.to(device) for part in drawn)
    key, value = torch.stack(pairs[:2]), torch.stack(pairs[2:])
    wide = [part.double() for part in drawn]
    item = tokens.element_size()
    whole = windows * patches * width * item

    near = config.outlier_neighbors
    yield Case(
        kernel="anomaly",
        fused=lambda: anomaly.anomaly_scores(tokens, near),
        reference=lambda: anomaly.anomaly_scores_reference(tokens, near),
        oracle=lambda: _scores64(wide[0], near),
        moved=whole + 4 * windows * patches,
    )
    side = _columns(patches)
    number = num_outliers(patches, config.outlier_fraction)
    scores = anomaly.anomaly_scores_reference(tokens, near)
    yield Case(
        kernel="resolution",
        fused=lambda: torch.cat(
            resolution.resolve_outliers(tokens, guide, scores, num_outliers=number, columns=side)
        ),
        reference=lambda: torch.cat(
            resolution.resolve_outliers_reference(tokens, guide, scores, num_outliers=number, columns=side)
        ),
        oracle=lambda: torch.cat(
            resolution.resolve_outliers_reference(
                wide[0], wide[1], scores.double().cpu(), num_outliers=number, columns=side
            )
        ),
        moved=4 * whole,
    )
    floor = config.similarity_floor
    factors = affinity.similarity(guide)
    wide_factors = affinity.Similarity(wide[1], 1 / wide[1].norm(dim=-1))
    yield Case(
        kernel="aggregate",
        fused=lambda: affinity.aggregate(tokens, affinity.similarity(guide), floor),
        reference=lambda: affinity.aggregate_reference(tokens, factors, floor),
        oracle=lambda: _aggregate64(wide[0], wide_factors, floor),
        moved=3 * whole,
    )
    count = heads(width)
    yield Case(
        kernel="attention",
        fused=lambda: attention.calibrated_attention(key, value, factors, count),
        reference=lambda: attention.calibrated_attention_reference(key, value, factors, count),
        oracle=lambda: _attention64(wide[2:], wide[1], count),
        moved=6 * whole,
    )


def _columns(patches: int) -> int:
    """The most square grid."""
    side = int(patches**0.5)
    while patches % side:
        side -= 1
    return patches // side


def _scores64(x: Tensor, near: int) -> Tensor:
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    distances.diagonal(dim1=1, dim2=2).fill_(float("inf"))
    nearest = distances.topk(near, largest=False)
    reach = nearest.values[..., -1]
    density = torch.gather(1 / reach, 1, nearest.indices.flatten(1)).view(nearest.indices.shape)
    return reach * density.mean(dim=-1)


def _cosines64(guide: Tensor) -> Tensor:
    unit = guide / guide.norm(dim=-1, keepdim=True)
    return unit @ unit.transpose(1, 2)


def _aggregate64(x: Tensor, factors: Any, floor: float) -> Tensor:
    kept = _cosines64(factors.features)
    kept = torch.where(kept >= floor, kept, 0.0)
    return (kept / (kept.sum(dim=-1, keepdim=True) + 1e-6)) @ x


def _attention64(pairs: list[Tensor], guide: Tensor, count: int) -> Tensor:
    scores = 3 * (_cosines64(guide) - _cosines64(guide).mean(dim=(1, 2), keepdim=True))
    common = torch.where(scores >= 0, scores, float("-inf")).softmax(dim=-1)
    total = torch.zeros_like(guide)
    for key, value in zip(pairs[:2], pairs[2:], strict=True):
        k, v = (part.unflatten(-1, (count, -1)).transpose(1, 2) for part in (key, value))
        own = (k @ k.transpose(2, 3) / k.shape[-1] ** 0.5).softmax(dim=-1) @ v
        total += 0.5 * (common @ value + own.transpose(1, 2).flatten(2))
    return total


def choice_table(rows: list[dict[str, Any]], environment: dict[str, Any]) -> dict[str, Any]:
    """Which implementation was fastest for each kernel, dtype and size: what `kernels="auto"` may go by.

    A kernel that failed its check is never chosen, and is named in `unsound`.
    """
    choices = []
    for row in rows:
        if not row.get("sound"):
            continue
        times = {
            "triton": row["milliseconds"]["p50"],
            "reference": row["reference_milliseconds"]["p50"],
        }
        if "compiled_milliseconds" in row:
            times["compiled"] = row["compiled_milliseconds"]["p50"]
        size = {key: row[key] for key in ("kernel", "arch", "patches", "windows", "precision")}
        choices.append(size | {"fastest": min(times, key=lambda name: times[name]), "milliseconds": times})
    unsound = sorted({row["kernel"] for row in rows if not row.get("sound", True)})
    return {"format_version": 1, "measured_on": environment, "choices": choices, "unsound": unsound}

"""Each Triton kernel of benchmarks/gpu: first against a float64 oracle, then beside plain and compiled torch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.gpu.clock import Clock, CudaGraph
from benchmarks.gpu.models import (  # which lets tests/oracles be found
    ARCHITECTURES,
    DTYPES,
    calibration,
    heads,
)
from oracles.kernels import (
    FACTOR,
    FLOOR,
    aggregate_oracle,
    anomaly_oracle,
    attention_oracle,
    decided_by_distance,
    decided_by_similarity,
    repair_oracle,
)

CALLS = 10
"""In one CUDA graph, whose time is divided by them."""

# Two sums of the same numbers in another order may fall on either side of a threshold that is near. Patches with
# such a tie are not compared: one similarity more or less is far more than rounding.
Oracle = tuple[Tensor, Tensor]
"""Values of one window in float64, and which of its patches (1, N) are decided."""


class Size(NamedTuple):
    """What a kernel is run on: `windows` of `patches`, in one of fp32, fp16 and bf16."""

    patches: int
    windows: int
    precision: str


def kernel_sizes(arch: str, *, quick: bool) -> Iterator[Size]:
    """The grids of a model's windows in every precision, and of whole images in fp16, alone and in batches."""
    if quick:
        yield from (Size(36, 2, precision) for precision in ("fp32", "fp16"))
        return
    _, _, patch, resolution, *_ = ARCHITECTURES[arch]
    own = (resolution // patch) ** 2
    for patches, windows in ((own, 1), (own, 6), (own, 32), (1024, 1), (1024, 6), (2304, 1)):
        for precision in ("fp16", "bf16", "fp32") if patches == own else ("fp16",):
            yield Size(patches, windows, precision)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One operation on one size.

    Attributes:
        triton: the Triton kernel, as the model calls it: one tensor or several.
        reference: plain torch on the same tensors.
        oracle: plain torch in float64 on the same numbers, for one window (its index), with the patches to compare;
            several tensors are one behind the other.
        moved: bytes that have to be read and written.
        flops: of a product that is the most of it; else 0.
    """

    triton: Callable[[], Tensor | tuple[Tensor, ...]]
    reference: Callable[[], Tensor | tuple[Tensor, ...]]
    oracle: Callable[[int], Oracle]
    moved: int
    flops: int = 0


def kernel_row(clock: Clock, kernel: str, arch: str, size: Size, ceilings: dict[str, Any]) -> dict[str, Any]:
    """Check one kernel, then time it beside plain and compiled torch.

    Returns:
        `error` and `reference_error` against the oracle, over `patches_compared` (a share: the others have a tie),
        what is `allowed` and whether the kernel is `sound`; if it is,
        milliseconds of the kernel, of plain torch, of compiled torch (fp16, six windows), of ten calls in a CUDA graph
        divided by ten, and the shares of the ceilings of copies and, for a product, of products.
    """
    case = _CASES[kernel](_Tensors.of(arch, size, clock.device))
    error, reference_error, compared = _distances(case, size.windows)
    allowed = FACTOR * reference_error + FLOOR[DTYPES[size.precision]]
    row: dict[str, Any] = {"error": error, "reference_error": reference_error, "allowed": allowed}
    row["patches_compared"] = compared
    row["sound"] = error <= allowed  # never for NaN
    if not row["sound"]:
        return row  # no time of a wrong result
    row["milliseconds"] = clock.device_time(case.triton)
    row["reference_milliseconds"] = clock.device_time(case.reference)
    if clock.on_gpu and size.precision == "fp16" and size.windows == 6:
        torch._dynamo.reset()  # every size is a compilation, and there is a limit
        compiled = torch.compile(case.reference, dynamic=False)
        row["compiled_milliseconds"] = clock.device_time(compiled)
    best = row["milliseconds"]["p50"]
    if clock.on_gpu:  # alone, the launch is the most of it
        for name, call in (
            ("graph_milliseconds", case.triton),
            ("reference_graph_milliseconds", case.reference),
        ):
            taken = clock.device_time(CudaGraph(lambda call=call: [call() for _ in range(CALLS)]))
            row[name] = {key: value / CALLS for key, value in taken.items()}
        best = row["graph_milliseconds"]["p50"]
    row["of_copy_ceiling"] = case.moved / (best / 1000) / ceilings["copy"]["device"]
    if case.flops:
        row["of_gemm_ceiling"] = case.flops / (best / 1000) / ceilings[size.precision]["flops_per_second"]
    return row


def _distances(case: Case, windows: int) -> tuple[float, float, float]:
    """Largest differences of the kernel and of plain torch, relative to the oracle's root mean square; share compared.

    Window by window, because float64 takes eight bytes for each of N × N × heads numbers. What is not a number is
    infinitely far.
    """
    found = [
        torch.cat([part.double() for part in result]) if isinstance(result, tuple) else result
        for result in (case.triton(), case.reference())
    ]
    parts = found[0].shape[0] // windows  # two results, one behind the other, have the windows twice
    farthest, square, count, compared = [0.0, 0.0], 0.0, 0, 0.0
    for window in range(windows):
        oracle, decided = case.oracle(window)
        square += float(oracle.square().sum())
        count += oracle.numel()
        compared += float(decided.double().mean()) / windows
        rows = [window + part * windows for part in range(parts)]
        for i, result in enumerate(found):
            difference = (result[rows].double() - oracle).abs().nan_to_num(nan=float("inf"))
            here = difference[decided.expand(difference.shape[:2])]
            farthest[i] = max(farthest[i], float(here.max()) if len(here) else 0.0)
    if not compared:
        raise ValueError("every patch has a tie: nothing was compared")
    root = (square / count) ** 0.5
    return farthest[0] / root, farthest[1] / root, compared


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensors:
    """What the operations of one size take, in the model's dtypes.

    Attributes:
        tokens: (B, N, D) float32, of the residual stream, as is
        guide: what similarities are made from.
        features: the tokens in the size's precision, as they are averaged.
        key: (2, B, N, D) in the size's precision, like
        value: of both passes.
        config: the calibration's.
        heads: of the model.
    """

    tokens: Tensor
    guide: Tensor
    features: Tensor
    key: Tensor
    value: Tensor
    config: Any
    heads: int

    @classmethod
    def of(cls, arch: str, size: Size, device: torch.device) -> "_Tensors":
        width, dtype = ARCHITECTURES[arch][0], DTYPES[size.precision]
        make = torch.Generator().manual_seed(0)
        shape = (size.windows, size.patches, width)
        # Tokens that are alike in part, as a ViT's are: similarities fall on both sides of the floor.
        common = torch.randn(size.windows, 1, width, generator=make)
        drawn = [(common + torch.randn(shape, generator=make)).to(device) for _ in range(6)]
        return cls(
            tokens=drawn[0],
            guide=drawn[1],
            features=drawn[0].to(dtype),
            key=torch.stack(drawn[2:4]).to(dtype),
            value=torch.stack(drawn[4:]).to(dtype),
            config=calibration(arch),
            heads=heads(width),
        )

    @property
    def wide_bytes(self) -> int:
        """Of the tokens."""
        return self.tokens.numel() * self.tokens.element_size()

    @property
    def bytes(self) -> int:
        """Of the features."""
        return self.features.numel() * self.features.element_size()

    def wide(self, window: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One window in float64: tokens, guide (1, N, D), key, value (2, 1, N, D)."""
        one = slice(window, window + 1)
        tokens, guide, key, value = self.tokens[one], self.guide[one], self.key[:, one], self.value[:, one]
        return tokens.double(), guide.double(), key.double(), value.double()

    def averaged(self, window: int) -> Tensor:
        """The features of one window in float64, (1, N, D)."""
        return self.features[window : window + 1].double()


def _anomaly(t: _Tensors) -> Case:
    from scclip_kernels.triton import anomaly

    near = t.config.outlier_neighbors
    return Case(
        triton=lambda: anomaly.anomaly_scores(t.tokens, near),
        reference=lambda: anomaly.anomaly_scores_reference(t.tokens, near),
        oracle=lambda window: (
            anomaly_oracle(t.wide(window)[0], near),
            decided_by_distance(t.wide(window)[0], near),
        ),
        moved=t.wide_bytes + 4 * t.tokens.shape[0] * t.tokens.shape[1],
    )


def _outlier_repair(t: _Tensors) -> Case:
    from scclip_kernels import num_outliers
    from scclip_kernels.triton import anomaly, outlier_repair

    patches = t.tokens.shape[1]
    options: dict[str, Any] = {
        "num_outliers": num_outliers(patches, t.config.outlier_fraction),
        "columns": _columns(patches),
    }
    scores = anomaly.anomaly_scores_reference(t.tokens, t.config.outlier_neighbors)

    def oracle(window: int) -> Oracle:
        tokens, guide, *_ = t.wide(window)
        own = scores[window : window + 1]
        outliers = {int(index) for index in own[0].topk(options["num_outliers"]).indices}
        repaired = torch.stack([repair_oracle(x[0], outliers, options["columns"]) for x in (tokens, guide)])
        return repaired, torch.ones_like(own, dtype=torch.bool)  # both sides rank the same scores

    return Case(
        triton=lambda: outlier_repair.repair_outliers(t.tokens, t.guide, scores, **options),
        reference=lambda: outlier_repair.repair_outliers_reference(t.tokens, t.guide, scores, **options),
        oracle=oracle,
        moved=4 * t.wide_bytes,
    )


def _aggregate(t: _Tensors) -> Case:
    from scclip_kernels.triton import similarity as by_similarity

    floor = t.config.similarity_floor
    factors = by_similarity.similarity(t.guide)
    return Case(
        triton=lambda: by_similarity.aggregate(t.features, by_similarity.similarity(t.guide), floor),
        reference=lambda: by_similarity.aggregate_reference(t.features, factors, floor),
        oracle=lambda window: (
            aggregate_oracle(t.averaged(window), t.wide(window)[1], floor)[0],
            decided_by_similarity(t.wide(window)[1], floor),
        ),
        moved=2 * t.bytes + t.wide_bytes,
    )


def _attention(t: _Tensors) -> Case:
    from scclip_kernels.triton import attention
    from scclip_kernels.triton import similarity as by_similarity

    factors = by_similarity.similarity(t.guide)

    def oracle(window: int) -> Oracle:
        _, guide, key, value = t.wide(window)
        return attention_oracle(key, value, guide, t.heads)[0], decided_by_similarity(guide, None)

    return Case(
        triton=lambda: attention.calibrated_attention(t.key, t.value, factors, t.heads),
        reference=lambda: attention.calibrated_attention_reference(t.key, t.value, factors, t.heads),
        oracle=oracle,
        moved=5 * t.bytes + t.wide_bytes,
    )


def _add_layer_norm(t: _Tensors) -> Case:
    from scclip_kernels.triton import residual_norm

    width = t.tokens.shape[-1]
    weight, bias = t.guide[0, 0], t.guide[0, 1]
    rows, delta = t.tokens.flatten(0, 1), t.features.flatten(0, 1)

    def oracle(window: int) -> Oracle:
        total = t.wide(window)[0] + t.averaged(window)
        norm = torch.nn.functional.layer_norm(total, (width,), weight.double(), bias.double(), 1e-5)
        return torch.cat([total, norm]), torch.ones(total.shape[:2], dtype=torch.bool, device=total.device)

    def windows(results: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        return tuple(result.view(t.tokens.shape) for result in results)

    arguments = rows, delta, weight, bias, 1e-5, t.features.dtype
    return Case(
        triton=lambda: windows(residual_norm.add_layer_norm(*arguments)),
        reference=lambda: windows(residual_norm.add_layer_norm_reference(*arguments)),
        oracle=oracle,
        moved=2 * t.wide_bytes + 2 * t.bytes,
    )


def _linear_quick_gelu(t: _Tensors) -> Case:
    from scclip_kernels.triton import linear

    width, rows = t.tokens.shape[-1], t.features.flatten(0, 1)
    make = torch.Generator().manual_seed(1)
    drawn = torch.randn(4 * width, width, generator=make) / width**0.5, torch.randn(4 * width, generator=make)
    weight, bias = (x.to(device=rows.device, dtype=rows.dtype) for x in drawn)

    def oracle(window: int) -> Oracle:
        h = torch.nn.functional.linear(t.averaged(window), weight.double(), bias.double())
        return h * torch.sigmoid(1.702 * h), torch.ones(h.shape[:2], dtype=torch.bool, device=h.device)

    def windows(result: Tensor) -> Tensor:
        return result.view(*t.tokens.shape[:2], 4 * width)

    return Case(
        triton=lambda: windows(linear.linear_quick_gelu(rows, weight, bias)),
        reference=lambda: windows(linear.linear_quick_gelu_reference(rows, weight, bias)),
        oracle=oracle,
        moved=5 * t.bytes + weight.numel() * weight.element_size(),
        flops=2 * rows.shape[0] * weight.numel(),
    )


def runs_in(kernel: str, precision: str) -> bool:
    """Whether there is such a kernel: products of float32 have none with QuickGELU."""
    return kernel != "linear_quick_gelu" or precision != "fp32"


_CASES: dict[str, Callable[[_Tensors], Case]] = {
    "anomaly": _anomaly,
    "outlier_repair": _outlier_repair,
    "aggregate": _aggregate,
    "attention": _attention,
    "add_layer_norm": _add_layer_norm,
    "linear_quick_gelu": _linear_quick_gelu,
}
KERNELS = tuple(_CASES)


def _columns(patches: int) -> int:
    """The most square grid."""
    side = int(patches**0.5)
    while patches % side:
        side -= 1
    return patches // side


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

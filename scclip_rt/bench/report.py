"""Results as JSON and as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from scclip_rt.bench.environment import environment
from scclip_rt.bench.load import NOTABLE
from scclip_rt.bench.runner import Plan, Result
from scclip_rt.bench.stats import Percentiles, Ratio

SCHEMA = "scclip-bench/1"
STAGES = ("prepare", "encode", "decode", "total")


def document(groups: Sequence[Sequence[Result]], plan: Plan, *, samples: bool = False) -> dict[str, Any]:
    """Everything, as JSON. Durations are seconds, memory bytes, rates operations a second.

    Args:
        groups: results, a list for each workload; ratios are to a list's first.
        plan: how they were measured.
        samples: also every sample.
    """
    return {
        "schema": SCHEMA,
        "environment": environment(),
        "plan": asdict(plan),
        "rows": [_row(result, group[0], samples=samples) for group in groups for result in group],
    }


def _row(result: Result, first: Result, *, samples: bool) -> dict[str, Any]:
    description, workload = result.description, result.entry.case.workload
    totals, first_totals = ([sample.total for sample in r.samples] for r in (result, first))
    row: dict[str, Any] = {
        "name": result.entry.name,
        "bundle": {**description.bundle, "path": PurePath(str(description.bundle["path"])).name},
        "backend": description.backend,
        "image": list(description.image),
        "whole_image": result.entry.case.whole_image,
        "short_side": result.entry.case.short_side,
        "refine": result.entry.case.refine,
        "queries": description.queries,
        "windows": description.windows,
        "patches": description.patches,
        "batch": description.batch,
        "gate": result.gate.to_json(),
        "labels_as_first": result.labels_as_first,
        "other_load": result.other_load,
        "seconds": {stage: asdict(Percentiles.of(v)) for stage in STAGES if (v := _stage(result, stage))},
        "images_per_second": len(totals) / sum(totals),
        "stream": None,
        "peak_bytes": result.peak_bytes,
        "flops": description.flops,
        "encode_flops_per_second": _encode_rate(result),
        "limit": _limit(result),
        "limit_share": limit_share(result),
        "ratio": {"to": first.entry.name, **asdict(Ratio.of(first_totals, totals))},
    }
    if result.stream_seconds is not None:
        rate = workload.stream / result.stream_seconds
        row["stream"] = {"images": workload.stream, "images_per_second": rate}
    if samples:
        row["samples"] = {stage: values for stage in STAGES if (values := _stage(result, stage))}
    return row


def limit_share(result: Result) -> float | None:
    """The encoder's rate over the library's own rate for products, in the precision that runs; None if not known."""
    rate, limit = _encode_rate(result), _limit(result)
    precision = result.description.backend.get("precision")
    if rate is None or limit is None or precision not in limit:
        return None
    return float(rate / limit[precision]["flops_per_second"])


def _encode_rate(result: Result) -> float | None:
    encode = _stage(result, "encode")
    return result.description.flops / Percentiles.of(encode).p50 if encode else None


def _limit(result: Result) -> dict[str, Any] | None:
    if result.limits is None:
        return None
    products = result.description.products
    flops = sum(product.flops for product in products)
    return {
        name: {
            "flops_per_second": flops / sum(seconds),
            "products": {
                product.name: {
                    "shape": [product.rows, product.inner, product.outer],
                    "flops_per_second": product.flops / each,
                }
                for product, each in zip(products, seconds, strict=True)
            },
        }
        for name, seconds in result.limits.items()
    }


def _stage(result: Result, stage: str) -> list[float]:
    values = [getattr(sample, stage) for sample in result.samples]
    return [] if None in values else values


def table(report: dict[str, Any]) -> str:
    """What a person wants to read, from a `document`.

    Returns:
        Lines joined by newlines, without the last one.
    """
    return "\n".join(_lines(report))


def groups_of(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows of one workload together, in order."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((*row["image"], row["queries"], row["ratio"]["to"]), []).append(row)
    return list(groups.values())


def _lines(report: dict[str, Any]) -> Iterator[str]:
    machine, plan = report["environment"], report["plan"]
    yield f"{machine['processor']}, {machine['cores']} cores"
    rounds = f"{plan['iterations']} rounds after {plan['warmup']} images of warm-up"
    yield f"{rounds}; every contender passed the correctness gate"
    for rows in groups_of(report["rows"]):
        height, width = rows[0]["image"]
        yield ""
        yield f"image {height}×{width}, {rows[0]['queries']:,} queries; milliseconds"
        if len(rows) == 1:
            yield from _one(rows[0])
        else:
            yield from _columns([_HEADER, *(_cells(row) for row in rows)])
        yield from (f"  {line}" for line in _notes(rows))


def _one(row: dict[str, Any]) -> Iterator[str]:
    """Every stage's percentiles, where there is nobody to compare with."""
    seconds, stream, share = row["seconds"], row["stream"], row["limit_share"]
    columns = ("p50", "p90", "p99", "mean", "min", "max")
    stages = [(stage, *(_ms(seconds[stage][key]) for key in columns)) for stage in STAGES if stage in seconds]
    yield from _columns([("", *columns), *stages])
    told = [f"{row['images_per_second']:.2f} images/s", f"peak memory {row['peak_bytes'] / 1e6:.0f} MB"]
    if stream is not None:
        told.insert(1, f"{stream['images_per_second']:.2f} images/s streamed")
    if share is not None:
        told.append(f"encoder at {share:.0%} of the limit of matrix products")
    yield f"  {', '.join(told)}"


_HEADER = (
    "", "prepare", "encode", "decode", "total p50", "p90", "p99", "images/s", "stream", "peak MB", "of limit",
    "times as fast (range)",
)  # fmt: skip


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    seconds, ratio, stream, share = row["seconds"], row["ratio"], row["stream"], row["limit_share"]
    stages = [_ms(seconds[stage]["p50"]) if stage in seconds else "–" for stage in STAGES]
    return (
        row["name"],
        *stages,
        _ms(seconds["total"]["p90"]),
        _ms(seconds["total"]["p99"]),
        f"{row['images_per_second']:.2f}",
        "–" if stream is None else f"{stream['images_per_second']:.2f}",
        f"{row['peak_bytes'] / 1e6:.0f}",
        "–" if share is None else f"{share:.0%}",
        f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})"
        if row["name"] != ratio["to"]
        else "1",
    )


def _notes(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What ran, what the gate found, each distinct GEMM limit, and who else was busy."""
    seen = set()
    for row in rows:
        backend, gate = row["backend"], row["gate"]
        runs_on = ", ".join(str(backend[key]) for key in ("device", "precision"))
        yield (
            f"{row['name']}: {backend['backend']} {backend['version']}, {runs_on}, {backend['threads']} threads; "
            f"{row['windows']} windows of {row['patches']} patches, {row['batch']} at once; "
            f"features {gate['mean_abs']:.1e} from float32, {gate['labels']:.1%} of patch labels equal"
        )
        if row["limit"] is not None and (line := _limit_line(row)) not in seen:
            seen.add(line)
            yield line
    yield from _load_line(rows)


def _load_line(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    others = rows[0]["other_load"]
    if others is not None and others > NOTABLE:
        yield f"other processes took {others:.0%} of the processor meanwhile: measure again when it is quiet"


def _limit_line(row: dict[str, Any]) -> str:
    rates = ", ".join(f"{name} {limit['flops_per_second'] / 1e9:.0f}" for name, limit in row["limit"].items())
    rows = next(iter(row["limit"].values()))["products"]["qkv"]["shape"][0]
    return f"{row['backend']['backend']}'s matrix products alone, {rows:,} rows: {rates} GFLOP/s"


def _ms(seconds: float) -> str:
    milliseconds = 1000 * seconds
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.2f}"


def _columns(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    kept = [i for i in range(len(rows[0])) if i == 0 or any(row[i] not in ("–", "1") for row in rows[1:])]
    widths = {i: max(len(row[i]) for row in rows) for i in kept}
    for row in rows:
        cells = [row[i].ljust(widths[i]) if i == 0 else row[i].rjust(widths[i]) for i in kept]
        yield "  " + "  ".join(cells).rstrip()

"""What benchmarks/gpu found, for people: tables."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.tables.summary import Row, markdown

REASON = 240
"""Most characters of a reason."""


def figure(milliseconds: float) -> str:
    """Three figures."""
    return f"{milliseconds:.3g}" if milliseconds < 1000 else f"{milliseconds:,.0f}"


def tables(report: Row) -> str:
    """Every question that has rows, as Markdown."""
    rows = report["rows"]
    parts = [machine(report)]
    for title, question, make in (
        ("Labels against float32", "labels", label_table),
        ("One image, host to host", "image", image_table),
        ("The runtime without an encoder: upload, windows, decode, download", "runtime", image_table),
        ("The encoder, on the device", "encode", encode_table),
        ("The encoder, host to host", "encode (host to host)", host_table),
        ("The decode alone", "decode", decode_table),
        ("Kernels", "kernel", kernel_table),
    ):
        asked = [row for row in rows if row["question"] == question]
        if asked:
            parts.append(f"### {title}\n{make(asked)}")
    return "\n\n".join(parts)


def machine(report: Row) -> str:
    """What was measured on, in a line, and whether something is missing."""
    environment = report["environment"]
    gpu = environment.get("gpu", {})
    versions = environment.get("versions", {})
    told = [gpu.get("name", "CPU (no timing worth quoting)")]
    told += [f"{name} {versions[name]}" for name in ("torch", "triton") if name in versions]
    told += [f"nvidia-smi: {gpu['nvidia_smi']}"] if gpu.get("nvidia_smi") else []
    told += [str(environment["git_revision"])] if environment.get("git_revision") else []
    return "; ".join(told) + ("" if report.get("complete", True) else " (cut off: rows are missing)")


def _why(row: Row) -> str:
    return str(row.get("skipped") or row.get("failed") or "unsound: not timed")


def _times(row: Row) -> list[str]:
    if "milliseconds" not in row:
        return [_why(row), "", ""]
    return [figure(row["milliseconds"][key]) for key in ("p50", "p99", "min")]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def label_table(rows: Sequence[Row]) -> str:
    """The share of pixels, least over the numbers of queries."""
    lines = []
    for row in rows:
        share = f"{row['labels_as_fp32']:.3%}" if "labels_as_fp32" in row else row["failed"]
        lines.append([_subject(row), share, "" if row.get("sound") else "not timed"])
    return markdown(("encoder", "labels as fp32", ""), lines)


def image_table(rows: Sequence[Row]) -> str:
    """Milliseconds per image by number of queries; the labels' agreement where it is least."""
    return _by_size(rows, "queries", last=_agreement, header=("labels as fp32",)) + _reasons(rows)


def encode_table(rows: Sequence[Row]) -> str:
    """Milliseconds per batch of windows, p50; p99, throughput and shares of the largest batch."""
    header = ("windows/s", "of the GEMM ceiling", "own products alone")
    return _by_size(rows, "windows", last=_throughput, header=header) + _reasons(rows)


def host_table(rows: Sequence[Row]) -> str:
    """The same with transfers, through the runtime; why a backend is not here stands below the images."""
    return _by_size(rows, "windows", last=lambda _: [])


def _by_size(
    rows: Sequence[Row], axis: str, *, last: Callable[[Sequence[Row]], list[str]], header: Sequence[str] = ()
) -> str:
    """A line for each contender that was timed: p50 of each size, p99 of the largest, then what `last` makes of it."""
    sizes = sorted({row[axis] for row in rows if axis in row})
    lines = []
    for name in dict.fromkeys(map(_subject, rows)):
        timed = {row.get(axis): row for row in rows if _subject(row) == name and "milliseconds" in row}
        if timed:
            own = [timed[size] for size in sizes if size in timed]
            cells = [figure(timed[size]["milliseconds"]["p50"]) if size in timed else "–" for size in sizes]
            lines.append([name, *cells, figure(own[-1]["milliseconds"]["p99"]), *last(own)])
    columns = [f"{size} {axis}, ms" for size in sizes]
    return markdown(("p50", *columns, "p99 of the last", *header), lines) + "\n" if lines else ""


def _reasons(rows: Sequence[Row]) -> str:
    """Why there is no time, a line for each contender and reason."""
    said = dict.fromkeys((_subject(row), _why(row)) for row in rows if "milliseconds" not in row)
    return "".join(f"\n- {name}: {reason[:REASON]}" for name, reason in said)


def _subject(row: Row) -> str:
    return f"{row.get('arch', row.get('bundle', ''))}, {row['contender']}"


def _agreement(rows: Sequence[Row]) -> list[str]:
    shares = [row["labels_as_fp32"] for row in rows if row.get("labels_as_fp32") is not None]
    return [f"{min(shares):.2%}" if shares else ""]


def _throughput(rows: Sequence[Row]) -> list[str]:
    row = rows[-1]
    rate = f"{row['windows_per_second']:,.0f}" if "windows_per_second" in row else ""
    return [rate, _share(row.get("of_gemm_ceiling")), _share(row.get("of_own_products"))]


def decode_table(rows: Sequence[Row]) -> str:
    """Milliseconds per label map."""
    lines = []
    for row in rows:
        graph = figure(row["graph_milliseconds"]["p50"]) if "graph_milliseconds" in row else ""
        share = _share(row.get("of_copy_ceiling"))
        lines.append([_subject(row), str(row["queries"]), *_times(row), graph, share])
    header = ("", "queries", "p50 ms", "p99 ms", "min ms", "as a CUDA graph, p50 ms", "of the copy ceiling")
    return markdown(header, lines)


def kernel_table(rows: Sequence[Row]) -> str:
    """Errors and times of each kernel."""
    header = (
        "",
        "error",
        "kernel ms",
        "torch ms",
        "compiled ms",
        "kernel in a CUDA graph, ms",
        "torch in one, ms",
        "of the copy ceiling",
        "of the GEMM ceiling",
    )
    return markdown(header, map(_kernel_line, rows))


def _kernel_line(row: Row) -> list[str]:
    name = row["kernel"]
    if "precision" in row:
        name = f"{row['arch']}, {name}, {row['precision']}, {row['windows']} × {row['patches']} patches"
    told = row.get("skipped") or row.get("failed") or ""
    if "error" in row:
        told = f"{row['error']:.1e} (allowed {row['allowed']:.1e})"
    keys = ("milliseconds", "reference_milliseconds", "compiled_milliseconds")
    keys += ("graph_milliseconds", "reference_graph_milliseconds")
    times = (figure(row[key]["p50"]) if key in row else "" for key in keys)
    return [name, told, *times, _share(row.get("of_copy_ceiling")), _share(row.get("of_gemm_ceiling"))]


NO_RUN = "No GPU has run this yet. `python -m benchmarks.gpu` checks and times everything where there is one."


def load_reports(results: Path) -> list[Row]:
    """What gpu.py wrote, one report per GPU; quick runs and CPUs are none."""
    reports = [json.loads(path.read_text("utf-8")) for path in sorted(results.glob("gpu-*.json"))]
    return [r for r in reports if "ceilings" in r and "gpu" in r["environment"] and not r["quick"]]


def document_tables(reports: Sequence[Row]) -> dict[str, str]:
    """The tables that documents take, by name; a sentence that says so where no GPU has run anything."""
    if not reports:
        return {"gpu": NO_RUN, "gpu-all": NO_RUN}
    plot = "![Milliseconds of one photo, and windows per second](images/bench-gpu.png)"
    return {
        "gpu": "\n\n".join(f"{machine(report)}\n\n{short_table(report['rows'])}" for report in reports),
        "gpu-all": "\n\n".join([*(tables(report) for report in reports), plot]),
    }


# What stands on the GPU page, beside every backend: the others say what each step brings, and are in the measurements.
SHORT = (
    "naive eager fp16",
    "eager fp16",
    "eager fp16, CUDA graph",
    "compiled fp16, CUDA graph",
    "runtime over compiled fp16",
    "runtime over kernels, compiled fp16",
)


def short_table(rows: Sequence[Row]) -> str:
    """One photo, host to host, by model: contenders of `SHORT` and backends, the slowest first."""
    rows = [row for row in rows if "bundle" in row or row.get("contender") in SHORT]
    lines = []
    for arch in dict.fromkeys(row["arch"] for row in rows if row["question"] == "image"):
        asked = {"question": "image", "arch": arch, "queries": 150}
        own = (row for row in rows if "milliseconds" in row and row.items() >= asked.items())
        found = sorted(((row["milliseconds"]["p50"], row) for row in own), key=lambda pair: -pair[0])
        naive = next((time for time, row in found if row["contender"].startswith("naive")), None)
        for time, row in found:
            ratio = "" if naive is None else f"{naive / time:.1f}×"
            labels = row.get("labels_as_fp32")
            share = "" if labels is None else f"{labels:.2%}"
            lines.append([f"{arch}, {row['contender']}", figure(time), ratio, share])
    header = ("one 375×500 photo, 150 queries", "p50 ms", "times as fast", "labels as fp32")
    return markdown(header, lines)

"""The README's table of speed: four rows a device, each beside the naive baseline of its own run."""

import statistics
from collections.abc import Sequence

from benchmarks.gpu.report import figure
from benchmarks.tables.summary import Row, baseline, markdown, ms, paired

# A contender's name in the rows, and what the README calls it.
CPU = {
    "naive eager": "torch, one window at a time",
    "fp32 onnxruntime": "ONNX Runtime, fp32",
    "int8 onnxruntime": "ONNX Runtime, int8",
    "int8 onnxruntime whole": "ONNX Runtime, int8, image in one pass",
}
GPU = {
    "naive eager fp16": "torch fp16, one window at a time",
    "ONNX Runtime CUDA fp16": "ONNX Runtime CUDA, fp16",
    "ONNX Runtime CUDA fp16, its graphs": "the same with CUDA graphs",
    "runtime over kernels, compiled fp16": "our device path, compiled torch encoder, fp16",
}
NAIVE_GPU = "naive eager fp16"


ARCH, QUERIES = "vitb16", 150


def speed_table(photo: Sequence[Row], reports: Sequence[Row]) -> str:
    """One photo on each device that was measured, a ViT-B/16 with 150 queries.

    Args:
        photo: rows of `benchmarks.cpu.photo`, each with its environment.
        reports: what `benchmarks.gpu` wrote, one report per GPU.

    Returns:
        Markdown; a contender without a row is left out.
    """
    lines = [line for row in photo if row["queries"] == QUERIES for line in _cpu_line(row, photo)]
    for report in reports:
        lines += _gpu_lines(report)
    header = ("device", "what runs", f"one photo, {QUERIES} queries", "times as fast", "same labels")
    return markdown(header, lines)


def _cpu_line(row: Row, photo: Sequence[Row]) -> list[list[str]]:
    if row["name"] not in CPU:
        return []
    first = baseline(photo, row)
    ratio = "1" if row is first else f"**{statistics.median(paired(row, first, 'total')):.1f}×**"
    device = f"{row['environment']['processor'].split(',')[0]}, {row['environment']['cores']} cores"
    return [
        [device, CPU[row["name"]], ms(row["seconds"]["total"]["p50"]), ratio, f"{row['labels_as_first']:.1%}"]
    ]


def _gpu_lines(report: Row) -> list[list[str]]:
    timed = {
        row["contender"]: row
        for row in report["rows"]
        if row["question"] == "image"
        and row["arch"] == ARCH
        and row.get("queries") == QUERIES
        and "milliseconds" in row
    }
    if NAIVE_GPU not in timed:
        return []
    slowest = timed[NAIVE_GPU]["milliseconds"]["p50"]
    device = " ".join(report["environment"]["gpu"]["name"].split()[:2])
    lines = []
    for name, title in GPU.items():
        if name in timed:
            time, labels = timed[name]["milliseconds"]["p50"], timed[name].get("labels_as_fp32")
            ratio = "1" if name == NAIVE_GPU else f"**{slowest / time:.1f}×**"
            lines.append(
                [device, title, f"{figure(time)} ms", ratio, "" if labels is None else f"{labels:.1%}"]
            )
    return lines

"""The table of int8 methods: accuracy rows and latency rows of benchmarks/cpu/int8.py joined."""

from collections.abc import Sequence

from benchmarks.tables.summary import Row, markdown, ms

MODELS = ("demo", "channels", "massive")
SAME_GRAPH = {
    **dict.fromkeys(("smooth", "minmax", "percentile", "entropy"), "tuned"),
    **dict.fromkeys(("ORT static, percentile", "ORT static, entropy"), "ORT static, minmax"),
}
"""Methods that only choose other numbers for a graph, and the one whose time they share."""


def int8_table(accuracy: Sequence[Row], latency: Sequence[Row]) -> str:
    """Methods of int8: mIoU and labels on each model, and the full-size encoder's time where it was measured."""
    times = {(row["method"], row["runtime"]): row for row in latency}
    accuracy = sorted(accuracy, key=lambda row: MODELS.index(row["model"]))
    models = list(dict.fromkeys(row["model"] for row in accuracy))
    by_method: dict[tuple[str, str], dict[str, Row]] = {}
    for row in accuracy:
        by_method.setdefault((row["method"], row["runtime"]), {})[row["model"]] = row
    lines = []
    for (method, runtime), found in by_method.items():
        time = times.get((SAME_GRAPH.get(method, method), runtime))
        told = [_int8_cells(found.get(model)) for model in models]
        speed = (
            (ms(time["median_seconds"]), f"{time['faster_than_fp32_onnxruntime']:.2f}×")
            if time
            else ("–",) * 2
        )
        lines.append([method, runtime, *(cell for pair in told for cell in pair), *speed])
    counts = {
        row["model"]: f"{row['scenes']} scenes, calibrated on {row['windows']} windows" for row in accuracy
    }
    heads = [(f"{model}: mIoU against fp32, {counts[model]}", "labels equal") for model in models]
    header = ("method", "library", *(cell for pair in heads for cell in pair))
    return markdown((*header, "B/16, six windows", "times as fast as fp32 onnxruntime"), lines)


def _int8_cells(row: Row | None) -> tuple[str, str]:
    if row is None:
        return "–", "–"
    return f"{row['miou'] - row['miou_fp32']:+.2f}", f"{row['agreement']:.2%}"

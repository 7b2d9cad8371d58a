"""Tables of the methods and of the tools for class lists."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.tables.summary import Row, load_rows, markdown, ms, paired, with_range
from scclip_rt.precisions import PRECISIONS

MODELS = {"vitb16": "ViT-B/16", "vitl14": "ViT-L/14"}


def miou_table(report: dict[str, Any]) -> str:
    """`scclip compare-methods`' report: quality on the demo model."""
    lines = [
        [f"`{row['method']}`", f"{row['miou']:.1f}", f"{row['accuracy']:.1f} %", f"{row['windows']:g}"]
        for row in report["methods"]
    ]
    return markdown(("method", f"mIoU, {report['images']} scenes", "pixels right", "windows"), lines)


def encoder_table(rows: Sequence[Row]) -> str:
    """Each method's encoder beside the plain one: pairs of the same round."""
    lines = []
    for plain, own in zip(rows[::2], rows[1::2], strict=True):
        costs = [100 * (1 / ratio - 1) for ratio in paired(own, plain, "encode")]
        cost = f"**{statistics.median(costs):+.1f} %** ({min(costs):+.1f} to {max(costs):+.1f})"
        cells = [ms(row["seconds"]["encode"]["p50"]) for row in (plain, own)]
        operations = 100 * (own["flops"] / plain["flops"] - 1)
        lines.append([f"`{own['name']}`", *cells, cost, f"{operations:+.1f} %"])
    header = ("method", "plain encoder", "its encoder", "cost, median (range of pairs)", "operations")
    return markdown(header, lines)


def photo_table(rows: Sequence[Row]) -> str:
    """Each method's photo beside its naive form."""
    lines = []
    for naive, own in zip(rows[::2], rows[1::2], strict=True):
        cells = [ms(row["seconds"]["total"]["p50"]) for row in (naive, own)]
        lines.append(
            [
                f"`{own['name']}`",
                *cells,
                with_range(paired(own, naive, "total")),
                f"{own['labels_as_first']:.2%}",
            ]
        )
    header = (
        "method",
        "naively, in torch",
        "ONNX Runtime, fp32",
        "times as fast (range of pairs)",
        "same labels",
    )
    return markdown(header, lines)


def exports_table(rows: Sequence[Row]) -> str:
    """How near each method's exported files are to its float32 torch model: a line per model and method."""
    lines = []
    # Of windows; some methods have files of other grids beside them.
    shown = [p for p in PRECISIONS if any(f"encoder.{p}.onnx" in row.get("encoders", ()) for row in rows)]
    for row in sorted(rows, key=lambda row: list(MODELS).index(row["model"])):
        if not row["passed"]:
            raise ValueError(f"{row['method']}, {row['model']} did not pass: {row['reason']}")
        parities = [row["encoders"].get(f"encoder.{precision}.onnx") for precision in shown]
        gap = f"{parities[0]['features_max_abs']:.1e}"
        labels = ["–" if parity is None else f"{parity['labels_agreement']:.2%}" for parity in parities]
        told = [row.get("cpp", {}).get(precision) for precision in ("fp32", "int8")]
        in_cpp = ["–" if found is None else f"{found['agreement']:.3%}" for found in told]
        lines.append([f"`{row['method']}`", MODELS[row["model"]], gap, *labels, *in_cpp])
    header = (
        "method",
        "model",
        "features, fp32, largest gap",
        *(f"labels, {precision}" for precision in shown),
        *(f"C++ as Python, {precision}" for precision in ("fp32", "int8")),
    )
    return markdown(header, lines)


def vocabulary_table(report: dict[str, Any]) -> str:
    """What each tool makes of each list: a line per tool, a column per list; then what the images were."""
    lists = list(dict.fromkeys(row["list"] for row in report["rows"]))
    found = {(row["list"], row["treatment"]): row for row in report["rows"]}
    lines = []
    for treatment in dict.fromkeys(row["treatment"] for row in report["rows"]):
        cells = []
        for name in lists:
            row, base = found[name, treatment], found[name, "as it is"]
            change = "" if row is base else f" ({row['miou'] - base['miou']:+.1f})"
            cells.append(f"{row['miou']:.1f}{change}")
        lines.append([treatment if treatment == "as it is" else f"`{treatment}`", *cells])
    words, seen = (found[lists[0], f"vocabulary suggest{more}"]["classes"] for more in ("", " --images"))
    return (
        markdown((f"mIoU, {report['scenes']} scenes", *lists), lines)
        + f"\n\nThe images were {report['images']} scenes of another split, three materials in each: by them "
        f"`vocabulary suggest --images` left out {words - seen} of {words} materials."
    )


def method_tables(results: Path) -> dict[str, str]:
    """Those that the rows at hand allow, by name."""
    made: dict[str, str] = {}
    for name, table in (("methods-demo", miou_table), ("vocabulary", vocabulary_table)):
        if (path := results / f"{name}.json").exists():
            made[name] = table(json.loads(path.read_text("utf-8")))
    for name, of_rows in (("methods-encoder", encoder_table), ("methods-photo", photo_table)):
        if rows := load_rows(results, f"{name}.json"):
            made[name] = of_rows(rows)
    if rows := load_rows(results, "method-exports.json"):
        made["method-exports"] = exports_table(rows)
    return made

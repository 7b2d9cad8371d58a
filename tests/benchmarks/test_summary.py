"""From rows to tables, plots and documents."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cpu import narrow, profile_ops
from benchmarks.tables import summary
from benchmarks.tables.speed import speed_table


def row(name: str, totals: Sequence[float], *, queries: int = 20, **changes: Any) -> dict[str, Any]:
    """A row as the harness writes it, encoding being nine tenths of the time."""
    stages = {"prepare": 0.01, "encode": 0.9, "decode": 0.09, "total": 1.0}
    samples = {stage: [share * total for total in totals] for stage, share in stages.items()}
    middle = sorted(totals)[len(totals) // 2]
    made = {
        "name": name,
        "bundle": {"calibration": "scclip"},
        "backend": {"backend": "onnxruntime", "precision": "fp32", "threads": 2},
        "image": [375, 500],
        "queries": queries,
        "windows": 6,
        "batch": 6,
        "seconds": {stage: {"p50": share * middle} for stage, share in stages.items()},
        "peak_bytes": 704_400_000,
        "labels_as_first": 1.0,
        "limit": None,
        "limit_share": None,
        "ratio": {"to": "naive eager"},
        "samples": samples,
    }
    return made | changes


def write(folder: Path, name: str, rows: Sequence[dict[str, Any]], revision: str = "abc") -> None:
    folder.mkdir(exist_ok=True)
    versions = {"onnxruntime": "1.32.0"}
    machine = {"processor": "a processor", "cores": 2, "versions": versions, "git_revision": revision}
    (folder / name).write_text(json.dumps({"environment": machine, "rows": list(rows)}), "utf-8")


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    limit = {
        "fp32": {"flops_per_second": 100e9, "products": {"qkv": {"shape": [1182, 768, 2304]}}},
        "int8": {"flops_per_second": 255.4e9, "products": {}},
    }
    fast = row("int8", [1.0, 0.5, 1.0], limit=limit, limit_share=0.654)
    write(folder, "photo-20.json", [row("naive eager", [2.0, 3.0, 4.0]), fast])
    slow = [row("naive eager", [9.0, 9.0, 9.0], queries=150), row("int8", [3.0, 3.0, 3.0], queries=150)]
    write(folder, "photo-150.json", slow)
    plain = row("plain fp32", [1.0, 2.0], bundle={"calibration": "none"})
    write(folder, "calibration.json", [plain, row("calibrated fp32", [1.05, 2.06])])
    dial = [
        {
            "name": name,
            "backend": "onnxruntime",
            "windows": 6,
            "processor_seconds": seconds,
            "ratio": 2.0 / seconds,
            "miou": value,
            "agreement": 99.5,
            "scenes": 300,
        }
        for name, seconds, value in (("fp32", 2.0, 82.9), ("int8", 1.0, 82.1), ("odd", 3.0, 80.0))
    ]
    write(folder, "pareto.json", dial)
    for name, axis in (("queries", "queries"), ("images", "image"), ("windows", "windows")):
        values = [[224, 224], [2160, 3840]] if axis == "image" else [1, 1000]
        write(folder, f"{name}.json", [row("fp32", [1.0], **{axis: value}) for value in values])
    return folder


def test_ratios_are_medians_of_pairs_of_the_same_run(results: Path) -> None:
    table = cells(summary.tables(results)["photo"])
    by_name = {(line[0], line[1]): line for line in table[2:]}
    assert by_name["20", "int8"][5] == "**4.00×** (2.00–6.00)"  # pairs 2, 6, 4; not 3.0 s over 1.0 s
    assert by_name["150", "int8"][5] == "**3.00×** (3.00–3.00)"
    assert by_name["20", "naive eager"][5] == "1"
    assert by_name["20", "int8"][6:] == ["65%", "704 MB", "100.00%"]


def test_the_readme_has_each_device_beside_its_own_baseline() -> None:
    machine = {"processor": "A processor, family 25 (avx2)", "cores": 2}
    photo = [
        row(name, totals, queries=150, labels_as_first=labels) | {"environment": machine}
        for name, totals, labels in (
            ("naive eager", [8.0, 6.0, 8.0], 1.0),
            ("int8 onnxruntime", [2.0, 2.0, 2.0], 0.966),
            ("int8 openvino", [1.0, 1.0, 1.0], 0.9),  # not in the README
        )
    ]
    timed = [
        ("naive eager fp16", 50.0, 0.997),
        ("ONNX Runtime CUDA fp16", 5.0, None),
        ("eager bf16", 1.0, 0.9),
    ]
    rows = [
        {"question": "image", "arch": arch, "contender": name, "queries": queries}
        | {"milliseconds": {"p50": time}, "labels_as_fp32": labels}
        for arch in ("vitl14", "vitb16")
        for queries in (20, 150)
        for name, time, labels in timed
    ]
    report = {"environment": {"gpu": {"name": "NVIDIA H100 80GB HBM3"}}, "rows": rows}
    assert cells(speed_table(photo, [report]))[2:] == [
        ["A processor, 2 cores", "torch, one window at a time", "8,000 ms", "1", "100.0%"],
        ["A processor, 2 cores", "ONNX Runtime, int8", "2,000 ms", "**4.0×**", "96.6%"],
        ["NVIDIA H100", "torch fp16, one window at a time", "50 ms", "1", "99.7%"],
        ["NVIDIA H100", "ONNX Runtime CUDA, fp16", "5 ms", "**10.0×**", ""],
    ]


def test_a_ratio_without_its_row_is_an_error(results: Path) -> None:
    write(results, "photo-20.json", [row("int8", [1.0])])
    with pytest.raises(ValueError, match="no row 'naive eager' of the same run"):
        summary.tables(results)


def test_rows_of_another_run_are_no_partner(results: Path) -> None:
    write(results, "photo-20.json", [row("int8", [1.0])], revision="one")
    write(results, "photo-21.json", [row("naive eager", [2.0])], revision="another")
    with pytest.raises(ValueError, match="of the same run"):
        summary.tables(results)


def test_the_calibration_s_cost_is_of_pairs(results: Path) -> None:
    line = cells(summary.tables(results)["calibration"])[2]
    assert line[0] == "fp32"
    assert line[3] == "**+4.0 %** (+3.0 to +5.0)"


def test_a_swapped_calibration_pair_is_an_error() -> None:
    with pytest.raises(ValueError, match="must alternate"):
        summary.calibration_table([row("a", [1.0]), row("b", [1.0])])


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(1.0, 1.0)], {0}),
        ([(1.0, 5.0), (2.0, 4.0), (3.0, 6.0)], {0, 2}),
        ([(2.0, 5.0), (1.0, 5.0)], {1}),
        ([(1.0, 4.0), (1.0, 5.0)], {1}),
        ([], set()),
    ],
)
def test_the_pareto_front(points: list[tuple[float, float]], front: set[int]) -> None:
    assert summary.pareto_front(points) == front


def test_the_pareto_table_is_sorted_by_time_and_marks_the_front(results: Path) -> None:
    table = cells(summary.tables(results)["pareto"])[2:]
    assert [(line[0], line[3], line[4], line[5], line[7]) for line in table] == [
        ("int8 (ONNX Runtime)", "**2.00×**", "82.10", "-0.80", "yes"),
        ("fp32 (ONNX Runtime)", "**1.00×**", "82.90", "", "yes"),
        ("odd (ONNX Runtime)", "**0.67×**", "80.00", "-2.90", ""),
    ]


def test_limits_are_told_for_each_library(results: Path) -> None:
    line = cells(summary.tables(results)["limits"])[2]
    assert line == ["onnxruntime", "1182", "100 GFLOP/s", "–", "255 GFLOP/s", "–"]


def test_a_document_gets_its_tables_and_nothing_else_changes(results: Path) -> None:
    made = summary.tables(results)
    document = "before\n<!-- begin pareto -->\nold\n<!-- end pareto -->\nafter\n"
    filled = summary.fill(document, made)
    assert filled == f"before\n<!-- begin pareto -->\n{made['pareto']}\n<!-- end pareto -->\nafter\n"
    assert summary.fill(filled, made) == filled
    with pytest.raises(ValueError, match="wants table 'none'"):
        summary.fill("<!-- begin none -->\n<!-- end none -->", made)
    with pytest.raises(ValueError, match="has no <!-- end"):
        summary.fill("<!-- begin pareto -->\n", made)


def test_plots_are_drawn_and_the_same_rows_give_the_same_bytes(results: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.tables.figures import draw

    first, second = (draw(results, tmp_path / name) for name in ("a", "b"))
    assert [path.name for path in first] == ["bench-photo.png", "bench-growth.png", "bench-pareto.png"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes().startswith(b"\x89PNG")
        assert one.read_bytes() == other.read_bytes()


def test_the_documents_say_what_the_rows_say() -> None:
    """A figure that was edited by hand, or rows without their tables, end here."""
    made = summary.tables(summary.RESULTS)
    for document in summary.DOCUMENTS:
        text = document.read_text("utf-8")
        assert summary.fill(text, made) == text, f"{document.name}: run python -m benchmarks.tables.summary"
    found = summary.MEASUREMENTS.read_text("utf-8") if summary.MEASUREMENTS.exists() else None
    assert found == summary.measurements(made), "run python -m benchmarks.tables.summary"


def test_measurements_have_a_section_for_each_table_and_none_without(results: Path) -> None:
    made = summary.tables(results)
    text = summary.measurements(made)
    assert text is not None
    for name in ("photo", "limits", "calibration", "pareto", "queries", "windows"):
        assert made[name] in text
    assert "threads" not in text
    assert "a processor, 2 cores" in text
    assert summary.measurements({}) is None


def test_a_profile_adds_up_what_is_small(tmp_path: Path) -> None:
    rows = [
        {"operator": f"op{i}", "milliseconds": ms, "calls": i} for i, ms in enumerate((80.0, 19.0, 0.6, 0.4))
    ]
    write(tmp_path / "results", "profile-int8.json", rows)
    table = cells(summary.tables(tmp_path / "results")["profile-int8"])[2:]
    assert table == [
        ["op0", "0", "80 ms", "80.0%"],
        ["op1", "1", "19 ms", "19.0%"],
        ["2 other types", "5", "1 ms", "1.0%"],
    ]


def test_every_processor_has_its_own_rows_of_narrow_arithmetic(tmp_path: Path) -> None:
    rows = [row("fp32 onnxruntime", [4.0, 6.0]), row("int8 openvino", [1.0, 2.0], limit_share=0.78)]
    for name, isa in (("new", None), ("old", "AVX2")):
        write(tmp_path, f"narrow-{name}.json", rows)
        path = tmp_path / f"narrow-{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"isa": isa}), "utf-8")
    table = cells(summary.tables(tmp_path)["narrow"])[2:]
    assert [line[0] for line in table] == [
        "a processor, 2 cores",
        "",
        "a processor, 2 cores, held to AVX2",
        "",
    ]
    assert table[1][1:] == ["int8 openvino", "2,000 ms", "**3.50×** (3.00–4.00)", "78%", "100.00%"]


def test_narrow_contenders_follow_from_the_processor() -> None:
    assert narrow.targets({"avx2"}, None) == [
        "fp32@onnxruntime",
        "int8@onnxruntime",
        "int8@openvino",
        "int8@onnxruntime@whole",
        "int8@openvino@whole",
    ]
    assert "bf16@openvino" in narrow.targets({"avx2", "avx512_bf16"}, None)
    assert narrow.targets({"avx2"}, "AVX2") == [
        "fp32@openvino",
        "int8@openvino",
        "int8@openvino@whole",
    ]
    assert narrow.file_name("AMD EPYC, family 25 (avx2 f16c)", None) == (
        "narrow-amd-epyc-family-25-avx2-f16c.json"
    )
    assert narrow.file_name("CPU (avx2)", "AVX2") == "narrow-cpu-avx2-as-avx2.json"


def test_kernels_are_counted_after_the_warm_up() -> None:
    def event(name: str, start: int, **more: Any) -> dict[str, Any]:
        return {"name": name, "ts": start, "dur": 2000, "cat": "Session", **more}

    def kernel(operator: str, start: int, end: str = "kernel_time") -> dict[str, Any]:
        return event(f"n_{end}", start, cat="Node", args={"op_name": operator})

    log = [event("model_run", start) for start in (0, 100, 200)]
    for start in (0, 100, 200):
        log += [kernel("MatMul", start + 1), kernel("MatMul", start + 2), kernel("Add", start + 3)]
        log.append(kernel("Add", start + 4, end="fence_before"))
    events = profile_ops.onnxruntime_events(log, 1)
    assert profile_ops.by_type(events, 2) == {"MatMul": (4.0, 2), "Add": (2.0, 1)}


def test_methods_are_paired_with_the_plain_encoder_and_their_naive_forms(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    plain, own = row("plain, for gem", [1.0, 1.0, 2.0], flops=100), row("gem", [1.1, 1.2, 2.2], flops=110)
    write(folder, "methods-encoder.json", [plain, own])
    write(folder, "methods-photo.json", [row("naive gem", [4.0, 4.0, 4.0]), row("gem", [2.0, 1.0, 2.0])])
    made = summary.tables(folder)
    assert cells(made["methods-encoder"])[2][3:] == ["**+10.0 %** (+10.0 to +20.0)", "+10.0 %"]
    assert cells(made["methods-photo"])[2][3] == "**2.00×** (2.00–4.00)"


def test_exports_of_methods_have_a_line_each_and_say_what_was_not_made(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    own = {"features_max_abs": 2.34e-6, "labels_agreement": 1.0}
    narrow = {"features_max_abs": 0.1, "labels_agreement": 0.91234}
    both = {"encoder.fp32.onnx": own, "encoder.int8.onnx": narrow, "encoder.fp32.dynamic.onnx": narrow}
    gem = {"model": "vitl14", "method": "gem", "encoders": {"encoder.fp32.onnx": own}, "passed": True}
    cpp = {"fp32": {"agreement": 1.0}, "int8": {"agreement": 0.99996}}
    sfp = {"model": "vitb16", "method": "sfp", "encoders": both, "cpp": cpp, "passed": True}
    write(folder, "method-exports.json", [gem, sfp])
    assert cells(summary.tables(folder)["method-exports"])[2:] == [
        ["`sfp`", "ViT-B/16", "2.3e-06", "100.00%", "91.23%", "100.000%", "99.996%"],
        ["`gem`", "ViT-L/14", "2.3e-06", "100.00%", "–", "–", "–"],
    ]
    write(folder, "method-exports.json", [gem, {**sfp, "passed": False, "reason": "parity missed"}])
    with pytest.raises(ValueError, match="sfp, vitb16 did not pass: parity missed"):
        summary.tables(folder)


def test_tools_for_class_lists_are_held_against_the_list_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    rows = [
        {"list": listing, "treatment": treatment, "miou": miou, "classes": classes}
        for listing, treatment, miou, classes in (
            ("a", "as it is", 50.0, 7),
            ("a", "vocabulary suggest", 60.5, 7),
            ("a", "vocabulary suggest --images", 49.0, 5),
            ("b", "as it is", 9.0, 9),
            ("b", "vocabulary suggest", 8.0, 8),
            ("b", "vocabulary suggest --images", 9.0, 5),
        )
    ]
    report = {"scenes": 3, "images": 4, "rows": rows}
    (folder / "vocabulary.json").write_text(json.dumps(report))
    table, note = summary.tables(folder)["vocabulary"].split("\n\n")
    assert cells(table)[2:] == [
        ["as it is", "50.0", "9.0"],
        ["`vocabulary suggest`", "60.5 (+10.5)", "8.0 (-1.0)"],
        ["`vocabulary suggest --images`", "49.0 (-1.0)", "9.0 (+0.0)"],
    ]
    assert "The images were 4 scenes" in note
    assert "left out 2 of 7" in note

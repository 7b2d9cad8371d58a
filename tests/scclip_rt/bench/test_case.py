"""Targets, lists and names of cases."""

from pathlib import Path

import pytest

from scclip_rt.bench.case import Case, Workload, labels, parse_counts, parse_image_size, parse_target, sweep
from scclip_rt.errors import OptionError


def test_a_target_names_precision_backend_and_whole_in_any_order() -> None:
    base = Case(bundle="", precision="fp32", threads=3)
    assert parse_target("a.scclip", base) == Case(bundle="a.scclip", precision="fp32", threads=3)
    assert parse_target("a.scclip@fast@openvino", base).options()["precision"] == "fast"
    case = parse_target("a.scclip@whole@onnxruntime@int8", base)
    assert (case.precision, case.backend, case.whole_image, case.threads) == ("int8", "onnxruntime", True, 3)


def test_a_path_that_exists_is_a_bundle_as_it_stands(tmp_path: Path) -> None:
    folder = tmp_path / "b@int8"
    folder.mkdir()
    assert parse_target(str(folder), Case(bundle="")).precision == "auto"


@pytest.mark.parametrize("target", ["a.scclip@fp33", "@fp32", "a.scclip@"])
def test_an_unknown_part_is_refused(target: str) -> None:
    with pytest.raises(OptionError, match=r"fp32|BUNDLE@PRECISION"):
        parse_target(target, Case(bundle=""))


@pytest.mark.parametrize(
    "parts", ["fp32@int8", "preset=fast@preset=exact", "stride=56@stride=112", "whole@whole"]
)
def test_two_parts_of_a_kind_are_refused(parts: str) -> None:
    with pytest.raises(OptionError, match=r"is the second \w+ after @"):
        parse_target(f"a.scclip@{parts}", Case(bundle=""))


def test_a_sweep_groups_by_workload() -> None:
    targets = [Case(bundle="a"), Case(bundle="b")]
    groups = sweep(targets, sizes=[(375, 500), (2160, 3840)], queries=[1, 20], batches=[1, 6], threads=[None])
    assert len(groups) == 4
    assert [(case.bundle, case.batch) for case in groups[0]] == [("a", 1), ("a", 6), ("b", 1), ("b", 6)]
    assert [(g[0].workload.size, g[0].workload.queries) for g in groups] == [
        ((375, 500), 1), ((375, 500), 20), ((2160, 3840), 1), ((2160, 3840), 20),
    ]  # fmt: skip
    assert all(case.workload == group[0].workload for group in groups for case in group)


def test_labels_tell_what_differs_and_nothing_else() -> None:
    base = Case(bundle="x/vit.scclip", precision="fp32")
    assert labels([base]) == ["vit"]
    int8 = Case(bundle="x/vit.scclip", precision="int8")
    assert labels([base, int8]) == ["vit fp32", "vit int8"]
    assert labels([Case(bundle="a", batch=1), Case(bundle="a", batch=6)]) == ["a batch 1", "a batch 6"]
    assert labels([Case(bundle="a"), Case(bundle="a", whole_image=True)]) == ["a windows", "a whole"]
    assert labels([Case(bundle="x/a.scclip"), Case(bundle="y/a.scclip")]) == ["x/a.scclip", "y/a.scclip"]


@pytest.mark.parametrize("text", ["0", "1,,2", "a", "1.5", "-1", ""])
def test_counts_are_whole_numbers_from_one(text: str) -> None:
    with pytest.raises(OptionError, match="--queries takes whole numbers"):
        parse_counts("--queries", text)


def test_counts_and_sizes() -> None:
    assert parse_counts("--queries", "20, 150,20") == [20, 150]
    assert parse_image_size("375x500") == parse_image_size(" 375×500") == (375, 500)
    with pytest.raises(OptionError, match="expected HxW in pixels"):
        parse_image_size("375")
    with pytest.raises(OptionError, match="at most 128 million pixels"):
        parse_image_size("20000x20000")
    with pytest.raises(OptionError, match="at least 1x1"):
        Workload(image_size=(0, 5))

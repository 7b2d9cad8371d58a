"""Whole runs: outputs of every format, resuming, refusals, processes that die."""

import io
import json
import os
import signal
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scclip_rt import OptionError, Segmenter
from scclip_rt.batch import BatchError, BatchJob, InputOptions, LocalEngine, run_batch
from scclip_rt.batch.image_files import FileShard
from scclip_rt.batch.ledger import FOLDER
from scclip_rt.batch.rows import Row
from scclip_rt.batch.writers import WRITERS, Labelling
from tests.scclip_rt.batch.conftest import BAD, CLASSES

ONE = LocalEngine(workers=1, threads=1)


def job(bundle: Path, output: Path, *inputs: Path, size: int = 2, **changes: Any) -> BatchJob:
    values = {"classes": CLASSES, "templates": "none", "reading": InputOptions(shard_size=size), **changes}
    return BatchJob(inputs=inputs, bundle=bundle, output=output, **values)


def outputs(folder: Path) -> dict[str, bytes]:
    """Every file but the ledger."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and FOLDER not in path.parts
    }


def read_rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The rows as another program reads them."""
    if kind == "parquet":
        rows: list[dict[str, Any]] = pytest.importorskip("pyarrow.parquet").read_table(folder).to_pylist()
        return [row | {"shares": json.loads(row["shares"])} for row in rows]
    if kind == "png":
        lines = [line for path in sorted(folder.glob("rows/*")) for line in path.read_text().splitlines()]
        rows = [json.loads(line) for line in lines]
        for row in rows:
            png = folder / f"{row['key']}.labels.png"
            row["labels_png"] = png.read_bytes() if png.exists() else b""
        return rows
    rows = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}
        for name, data in files.items():
            if name.endswith(".json"):
                labels = files.get(name.replace(".json", ".labels.png"), b"")
                rows.append(json.loads(data) | {"labels_png": labels})
    return rows


@pytest.mark.parametrize("kind", ["parquet", "webdataset", "png"])
@pytest.mark.parametrize("source", ["folder", "tar", "parquet"])
def test_labels_are_those_of_single_images(
    request: pytest.FixtureRequest, bundle_path: Path, folder: Path, tmp_path: Path, source: str, kind: str
) -> None:
    report = run_batch(job(bundle_path, tmp_path / "out", request.getfixturevalue(source), format=kind), ONE)
    assert (report.images, report.errors, report.before, report.failed) == (6, 1, 0, ())
    assert "not an image" in report.examples[0]
    rows = read_rows(tmp_path / "out", kind)
    segment = Segmenter(bundle_path, classes=CLASSES, templates="none")
    for number, (row, path) in enumerate(zip(rows, sorted(folder.rglob("*.jpg")), strict=True)):
        if number == BAD:
            assert "not an image" in row["error"]
            assert (row["labels_png"], row["height"], row["shares"]) == (b"", 0, {})
            continue
        expected = segment(path)
        labels = Image.open(io.BytesIO(row["labels_png"]))
        assert labels.mode == "L"  # of a palette webdataset's decode("l8") would give the colours' brightness
        assert np.array_equal(np.asarray(labels), expected.labels)
        assert (row["height"], row["width"], row["error"]) == (*expected.labels.shape, "")
        assert row["shares"] == pytest.approx(expected.shares(), abs=1e-6)
    classes = json.loads((tmp_path / "out" / FOLDER / "classes.json").read_text())
    assert classes["classes"] == ["cat", "dog", "sky"]
    assert classes["unlabelled"] == 255


@pytest.mark.parametrize("kind", ["coco", "labelme", "npz"])
def test_shards_in_the_format_of_other_tools(
    bundle_path: Path, folder: Path, tmp_path: Path, kind: str
) -> None:
    report = run_batch(job(bundle_path, tmp_path / "out", folder, format=kind, size=4), ONE)
    assert (report.images, report.errors) == (6, 1)
    parts = sorted(path for path in (tmp_path / "out").iterdir() if path.name != FOLDER)
    assert [path.name for path in parts] == ["part-00000", "part-00001"]
    lines = [json.loads(line) for part in parts for line in (part / "rows.jsonl").read_text().splitlines()]
    assert [bool(line["error"]) for line in lines] == [number == BAD for number in range(6)]
    if kind == "coco":
        images = [
            image["file_name"]
            for part in parts
            for image in json.loads((part / "coco.json").read_text())["images"]
        ]
        assert images == ["000.jpg", "001.jpg", "002.jpg", "sub/003.jpg", "sub/005.jpg"]
        return
    files = [
        path for part in parts for path in sorted(part.rglob(f"*.{'json' if kind == 'labelme' else 'npz'}"))
    ]
    assert len(files) == 5
    if kind == "labelme":
        # Written in a temporary folder beside its place: the way from there to the image is the same.
        reference = json.loads(files[0].read_text())["imagePath"]
        assert (files[0].parent / reference).resolve() == (folder / "000.jpg").resolve()


def test_two_processes_write_what_one_writes(bundle_path: Path, tar: Path, tmp_path: Path) -> None:
    run_batch(job(bundle_path, tmp_path / "one", tar), ONE)
    report = run_batch(job(bundle_path, tmp_path / "two", tar), LocalEngine(workers=2))
    assert report.images == 6
    assert outputs(tmp_path / "one") == outputs(tmp_path / "two")


def test_a_run_that_stopped_goes_on_and_does_nothing_twice(
    bundle_path: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_batch(job(bundle_path, tmp_path / "whole", folder, format="png"), ONE)

    def stop(images: int, *_: int) -> None:
        if images == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_batch(job(bundle_path, tmp_path / "out", folder, format="png"), ONE, progress=stop)
    (tmp_path / "out" / "sub").mkdir(exist_ok=True)
    (tmp_path / "out" / "sub" / ".tmp-killed.png").write_bytes(b"half")
    read: list[str] = []
    plain = FileShard.items

    def items(shard: FileShard) -> Any:
        for item in plain(shard):
            read.append(item.key)
            yield item

    monkeypatch.setattr(FileShard, "items", items)
    again = job(bundle_path, tmp_path / "out", folder, format="png", resume=True)
    report = run_batch(again, ONE)
    assert (report.images, report.errors, report.before) == (6, 1, 2)
    assert read == ["002", "sub/003", "sub/004", "sub/005"]  # the first shard was finished
    assert outputs(tmp_path / "out") == outputs(tmp_path / "whole")
    assert run_batch(again, ONE).before == 6
    assert len(read) == 4


def test_what_does_not_belong_together_is_refused(
    bundle_path: Path, folder: Path, tar: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run_batch(job(bundle_path, out, folder), ONE)
    before = outputs(out)
    cases = [
        (job(bundle_path, out, folder), "holds a run, 3 shards of it done; --resume"),
        (job(bundle_path, out, tar, resume=True), "was begun with input = "),
        (job(bundle_path, out, folder, resume=True, format="png"), 'format = "parquet", and now it is "png"'),
        (
            job(bundle_path, out, folder, resume=True, size=3),
            "was begun with reading = .*go on with the same",
        ),
        (
            job(bundle_path, out, folder, resume=True, options={"prob_threshold": 0.9}),
            "was begun with options",
        ),
        (job(bundle_path, folder, folder), "is not empty and holds no batch run"),
        (job(bundle_path, folder / "000.jpg", folder), "is a file"),
    ]
    for wrong, message in cases:
        with pytest.raises(BatchError, match=message):
            run_batch(wrong, ONE)
    assert outputs(out) == before
    assert not (folder / FOLDER / "job.json").exists()
    with pytest.raises(OptionError, match="unknown format"):
        job(bundle_path, out, folder, format="jpeg")


def test_a_second_run_into_the_same_folder_is_kept_out(
    bundle_path: Path, folder: Path, tmp_path: Path
) -> None:
    def second(*_: int) -> None:
        with pytest.raises(BatchError, match="another run is writing"):
            run_batch(job(bundle_path, tmp_path / "out", folder, resume=True), ONE)

    run_batch(job(bundle_path, tmp_path / "out", folder), ONE, progress=second)


def test_a_shard_that_can_not_be_read_does_not_stop_the_others(
    bundle_path: Path, tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy.tar"
    copy.write_bytes(tar.read_bytes())

    told: list[int] = []

    def damage(images: int, *_: int) -> None:
        told.append(images)
        if images == 2 and len(told) == 3:
            copy.write_bytes(tar.read_bytes()[: 9 * 1024])

    report = run_batch(job(bundle_path, tmp_path / "out", copy), ONE, progress=damage)
    assert report.images < 6
    assert "copy.tar" in report.failed[0]
    assert told[-1] == report.images
    copy.write_bytes(tar.read_bytes())
    report = run_batch(job(bundle_path, tmp_path / "out", copy, resume=True), ONE)
    assert (report.images, report.errors, report.failed) == (6, 1, ())


class _Killer(FileShard):
    """A shard that ends the process that reads it."""

    def items(self) -> Any:
        yield from super().items()
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_told_and_what_is_finished_stays(
    bundle_path: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scclip_rt.batch import run

    plain = run.plan_shards

    def plan(*arguments: Any) -> Any:
        shards = plain(*arguments)
        return [*shards[:-1], _Killer(files=shards[-1].files)]

    with monkeypatch.context() as patch:
        patch.setattr(run, "plan_shards", plan)
        with pytest.raises(BatchError, match=r"worker with shard 2 was ended by SIGKILL.*fewer --actors"):
            run_batch(job(bundle_path, tmp_path / "out", folder), LocalEngine(workers=2))
    report = run_batch(job(bundle_path, tmp_path / "out", folder, resume=True), ONE)
    assert (report.images, report.failed) == (6, ())


def test_an_error_of_every_worker_is_raised_as_it_is(bundle_path: Path, folder: Path, tmp_path: Path) -> None:
    from scclip_rt import BackendError

    wrong = job(bundle_path, tmp_path / "out", folder, options={"precision": "fp7"})
    for workers in (1, 2):
        with pytest.raises(BackendError, match="fp7"):
            run_batch(wrong if workers == 1 else job(
                bundle_path, tmp_path / "out", folder, options={"precision": "fp7"}, resume=True
            ), LocalEngine(workers=workers))  # fmt: skip


def test_threads_and_devices_are_divided_among_workers() -> None:
    assert LocalEngine(workers=3, threads=8).overrides() == [{"threads": 2}] * 3
    assert LocalEngine(threads=8).overrides() == [{"threads": 4}] * 2
    assert LocalEngine(threads=1).overrides() == [{"threads": 1}]
    devices = [
        worker["device"] for worker in LocalEngine(devices=("cuda:0", "cuda:1"), threads=8).overrides()
    ]
    assert devices == ["cuda:0", "cuda:1"]
    with pytest.raises(OptionError, match="workers must be"):
        LocalEngine(workers=0)


@pytest.mark.parametrize("kind", ["webdataset", "png"])
def test_keys_stay_inside_the_output_and_apart(tmp_path: Path, kind: str) -> None:
    keys = ["../up", "/root", "a//b", "a/./b", "a/%2E/b", "x.y", "x%2Ey", "CON:1", "", "ümlaut x"]
    labelling = Labelling(classes=("a",), unlabelled=255, background=None, bundle="b", checkpoint="c")
    with WRITERS[kind](tmp_path / "out", 0, labelling) as add:
        for key in keys:
            add(Row(key=key, source="s", labels_png=key.encode()))
    if kind == "png":
        found = {
            p.relative_to(tmp_path / "out").as_posix(): p.read_bytes()
            for p in (tmp_path / "out").rglob("*.png")
        }
    else:
        with tarfile.open(tmp_path / "out" / "part-00000.tar") as tar:
            found = {m.name: tar.extractfile(m).read() for m in tar if m.name.endswith(".png")}
    assert sorted(found.values()) == sorted(key.encode() for key in keys)
    assert all(".." not in name.split("/") and not name.startswith("/") for name in found)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    if kind == "webdataset":
        assert all(name.rpartition("/")[2].count(".") == 2 for name in found)

"""`scclip cache` shows what is kept, and clears what is named."""

import errno
import json
from pathlib import Path

import pytest

from scclip_rt.cli import run
from scclip_rt.files import cache_directory


@pytest.fixture
def folder() -> Path:
    root = cache_directory()
    assert root is not None
    for name, size in (("embeddings/ab/one.row", 300), ("embeddings/cd/two.row", 200), ("hashes/x.json", 7)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"0" * size)
    return root


def test_it_shows_where_and_how_much(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["path"] == str(folder)
    sizes = {entry["name"]: (entry["files"], entry["bytes"]) for entry in document["entries"]}
    assert sizes == {"embeddings": (2, 500), "hashes": (1, 7)}
    assert run(["cache"]) == 0
    assert "embeddings" in capsys.readouterr().out


def test_a_report_that_exists_is_kept_and_nothing_is_cleared(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    report.write_text("mine")
    assert run(["cache", "--clear", "all", f"--json={report}"]) == 2
    assert "report.json exists; pass --force" in capsys.readouterr().err
    assert report.read_text() == "mine"
    assert len(list(folder.iterdir())) == 2
    assert run(["cache", f"--json={report}", "--force"]) == 0
    assert json.loads(report.read_text())["path"] == str(folder)


def test_it_clears_what_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", "--clear", "embeddings"]) == 0
    assert "cleared" in capsys.readouterr().out
    assert [path.name for path in folder.iterdir()] == ["hashes"]
    assert run(["cache", "--clear", "all"]) == 0
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "names", [["embeddings", "embeddings", "hashes"], ["all", "embeddings"], ["hashes", "all"]]
)
def test_a_name_may_come_twice_and_all_beside_others(folder: Path, names: list[str]) -> None:
    assert run(["cache", "--clear", *names]) == 0
    assert list(folder.iterdir()) == []


def test_what_every_cache_may_have_is_cleared_also_where_it_is_not_there(folder: Path) -> None:
    assert run(["cache", "--clear", "tuned", "hashes.json"]) == 0
    assert len(list(folder.iterdir())) == 2


def test_other_processes_may_write_and_remove_meanwhile(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scclip_rt.cli import cache

    remove = cache.shutil.rmtree

    def beside_a_writer(path: Path) -> None:
        monkeypatch.setattr(cache.shutil, "rmtree", remove)
        remove(path / "ab")
        raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))

    monkeypatch.setattr(cache.shutil, "rmtree", beside_a_writer)
    gone = folder / "embeddings" / "ab" / "gone.row"
    walk = [(str(gone.parent), [], [gone.name, "one.row"])]
    monkeypatch.setattr(cache.os, "walk", lambda _: iter(walk))
    assert run(["cache", "--clear", "embeddings"]) == 0
    assert [path.name for path in folder.iterdir()] == ["hashes"]


def test_a_name_that_is_not_there_clears_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", "--clear", "hashes", "embedings"]) == 2
    assert "has no embedings; it has embeddings, hashes" in capsys.readouterr().err
    assert len(list(folder.iterdir())) == 2

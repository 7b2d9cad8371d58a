"""Outputs are complete or absent, whatever happens while they are written."""

# ruff: noqa: PT012 (what happens inside the context manager before the failure is the point)

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest

from scclip_rt import files
from scclip_rt.errors import OutputError


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_on_the_way_to_an_output_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for below in ("file/a.png", "file/b/a.png"):
        with (
            pytest.raises(OutputError, match="a folder on the way to it is a file"),
            files.atomic_path(tmp_path / below),
        ):
            pass
    with (
        pytest.raises(OutputError, match="a folder on the way to it"),
        files.atomic_directory(tmp_path / "file" / "x"),
    ):
        pass


def test_file_appears_complete_with_parents_and_ordinary_permissions(tmp_path: Path) -> None:
    target = tmp_path / "new" / "labels.png"
    with files.atomic_path(target) as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == target.parent
        temporary.write_bytes(b"png")
        assert not target.exists()
    assert target.read_bytes() == b"png"
    (tmp_path / "plain").write_bytes(b"")
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert entries(target.parent) == ["labels.png"]


def test_existing_file_needs_force(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with (
        pytest.raises(OutputError, match=r"a\.txt exists; pass --force to replace it"),
        files.atomic_path(target),
    ):
        pytest.fail("the body must not run")
    with files.atomic_path(target, force=True) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"


def test_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with pytest.raises(OutputError, match="exists"), files.atomic_path(target) as temporary:
        temporary.write_text("mine")
        target.write_text("theirs")
    assert target.read_text() == "theirs"
    assert entries(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("failure", [ValueError("bad"), KeyboardInterrupt(), MemoryError()])
def test_failure_leaves_nothing_and_keeps_the_old_file(tmp_path: Path, failure: BaseException) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(failure)), files.atomic_path(target, force=True) as temporary:
        temporary.write_text("half")
        raise failure
    assert target.read_text() == "old"
    assert entries(tmp_path) == ["a.txt"]


def test_full_disk_is_told_with_the_reason(tmp_path: Path) -> None:
    message = r"can't write .*a\.txt: No space left on device; free some space"
    with pytest.raises(OutputError, match=message), files.atomic_path(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert entries(tmp_path) == []


def test_full_disk_at_sync_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with (
        pytest.raises(OutputError, match="No space left"),
        files.atomic_path(tmp_path / "a.txt") as temporary,
    ):
        temporary.write_text("data that never reaches the disk")
    assert entries(tmp_path) == []


def test_target_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't write"), files.atomic_path(tmp_path / "file" / "a.txt"):
        pytest.fail("the body must not run")


def test_error_about_an_input_is_not_reported_as_a_failed_write(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"), files.atomic_path(tmp_path / "a.txt"):
        (tmp_path / "missing").read_text()
    assert entries(tmp_path) == []


def test_folder_appears_complete(tmp_path: Path) -> None:
    target = tmp_path / "x.scclip"
    with files.atomic_directory(target) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "file").write_text("1")
        assert not target.exists()
    assert (target / "sub" / "file").read_text() == "1"
    assert entries(tmp_path) == ["x.scclip"]


def ours(folder: Path) -> bool:
    return (folder / "old").is_file()


def test_folder_is_replaced_only_with_force(tmp_path: Path) -> None:
    target = tmp_path / "x.scclip"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(OutputError, match="pass --force"), files.atomic_directory(target):
        pytest.fail("the body must not run")
    with pytest.raises(OutputError, match="not ours"), files.atomic_directory(target, force=True):
        pytest.fail("the body must not run")
    with files.atomic_directory(target, force=True, own=ours) as temporary:
        (temporary / "new").write_text("new")
    assert entries(target) == ["new"]
    assert entries(tmp_path) == ["x.scclip"]


@pytest.mark.parametrize("failure", [ValueError("bad"), KeyboardInterrupt()])
def test_failed_folder_keeps_the_old_one(tmp_path: Path, failure: BaseException) -> None:
    target = tmp_path / "x.scclip"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(type(failure)), files.atomic_directory(target, force=True, own=ours) as temporary:
        (temporary / "new").write_text("half")
        raise failure
    assert entries(target) == ["old"]
    assert entries(tmp_path) == ["x.scclip"]


def test_old_folder_comes_back_if_the_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.scclip"
    target.mkdir()
    (target / "old").write_text("old")
    rename = Path.rename

    def fail_for_the_new_one(self: Path, to: Path) -> Path:
        if self.name.startswith(".tmp-"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with (
        pytest.raises(OutputError, match="Input/output"),
        files.atomic_directory(target, force=True, own=ours),
    ):
        pass
    assert entries(target) == ["old"]
    assert entries(tmp_path) == ["x.scclip"]


def test_what_a_killed_run_left_is_cleared_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    target = tmp_path / "x.scclip"
    (tmp_path / ".tmp-x.scclip-dead").mkdir()
    (tmp_path / ".tmp-x.scclip-dead" / "weights").write_text("gigabytes")
    (tmp_path / ".old-x.scclip-dead" / "x.scclip").mkdir(parents=True)  # killed between two renames
    (tmp_path / ".old-x.scclip-dead" / "x.scclip" / "old").write_text("old")
    (tmp_path / ".tmp-y.scclip-other").mkdir()
    with pytest.raises(OutputError, match=r"x\.scclip exists"), files.atomic_directory(target):
        pytest.fail("the old one is back")
    assert entries(tmp_path) == [".tmp-y.scclip-other", "x.scclip"]
    with files.atomic_directory(target, force=True, own=ours) as living:
        with pytest.raises(OutputError), files.atomic_directory(target):
            pass
        assert living.is_dir()


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_force_replaces_regular_files_alone(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out.json"
    if kind == "pipe":
        os.mkfifo(target)
    elif kind == "device":
        target.symlink_to("/dev/null")
    else:
        target.mkdir()
    with pytest.raises(OutputError, match="does not replace"), files.atomic_path(target, force=True):
        pytest.fail("the body must not run")
    assert os.path.lexists(target)
    assert Path("/dev/null").is_char_device()


def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    assert files.cache_directory() is None


def test_sha256_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    (tmp_path / "f").write_bytes(data)
    assert files.sha256_file(tmp_path / "f") == hashlib.sha256(data).hexdigest()


def test_cache_directory_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_directory() == tmp_path / "scclip-rt"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    assert files.cache_directory() == Path("/home/someone/.cache/scclip-rt")

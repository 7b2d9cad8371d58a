"""Every kind of input gives the same images, in shards whose order never changes; what is wrong is told."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scclip_rt import OptionError
from scclip_rt.batch import BatchError, InputOptions
from scclip_rt.batch.item import Item, Shard
from scclip_rt.batch.parquet import _ranges
from scclip_rt.batch.plan import plan_shards
from tests.scclip_rt.batch.conftest import write_tar


def items(shards: list[Shard]) -> list[Item]:
    """What workers see: the shards as they arrive in another process."""
    found = []
    for shard in pickle.loads(pickle.dumps(shards)):
        own = list(shard.items())
        assert len(own) == shard.count
        found += own
    return found


def content(item: Item) -> bytes | None:
    return item.image.read_bytes() if isinstance(item.image, Path) else item.image


def plan(*inputs: object, size: int = 4, **options: str) -> list[Shard]:
    return plan_shards([str(path) for path in inputs], InputOptions(shard_size=size, **options))


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet"])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_all_kinds_give_the_same_images(
    request: pytest.FixtureRequest, encoded: list[bytes], kind: str, size: int
) -> None:
    shards = plan(request.getfixturevalue(kind), size=size)
    assert [content(item) for item in items(shards)] == encoded
    assert len(shards) == {1: 6, 4: 2, 100: 1}[size]
    assert len({item.key for item in items(shards)}) == 6


def test_keys_are_paths_below_the_folder_without_suffix(folder: Path) -> None:
    keys = [item.key for item in items(plan(folder))]
    assert keys == ["000", "001", "002", "sub/003", "sub/004", "sub/005"]
    assert [item.key for item in items(plan(folder / "000.jpg", folder / "sub" / "*.jpg"))] == [
        "000", "sub/003", "sub/004", "sub/005",
    ]  # fmt: skip


def test_images_of_one_stem_keep_their_suffix(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.png", ".hidden.png", "notes.md"):
        (tmp_path / name).touch()
    assert [item.key for item in items(plan(tmp_path))] == ["a.jpg", "a.png", "b"]


def test_a_folder_may_hold_containers_instead(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write_tar(tmp_path / "b.tar", {"1.jpg": b"1"})
    write_tar(tmp_path / "deep" / "a.tar", {"2.jpg": b"2"})
    (tmp_path / "README.md").touch()
    assert [item.key for item in items(plan(tmp_path))] == ["1", "2"]


def test_relative_inputs_are_found_from_another_folder(
    folder: Path, encoded: list[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(folder.parent)
    shards = plan("photos")
    monkeypatch.chdir(tmp_path)
    assert [content(item) for item in items(shards)] == encoded
    assert [item.key for item in items(shards)][:2] == ["000", "001"]


def test_a_list_names_files_relative_to_its_folder(folder: Path) -> None:
    listing = folder.parent / "list.txt"
    listing.write_text("photos/sub/005.jpg\n\nphotos/000.jpg\n")
    assert [Path(item.source) for item in items(plan(listing))] == [
        folder.parent / "photos/sub/005.jpg", folder.parent / "photos/000.jpg",
    ]  # fmt: skip


def test_tar_keys_are_webdatasets_unless_two_files_share_one(tmp_path: Path) -> None:
    first = write_tar(tmp_path / "a.tar", {"x/1.jpg": b"1", "x/2.jpg": b"2"})
    second = write_tar(tmp_path / "b.tar", {"x/3.jpg": b"3"})
    third = write_tar(tmp_path / "c.tar", {"x/1.jpg": b"4"})
    assert [item.key for item in items(plan(first, second))] == ["x/1", "x/2", "x/3"]
    assert [item.key for item in items(plan(first, third))] == ["a/x/1", "a/x/2", "c/x/1"]


def test_tar_samples_are_found_from_the_middle_of_a_file(tmp_path: Path) -> None:
    long = "deep/" * 30 + "name" * 10  # a header of its own
    path = write_tar(
        tmp_path / "a.tar", {f"{long}{i}.{end}": b"%d" % i for i in range(7) for end in ("jpg", "txt")}
    )
    assert [content(item) for item in items(plan(path, size=2))] == [b"%d" % i for i in range(7)]


def test_a_sample_without_image_is_an_item_with_an_error(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"1.json": b"{}", "1.cls": b"3", "2.jpg": b"x", "3.jpg": b""})
    first, second, third = items(plan(path))
    assert (first.image, first.error) == (None, "no image in the sample; it has json, cls")
    assert second.image == b"x"
    assert (third.image, third.error) == (None, "the image has no bytes")
    assert items(plan(path, column="cls"))[0].image == b"3"


def test_parquet_of_bytes_paths_and_nothing(tmp_path: Path, encoded: list[bytes]) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "one.jpg").write_bytes(encoded[0])
    rows = {"name": ["one.jpg", None], "raw": [encoded[1], None], "note": ["a", "b"]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    by_path = items(plan(tmp_path / "a.parquet", column="name"))
    assert content(by_path[0]) == encoded[0]
    assert by_path[1].error == "the row has no image"
    assert items(plan(tmp_path / "a.parquet"))[0].image == encoded[1]
    assert [item.key for item in by_path] == ["a-00000000", "a-00000001"]


def test_a_key_column_names_the_rows(parquet: Path, tmp_path: Path) -> None:
    assert [item.key for item in items(plan(parquet, key="id"))] == [str(100 + i) for i in range(6)]
    with pytest.raises(BatchError, match="two rows have 'x' in the key column 'label'"):
        plan(parquet, key="label")


@pytest.mark.parametrize(
    ("groups", "size", "expected"),
    [
        ([4, 2], 4, [(0, 4), (4, 6)]),
        ([4, 2], 6, [(0, 6)]),
        ([3, 3, 3], 7, [(0, 6), (6, 9)]),
        ([10], 4, [(0, 4), (4, 8), (8, 10)]),
        ([2, 10], 4, [(0, 2), (2, 6), (6, 10), (10, 12)]),
        ([], 4, []),
    ],
)
def test_parquet_shards_end_with_row_groups_where_these_are_small(
    groups: list[int], size: int, expected: list[tuple[int, int]]
) -> None:
    assert list(_ranges(groups, size)) == expected


def test_lance(tmp_path: Path, encoded: list[bytes]) -> None:
    lance = pytest.importorskip("lance", reason="Lance's reader is not installed: pip install pylance")
    pa = pytest.importorskip("pyarrow")
    lance.write_dataset(pa.table({"image": encoded, "id": list(range(6))}), tmp_path / "six.lance")
    assert [content(item) for item in items(plan(tmp_path / "six.lance"))] == encoded
    assert [item.key for item in items(plan(tmp_path, key="id"))] == list("012345")


def test_a_cut_off_tar_is_refused_before_any_work(tar: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.tar"
    cut.write_bytes(tar.read_bytes()[:4000])
    with pytest.raises(BatchError, match=r"cut\.tar: unexpected end of data"):
        plan(cut)


def test_what_can_not_be_an_input_is_told(folder: Path, parquet: Path, tar: Path, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"a": [b"1"], "b": [b"2"], "c": [1.5]}), tmp_path / "two.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "bad.tar").write_bytes(b"no tar" * 200)
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.tar.gz").touch()
    repeated = write_tar(tmp_path / "r.tar", {"1.jpg": b"1", "2.jpg": b"2", "1.txt": b"3"})
    cases = [
        (("nowhere",), {}, "nowhere: no such file or folder"),
        ((tmp_path / "*.jpg",), {}, "no file fits this pattern"),
        ((tmp_path / "empty",), {}, "no images in this folder"),
        ((folder, tar), {}, "mixes WebDataset tars and images"),
        ((tmp_path / "two.parquet",), {}, "2 could be it: a, b. Name it with --column"),
        ((tmp_path / "two.parquet",), {"column": "c"}, "is double; images are binary"),
        ((parquet,), {"column": "img"}, "no column 'img'; it has image, id, label"),
        ((tmp_path / "bad.parquet",), {}, "can't read .*bad.parquet"),
        ((tmp_path / "bad.tar",), {}, "can't read .*bad.tar"),
        ((tmp_path / "x.tar.gz",), {}, "unpack it to a .tar"),
        ((repeated,), {}, "2 samples '1' that don't follow each other"),
    ]
    for inputs, options, message in cases:
        with pytest.raises(BatchError, match=message):
            plan(*inputs, **options)
    for inputs, options, message in [
        ((folder,), {"column": "jpg"}, "--column .* is for Parquet"),
        ((tar,), {"key": "id"}, "--key .* is for Parquet and Lance"),
        ((folder,), {"size": 0}, "shard_size must be"),
    ]:
        with pytest.raises(OptionError, match=message):
            plan(*inputs, **options)


def test_exif_orientation_is_kept_whatever_holds_the_file(folder: Path, tar: Path, parquet: Path) -> None:
    for path in (folder, tar, parquet):
        data = content(items(plan(path))[2])
        assert data is not None
        assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6
        assert np.asarray(Image.open(io.BytesIO(data))).shape == (62, 90, 3)

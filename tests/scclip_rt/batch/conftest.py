"""The same six images in a folder, a tar and a Parquet file; one of them is none."""

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from tiny_bundle import blocks_image

CLASSES = ["cat", "dog, puppy", "sky"]
BAD = 4


@pytest.fixture(scope="session")
def encoded() -> list[bytes]:
    """Six image files; number `BAD` is damaged, number 2 is turned by EXIF."""
    files = []
    for i in range(6):
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 2 else 1
        stream = io.BytesIO()
        Image.fromarray(blocks_image(60 + i, 90, seed=i)).save(stream, "JPEG", exif=exif)
        files.append(stream.getvalue() if i != BAD else b"no image")
    return files


@pytest.fixture(scope="session")
def folder(encoded: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inputs") / "photos"
    (path / "sub").mkdir(parents=True)
    for i, data in enumerate(encoded):
        (path / ("sub" if i > 2 else "") / f"{i:03}.jpg").write_bytes(data)
    return path


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    """A tar file with these members, in this order."""
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="session")
def tar(encoded: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    members = {}
    for i, data in enumerate(encoded):
        members |= {f"{i:03}.json": b"{}", f"{i:03}.jpg": data, f"{i:03}.seg.png": b"a mask"}
    return write_tar(tmp_path_factory.mktemp("tars") / "six.tar", members)


@pytest.fixture(scope="session")
def parquet(encoded: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hugging Face's form, in row groups of 4 and 2."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [
        {"image": {"bytes": data, "path": f"{i}.jpg"}, "id": 100 + i, "label": "x"}
        for i, data in enumerate(encoded)
    ]
    path = tmp_path_factory.mktemp("parquet") / "six.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=4)
    return path

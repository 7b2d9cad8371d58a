"""The examples of docs/ray.md for Spark and Daft, where these are installed: tests/engines.sh."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scclip_rt import Segmenter
from tiny_bundle import blocks_image

CLASSES = ["cat", "dog, puppy", "sky"]


@pytest.fixture
def photos() -> list[bytes]:
    """Four images; the last is none."""
    files = []
    for i in range(3):
        stream = io.BytesIO()
        Image.fromarray(blocks_image(60 + i, 80, seed=i)).save(stream, "JPEG")
        files.append(stream.getvalue())
    return [*files, b"no image"]


def check(rows: list[dict[str, Any]], photos: list[bytes], bundle: Path) -> None:
    segment = Segmenter(bundle, classes=CLASSES, templates="none")
    assert [row["id"] for row in rows] == [0, 1, 2, 3]
    for row, data in zip(rows[:3], photos, strict=False):
        labels = np.asarray(Image.open(io.BytesIO(row["labels_png"])))
        assert np.array_equal(labels, segment(data).labels)
        assert row["error"] == ""
    assert "not an image" in rows[3]["error"]


def test_spark(photos: list[bytes], bundle_path: Path) -> None:
    sql = pytest.importorskip("pyspark.sql", reason="Spark is not installed: tests/engines.sh")
    bundle = str(bundle_path)

    def segment(frames: Iterator[Any]) -> Iterator[Any]:
        import pandas as pd

        from scclip_rt.batch import SegmentRows

        rows = SegmentRows(bundle, ["cat", "dog, puppy", "sky"], templates="none", threads=1)
        for frame in frames:
            yield pd.DataFrame(rows(frame))

    spark = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", 2)
        table = spark.createDataFrame([(i, data) for i, data in enumerate(photos)], "id long, bytes binary")
        schema = "id long, height int, width int, labels_png binary, shares string, error string"
        rows = [row.asDict() for row in table.mapInPandas(segment, schema).collect()]
    finally:
        spark.stop()
    check(sorted(rows, key=lambda row: row["id"]), photos, bundle_path)


def test_daft(photos: list[bytes], bundle_path: Path) -> None:
    daft = pytest.importorskip("daft", reason="Daft is not installed: tests/engines.sh")
    fields = {
        "height": daft.DataType.int64(),
        "width": daft.DataType.int64(),
        "labels_png": daft.DataType.binary(),
    }
    fields |= {"shares": daft.DataType.string(), "error": daft.DataType.string()}

    @daft.cls(max_concurrency=1)
    class Segment:
        def __init__(self, bundle: str, classes: list[str]) -> None:
            from scclip_rt.batch import SegmentRows

            self.rows = SegmentRows(bundle, classes, templates="none", threads=1)

        @daft.method.batch(return_dtype=daft.DataType.struct(fields), unnest=True, batch_size=2)
        def labels(self, images: Any) -> list[dict[str, Any]]:
            made = self.rows({"bytes": images.to_pylist()})
            return [dict(zip(made, values, strict=True)) for values in zip(*made.values(), strict=True)]

    segment = Segment(str(bundle_path), CLASSES)
    table = daft.from_pydict({"id": [0, 1, 2, 3], "bytes": photos})
    rows = table.select(table["id"], segment.labels(table["bytes"])).to_pylist()
    check(sorted(rows, key=lambda row: row["id"]), photos, bundle_path)

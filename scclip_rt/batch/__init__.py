"""Millions of images: photos, Parquet, WebDataset or Lance in, labels in Parquet, tars or PNGs out; resumable.

    from scclip_rt.batch import BatchJob, LocalEngine, run_batch

    job = BatchJob(inputs=["shards/*.tar"], bundle="vitb16.scclip", classes=Path("voc.txt"), output="out")
    report = run_batch(job, LocalEngine(workers=4))

`SegmentRows` is the same work for other engines: a callable from rows to rows.
"""

from scclip_rt.batch.errors import BatchError
from scclip_rt.batch.item import InputOptions
from scclip_rt.batch.local import LocalEngine
from scclip_rt.batch.rows import Row
from scclip_rt.batch.run import BatchJob, BatchReport, run_batch
from scclip_rt.batch.segment_rows import SegmentRows

__all__ = [
    "BatchError",
    "BatchJob",
    "BatchReport",
    "InputOptions",
    "LocalEngine",
    "Row",
    "SegmentRows",
    "run_batch",
]

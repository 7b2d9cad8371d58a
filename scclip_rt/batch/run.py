"""A batch run from beginning to end: plan, resume, segment, count."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scclip_rt.batch.engine import Engine, Failed
from scclip_rt.batch.errors import BatchError
from scclip_rt.batch.item import InputOptions, Shard
from scclip_rt.batch.ledger import FOLDER, Finished, Ledger
from scclip_rt.batch.local import LocalEngine
from scclip_rt.batch.plan import plan_shards
from scclip_rt.batch.worker import Progress, Setup, bundle_anywhere
from scclip_rt.batch.writers import WRITERS, Labelling
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.decode.plan import label_type
from scclip_rt.errors import OptionError, install
from scclip_rt.files import atomic_path, sha256_file
from scclip_rt.vocabulary.open import EmbeddingOptions, resolve_vocabulary

if TYPE_CHECKING:
    from scclip_rt.vocabulary.file import Vocabulary

_NOT_IN_LABELS = ("backend", "device", "ort_provider", "threads", "batch")
"""Options of `Segmenter` that may change when a run goes on: another machine may finish it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """What to segment, how, and where it goes.

    Attributes:
        inputs: see `plan_shards`.
        bundle: a bundle directory, or `demo`.
        output: the folder, made if missing; a new run needs an empty one.
        classes: as for `Segmenter`.
        vocabulary: instead of `classes`.
        templates: as for `Segmenter`.
        background: as for `Segmenter`.
        background_words: as for `Segmenter`.
        text_precision: as for `Segmenter`.
        format: `parquet`, `webdataset`, `png`, or one of docs/formats.md, a folder a shard.
        reading: size of shards, columns.
        resume: go on with the run that the output holds.
        options: further options of `Segmenter`: `short_side`, `precision`, `refine`, …
        cache: keep class embeddings in the cache folder.
    """

    inputs: Sequence[str | os.PathLike[str]]
    bundle: str | os.PathLike[str]
    output: str | os.PathLike[str]
    classes: str | os.PathLike[str] | Sequence[str] | None = None
    vocabulary: str | os.PathLike[str] | Vocabulary | None = None
    templates: str | os.PathLike[str] | None = None  # the bundle's
    background: str | None = None
    background_words: str | None = None
    text_precision: str = "fp32"
    format: str = "parquet"
    reading: InputOptions = field(default_factory=InputOptions)
    resume: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    cache: bool = True

    def __post_init__(self) -> None:
        if self.format not in WRITERS:
            raise OptionError(f"unknown format {self.format!r}; known: {', '.join(WRITERS)}")
        if isinstance(self.inputs, str | os.PathLike) or not self.inputs:
            raise OptionError(f"inputs are a list of paths, at least one; got {self.inputs!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReport:
    """What a run did.

    Attributes:
        images: rows in the output, those of earlier runs included.
        errors: how many of them are errors.
        examples: some of the errors.
        before: images that earlier runs had done.
        failed: shards that could not be read, with the reason; `--resume` tries them again.
    """

    images: int
    errors: int
    examples: tuple[str, ...]
    before: int
    failed: tuple[str, ...]


ProgressBar = Callable[[int, int, int], None]
"""Told images done, errors among them, and images in all, those of earlier runs included."""


def run_batch(
    job: BatchJob, engine: Engine | None = None, *, progress: ProgressBar = lambda *_: None
) -> BatchReport:
    """Segment every image of the input, once, however often the run is interrupted and goes on.

    Args:
        job: what to do.
        engine: what runs the workers; None takes `LocalEngine()`.
        progress: called after each image.

    Raises:
        ScclipError: bad input, options, bundle, classes or output; what is finished is kept.

    Example:
        >>> job = BatchJob(inputs=["shards/*.tar"], bundle="vitb16.scclip", classes=Path("voc.txt"), output="out")
        >>> run_batch(job, LocalEngine(workers=4)).errors
        3
    """
    engine = LocalEngine() if engine is None else engine
    bundle = Bundle.open(os.fspath(job.bundle))
    shards = plan_shards(job.inputs, job.reading)
    _need_pyarrow(job.format)
    vocabulary = _vocabulary(bundle, job)
    labelling = Labelling(
        classes=vocabulary.classes,
        unlabelled=label_type(len(vocabulary.classes))[1],
        background=vocabulary.background,
        bundle=bundle.name,
        checkpoint=bundle.model.checkpoint_sha256,
    )
    output = Path(job.output)
    with Ledger.open(
        output, _description(job, bundle, shards, vocabulary, labelling), resume=job.resume
    ) as ledger:
        with atomic_path(output / FOLDER / "classes.json", force=True) as temporary:
            temporary.write_text(labelling.json() + "\n", "utf-8")
        setup = Setup(
            bundle=bundle_anywhere(job.bundle),
            vocabulary=vocabulary,
            output=output.absolute(),
            format=job.format,
            labelling=labelling,
            options=dict(job.options),
        )
        return _run(engine, setup, shards, ledger.finished(), progress)


def _run(
    engine: Engine,
    setup: Setup,
    shards: Sequence[Shard],
    finished: dict[int, Finished],
    progress: ProgressBar,
) -> BatchReport:
    total = sum(shard.count for shard in shards)
    before = sum(record.images for record in finished.values())
    done, errors = before, sum(record.errors for record in finished.values())
    progress(done, errors, total)
    failed = []
    left = [(index, shard) for index, shard in enumerate(shards) if index not in finished]
    for event in engine.run(setup, left) if left else ():
        match event:
            case Progress():
                done, errors = done + event.images, errors + event.errors
                progress(done, errors, total)
            case Finished():
                finished[event.shard] = event
            case Failed():
                failed.append(event.reason)
    records = [finished[index] for index in sorted(finished)]
    return BatchReport(
        images=sum(record.images for record in records),
        errors=sum(record.errors for record in records),
        examples=tuple(example for record in records for example in record.examples)[:3],
        before=before,
        failed=tuple(failed),
    )


def _need_pyarrow(format: str) -> None:  # noqa: A002 (the option's name)
    import importlib.util

    if format == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise BatchError(
            f"--format parquet needs pyarrow, which is not installed: {install('batch')}, "
            "or take --format webdataset or png"
        )


def _vocabulary(bundle: Bundle, job: BatchJob) -> Vocabulary:
    options = EmbeddingOptions(
        templates=job.templates,
        cache=job.cache,
        progress=True,
        background_words=job.background_words,
        text_precision=job.text_precision,
    )
    return resolve_vocabulary(
        bundle, options, classes=job.classes, vocabulary=job.vocabulary, background=job.background
    )


def _description(
    job: BatchJob, bundle: Bundle, shards: Sequence[Shard], vocabulary: Vocabulary, labelling: Labelling
) -> dict[str, Any]:
    """All that decides the output: a run goes on only with the same."""
    identity = hashlib.sha256()
    for shard in shards:
        identity.update(f"{shard.identity}\0".encode())
    embeddings = hashlib.sha256(vocabulary.embeddings.tobytes() + vocabulary.query_class.tobytes())
    options = {name: value for name, value in job.options.items() if name not in _NOT_IN_LABELS}
    return {
        "schema": "scclip-batch/1",
        "format": job.format,
        "reading": asdict(job.reading),
        "images": sum(shard.count for shard in shards),
        "shards": len(shards),
        "input": identity.hexdigest(),
        **{
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(labelling).items()
        },
        "bundle.json": sha256_file(bundle.path / "bundle.json"),
        "embeddings": embeddings.hexdigest(),
        "options": {name: value for name, value in options.items() if value is not None},
    }

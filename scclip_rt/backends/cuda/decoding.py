"""Decoding on the GPU with the bundle's compiled kernels: window logits in, labels and confidence out (METHOD §4)."""

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from scclip_rt._best import Labels
from scclip_rt._sparse_axis import SparseAxis, sparse_plan
from scclip_rt.backends.cuda.kernels import Kernel, KernelSet
from scclip_rt.backends.cuda.memory import DeviceBuffer, Ledger
from scclip_rt.backends.cuda.stream import Stream
from scclip_rt.decode import DecodePlan, label_type

_ALIGN = 256
# With and without the soft-max over queries, with and without the queries of small classes.
_FORMS = tuple({"SOFT": soft, "MASKED": masked} for soft in (False, True) for masked in (False, True))


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeTask:
    """What is asked of the decode, as `scclip_rt.decode.decode` takes it.

    Attributes:
        plan: the two matrices of the sizes.
        query_class: (Q,), class of each query.
        num_classes: more than any of them.
        logit_scale: factor on the cosines.
        prob_threshold: 0 cuts nothing.
        area_threshold: 0 removes no class.
        background: a class or None.
        with_confidence: also give probabilities.
    """

    plan: DecodePlan
    query_class: NDArray[np.integer]
    num_classes: int
    logit_scale: float
    prob_threshold: float
    area_threshold: float
    background: int | None
    with_confidence: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeKernels:
    """The kernels that decoding needs: `missing` names the first that the bundle lacks."""

    kernels: KernelSet
    missing: str | None

    @classmethod
    def of(cls, kernels: KernelSet) -> "DecodeKernels":
        """Look for the whole set: each form of `decode`, and what checks and counts."""
        missing = [name for name in ("finite", "count", "keep") if kernels.get(name) is None]
        if any(kernels.get("decode", types={"labels": "*u8"}, **form) is None for form in _FORMS):
            missing.append("decode")
        if not missing:
            return cls(kernels=kernels, missing=None)
        return cls(
            kernels=kernels, missing=kernels.reason or f"the bundle has no kernel {', '.join(missing)} for it"
        )

    def get(self, name: str, *, labels: str | None = None, **constants: object) -> Kernel:
        """A kernel of the set.

        Raises:
            LookupError: it is not there.
        """
        found = self.kernels.get(name, types=None if labels is None else {"labels": labels}, **constants)
        if found is None:
            raise LookupError(f"no {name!r} kernel with {constants} and labels {labels}")
        return found

    def takes(self, num_classes: int) -> bool:
        """Whether labels of so many classes can be written: above 254 they need the uint16 forms."""
        kind = _label_kind(num_classes)
        types = {"labels": kind}
        return self.kernels.get("count", types=types) is not None and all(
            self.kernels.get("decode", types=types, **form) is not None for form in _FORMS
        )


class DeviceDecode:
    """Everything on the device for one `DecodeTask`: tables, and one block of memory that holds all results.

    That block starts with a flag (not 0: the logits hold NaN or infinity), then come labels, then confidence; one copy
    brings it to the host.
    """

    def __init__(self, kernels: DecodeKernels, task: DecodeTask, ledger: Ledger) -> None:
        self._kernels, self._task = kernels, task
        rows, columns = sparse_plan(task.plan)
        self._rows, self._columns = _Tables(rows, ledger), _Tables(columns, ledger)
        self.dtype, self.unlabelled = label_type(task.num_classes)
        self.shape = task.plan.shape
        pixels = self.shape[0] * self.shape[1]
        self.num_queries = len(task.query_class)
        self._soft = task.with_confidence or task.prob_threshold > 0
        self._labels_at = _ALIGN
        self._confidence_at = _round_up(self._labels_at + pixels * np.dtype(self.dtype).itemsize)
        self.copied_bytes = self._confidence_at + (4 * pixels if task.with_confidence else 0)
        held = self._confidence_at + (4 * pixels if self._soft else 1)
        self.results = DeviceBuffer(ledger, held, "labels")
        classes = np.asarray(task.query_class, np.int32)
        self._query_class = DeviceBuffer.of(ledger, classes, "tables")
        keep = np.ones(self.num_queries, np.uint8)
        self._keep = DeviceBuffer.of(ledger, keep, "tables")
        share = np.array([task.area_threshold], np.float64)
        self._share = DeviceBuffer.of(ledger, share, "tables")
        self._counts = DeviceBuffer(ledger, 4 * task.num_classes, "class counts")

    def queue(self, stream: Stream, logits: int) -> None:
        """Queue the decoding of logits (patches, Q) float32; the results are in `results` when the stream is done."""
        self._check_finite(stream, logits)
        if self._task.area_threshold > 0:
            self._label(stream, logits, masked=False, last=False)
            self._mark_kept_queries(stream)
            self._label(stream, logits, masked=True, last=True)
        else:
            self._label(stream, logits, masked=False, last=True)

    def read(self, block: NDArray[np.uint8]) -> tuple[bool, Labels, NDArray[np.float32] | None]:
        """Whether all was finite, labels and confidence, from the copied block; arrays of their own."""
        pixels = self.shape[0] * self.shape[1]
        finite = not block[:4].any()
        flat = block[self._labels_at :][: pixels * np.dtype(self.dtype).itemsize].view(self.dtype)
        labels = cast("Labels", flat.reshape(self.shape).copy())
        confidence = None
        if self._task.with_confidence:
            confidence = (
                block[self._confidence_at :][: 4 * pixels].view(np.float32).reshape(self.shape).copy()
            )
        return finite, labels, confidence

    def close(self) -> None:
        """Free all of it."""
        for tables in (self._rows, self._columns):
            tables.close()
        for buffer in (self.results, self._query_class, self._keep, self._share, self._counts):
            buffer.close()

    def _check_finite(self, stream: Stream, logits: int) -> None:
        kernel = self._kernels.get("finite")
        count = len(self._rows) * len(self._columns) * self.num_queries
        blocks = -(-count // int(kernel.spec.constants["BLOCK"]))
        stream.zero(self.results.pointer, 4)
        kernel.launch(stream, (blocks, 1, 1), values=logits, flag=self.results.pointer, count=count)

    def _label(self, stream: Stream, logits: int, *, masked: bool, last: bool) -> None:
        task, (height, width) = self._task, self.shape
        kind = _label_kind(task.num_classes)
        kernel = self._kernels.get("decode", labels=kind, SOFT=self._soft and last, MASKED=masked)
        across, down = (int(kernel.spec.constants[name]) for name in ("BLOCK_X", "BLOCK_Y"))
        kernel.launch(
            stream,
            (-(-width // across), -(-height // down), 1),
            logits=logits,
            row_rank=self._rows.rank.pointer,
            row_weight=self._rows.weight.pointer,
            row_cells=self._rows.cells.pointer,
            column_rank=self._columns.rank.pointer,
            column_weight=self._columns.weight.pointer,
            column_cells=self._columns.cells.pointer,
            query_class=self._query_class.pointer,
            query_keep=self._keep.pointer,
            labels=self.results.pointer + self._labels_at,
            confidence=self.results.pointer + self._confidence_at,
            height=height,
            width=width,
            num_queries=self.num_queries,
            row_taps=self._rows.taps,
            column_taps=self._columns.taps,
            unlabelled=self.unlabelled,
            fallback=self.unlabelled if task.background is None else task.background,
            logit_scale=task.logit_scale,
            prob_threshold=task.prob_threshold if last else 0.0,
        )

    def _mark_kept_queries(self, stream: Stream) -> None:
        """Count pixels per class, then leave out the queries of small classes (METHOD §4's area rule)."""
        task, (height, width) = self._task, self.shape
        count = self._kernels.get("count", labels=_label_kind(task.num_classes))
        block, classes = (int(count.spec.constants[name]) for name in ("BLOCK", "CLASSES"))
        stream.zero(self._counts.pointer, 4 * task.num_classes)
        count.launch(
            stream,
            (-(-height * width // block), -(-task.num_classes // classes), 1),
            labels=self.results.pointer + self._labels_at,
            counts=self._counts.pointer,
            num_pixels=height * width,
            num_classes=task.num_classes,
        )
        keep = self._kernels.get("keep")
        keep.launch(
            stream,
            (-(-self.num_queries // int(keep.spec.constants["BLOCK"])), 1, 1),
            counts=self._counts.pointer,
            area_threshold=self._share.pointer,
            query_class=self._query_class.pointer,
            query_keep=self._keep.pointer,
            num_queries=self.num_queries,
            num_classes=task.num_classes,
            background=-1 if task.background is None else task.background,
        )


class _Tables:
    """One axis on the device."""

    def __init__(self, axis: SparseAxis, ledger: Ledger) -> None:
        self.taps, self._cells = axis.taps, len(axis.cells)
        self.rank = DeviceBuffer.of(ledger, axis.rank, "tables")
        self.weight = DeviceBuffer.of(ledger, axis.weight, "tables")
        self.cells = DeviceBuffer.of(ledger, axis.cells, "tables")

    def __len__(self) -> int:
        return self._cells

    def close(self) -> None:
        for buffer in (self.rank, self.weight, self.cells):
            buffer.close()


def _label_kind(num_classes: int) -> str:
    return "*u8" if label_type(num_classes)[0] is np.uint8 else "*u16"


def _round_up(count: int) -> int:
    return -(-count // _ALIGN) * _ALIGN

"""Decoding on the GPU with the bundle's compiled kernels: window logits in, labels and confidence out (METHOD §4)."""

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from scclip_rt.backends.cuda.kernels import Kernel, KernelSet
from scclip_rt.backends.cuda.memory import DeviceBuffer, Ledger
from scclip_rt.backends.cuda.stream import Stream
from scclip_rt.decode.bands import BandAxis, band_plan
from scclip_rt.decode.best import Labels
from scclip_rt.decode.plan import DecodePlan, label_type
from scclip_rt.decode.settings import DecodeSettings

_ALIGN = 256
# Columns of pixels are decoded in strips whose intermediate values take so many bytes at most, if they are not of one
# block alone: more of them is a little faster and more memory.
STRIP_BYTES = 64 << 20
# With and without the soft-max over queries, with and without the queries of small classes.
_FORMS = tuple({"SOFT": soft, "MASKED": masked} for soft in (False, True) for masked in (False, True))


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeTask:
    """What is asked of the decode, as `scclip_rt.decode.decode.decode` takes it: the sizes and the settings."""

    plan: DecodePlan
    settings: DecodeSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeKernels:
    """The kernels that decoding needs: `missing` names the first that the bundle lacks."""

    kernels: KernelSet
    missing: str | None

    @classmethod
    def of(cls, kernels: KernelSet) -> "DecodeKernels":
        """Look for the whole set: each form of `decode_rows`, what prepares it, and what checks and counts."""
        missing = [
            name for name in ("finite", "count", "keep", "decode_columns") if kernels.get(name) is None
        ]
        if any(kernels.get("decode_rows", types={"labels": "*u8"}, **form) is None for form in _FORMS):
            missing.append("decode_rows")
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
            self.kernels.get("decode_rows", types=types, **form) is not None for form in _FORMS
        )


class DeviceDecode:
    """Everything on the device for one `DecodeTask`: tables, a strip, and one block of memory that holds all results.

    The strip is what `decode_columns` leaves to `decode_rows`: values of each row of cells, interpolated along x. The
    block starts with a flag (not 0: the logits hold NaN or infinity), then come labels, then confidence; one copy
    brings it to the host.
    """

    def __init__(self, kernels: DecodeKernels, task: DecodeTask, ledger: Ledger) -> None:
        self._kernels, self._task = kernels, task
        across, down = kernels.get("decode_columns"), kernels.get("decode_rows")
        self._block_x, block_y = across.constant("BLOCK_X"), down.constant("BLOCK_Y")
        rows, columns = band_plan(task.plan, rows=block_y, columns=self._block_x)
        self._rows, self._columns = _Tables(rows, ledger), _Tables(columns, ledger)
        self.dtype, self.unlabelled = label_type(task.settings.num_classes)
        self.shape = task.plan.shape
        pixels = self.shape[0] * self.shape[1]
        self.num_queries = len(task.settings.query_class)
        block_bytes = 4 * self._block_x * self._rows.cells * self.num_queries
        self._strip_blocks = blocks_per_strip(self._columns.blocks, block_bytes)
        self._strip = DeviceBuffer(
            ledger, self._strip_blocks * block_bytes, "values between decoding kernels"
        )
        self._soft = task.settings.soft
        self._labels_at = _ALIGN
        self._confidence_at = _round_up(self._labels_at + pixels * np.dtype(self.dtype).itemsize)
        self.copied_bytes = self._confidence_at + (4 * pixels if task.settings.with_confidence else 0)
        held = self._confidence_at + (4 * pixels if self._soft else 1)
        self.results = DeviceBuffer(ledger, held, "labels")
        classes = np.asarray(task.settings.query_class, np.int32)
        self._query_class = DeviceBuffer.of(ledger, classes, "tables")
        keep = np.ones(self.num_queries, np.uint8)
        self._keep = DeviceBuffer.of(ledger, keep, "tables")
        share = np.array([task.settings.area_threshold], np.float64)
        self._share = DeviceBuffer.of(ledger, share, "tables")
        self._counts = DeviceBuffer(ledger, 4 * task.settings.num_classes, "class counts")

    def queue(self, stream: Stream, logits: int) -> None:
        """Queue the decoding of logits (patches, Q) float32; the results are in `results` when the stream is done."""
        self._check_finite(stream, logits)
        if self._task.settings.area_threshold > 0:
            self._label_strips(stream, logits, masked=False, last=False)
            self._mark_kept_queries(stream)
            self._label_strips(stream, logits, masked=True, last=True)
        else:
            self._label_strips(stream, logits, masked=False, last=True)

    def read(self, block: NDArray[np.uint8]) -> tuple[bool, Labels, NDArray[np.float32] | None]:
        """Whether all was finite, labels and confidence, from the copied block; arrays of their own."""
        pixels = self.shape[0] * self.shape[1]
        finite = not block[:4].any()
        flat = block[self._labels_at :][: pixels * np.dtype(self.dtype).itemsize].view(self.dtype)
        labels = cast("Labels", flat.reshape(self.shape).copy())
        confidence = None
        if self._task.settings.with_confidence:
            confidence = (
                block[self._confidence_at :][: 4 * pixels].view(np.float32).reshape(self.shape).copy()
            )
        return finite, labels, confidence

    def close(self) -> None:
        """Free all of it."""
        for tables in (self._rows, self._columns):
            tables.close()
        for buffer in (self.results, self._strip, self._query_class, self._keep, self._share, self._counts):
            buffer.close()

    def _check_finite(self, stream: Stream, logits: int) -> None:
        kernel = self._kernels.get("finite")
        count = self._rows.cells * self._columns.cells * self.num_queries
        blocks = -(-count // kernel.constant("BLOCK"))
        stream.zero(self.results.pointer, 4)
        kernel.launch(stream, (blocks, 1, 1), values=logits, flag=self.results.pointer, count=count)

    def _label_strips(self, stream: Stream, logits: int, *, masked: bool, last: bool) -> None:
        blocks = self._columns.blocks
        for first in range(0, blocks, self._strip_blocks):
            if not masked or self._strip_blocks < blocks:  # else the strip is still there
                self._interpolate_columns(stream, logits, first)
            self._label(stream, first, masked=masked, last=last)

    def _interpolate_columns(self, stream: Stream, logits: int, first: int) -> None:
        kernel = self._kernels.get("decode_columns")
        kernel.launch(
            stream,
            (self._rows.cells * -(-self.num_queries // kernel.constant("BLOCK_Q")), self._strip_blocks, 1),
            logits=logits,
            row_cells=self._rows.places.pointer,
            column_span=self._columns.span.pointer,
            column_band=self._columns.band.pointer,
            column_cells=self._columns.places.pointer,
            strip=self._strip.pointer,
            first_block=first,
            num_blocks=self._columns.blocks,
            num_cells=self._rows.cells,
            num_queries=self.num_queries,
            band_cells=self._columns.band_cells,
            logit_scale=self._task.settings.logit_scale,
        )

    def _label(self, stream: Stream, first: int, *, masked: bool, last: bool) -> None:
        task, (height, width) = self._task, self.shape
        kind = _label_kind(task.settings.num_classes)
        kernel = self._kernels.get("decode_rows", labels=kind, SOFT=self._soft and last, MASKED=masked)
        kernel.launch(
            stream,
            (self._strip_blocks, self._rows.blocks, 1),
            strip=self._strip.pointer,
            row_span=self._rows.span.pointer,
            row_band=self._rows.band.pointer,
            query_class=self._query_class.pointer,
            query_keep=self._keep.pointer,
            labels=self.results.pointer + self._labels_at,
            confidence=self.results.pointer + self._confidence_at,
            first_block=first,
            height=height,
            width=width,
            num_cells=self._rows.cells,
            num_queries=self.num_queries,
            band_cells=self._rows.band_cells,
            unlabelled=self.unlabelled,
            fallback=self.unlabelled if task.settings.background is None else task.settings.background,
            prob_threshold=task.settings.prob_threshold if last else 0.0,
        )

    def _mark_kept_queries(self, stream: Stream) -> None:
        """Count pixels per class, then leave out the queries of small classes (METHOD §4's area rule)."""
        task, (height, width) = self._task, self.shape
        count = self._kernels.get("count", labels=_label_kind(task.settings.num_classes))
        block, classes = count.constant("BLOCK"), count.constant("CLASSES")
        stream.zero(self._counts.pointer, 4 * task.settings.num_classes)
        count.launch(
            stream,
            (-(-height * width // block), -(-task.settings.num_classes // classes), 1),
            labels=self.results.pointer + self._labels_at,
            counts=self._counts.pointer,
            num_pixels=height * width,
            num_classes=task.settings.num_classes,
        )
        keep = self._kernels.get("keep")
        keep.launch(
            stream,
            (-(-self.num_queries // keep.constant("BLOCK")), 1, 1),
            counts=self._counts.pointer,
            area_threshold=self._share.pointer,
            query_class=self._query_class.pointer,
            query_keep=self._keep.pointer,
            num_queries=self.num_queries,
            num_classes=task.settings.num_classes,
            background=-1 if task.settings.background is None else task.settings.background,
        )


class _Tables:
    """One axis on the device."""

    def __init__(self, axis: BandAxis, ledger: Ledger) -> None:
        self.blocks, self.band_cells, _ = axis.band.shape
        self.cells = len(axis.cells)
        self.span = DeviceBuffer.of(ledger, axis.span, "tables")
        self.band = DeviceBuffer.of(ledger, axis.band, "tables")
        self.places = DeviceBuffer.of(ledger, axis.cells, "tables")

    def close(self) -> None:
        for buffer in (self.span, self.band, self.places):
            buffer.close()


def blocks_per_strip(num_blocks: int, block_bytes: int) -> int:
    """How many blocks of columns are decoded at a time: strips of about equal width, STRIP_BYTES at most each.

    Args:
        num_blocks: in the image.
        block_bytes: what one of them takes; a strip is one block where that is more already.
    """
    strips = -(-num_blocks // max(STRIP_BYTES // block_bytes, 1))
    return -(-num_blocks // strips)


def _label_kind(num_classes: int) -> str:
    return "*u8" if label_type(num_classes)[0] is np.uint8 else "*u16"


def _round_up(count: int) -> int:
    return -(-count // _ALIGN) * _ALIGN

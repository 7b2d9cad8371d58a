"""Frames that follow each other: only windows whose pixels changed are encoded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scclip_rt.encoded import Encoded
from scclip_rt.errors import OptionError

if TYPE_CHECKING:
    from scclip_rt.backends.base import EncoderBackend
    from scclip_rt.decode.settings import DecodeOptions
    from scclip_rt.image.geometry import Tiling
    from scclip_rt.image.load import ImageSource
    from scclip_rt.image.preparation import Preparation, PreparedImage
    from scclip_rt.segmentation import Segmentation
    from scclip_rt.vocabulary.file import Vocabulary

Reuse: TypeAlias = "Literal['exact', 'off'] | int"
"""`exact`: windows of equal pixels; a number: windows in which no value differs by more; `off`: none."""


class FrameParts(Protocol):
    """What of a `Segmenter` is used here; it makes these, and so stands above this module."""

    @property
    def preparation(self) -> Preparation: ...  # noqa: D102
    @property
    def backend(self) -> EncoderBackend: ...  # noqa: D102
    @property
    def vocabulary(self) -> Vocabulary: ...  # noqa: D102
    @property
    def options(self) -> DecodeOptions: ...  # noqa: D102

    def decode(  # noqa: D102
        self, encoded: Encoded, vocabulary: Vocabulary | None = None, *, confidence: bool = False
    ) -> Segmentation: ...


@dataclass(slots=True, eq=False)
class _Kept:
    """The last frame: its windows as they were when encoded, their features, and what they were decoded to."""

    tiling: Tiling
    windows: NDArray[np.uint8]
    features: NDArray[np.float32]
    result: Segmentation | None = None


class FrameSegmenter:
    """Segments the frames of one camera, and keeps the features of windows that have not changed.

    A window is compared with the pixels it was encoded from, not with the last frame: small changes can't add up
    unseen. With `exact` the labels are those of frame by frame. Where no window changed, decoding is saved, too.

    Args:
        segmenter: its bundle, its classes of now, its options.
        reuse: see `Reuse`.

    Attributes:
        encoded: windows encoded so far.
        kept: windows whose features were kept so far.

    Raises:
        OptionError: `reuse` is none of the words and no number from 0 to 255.
    """

    def __init__(self, segmenter: FrameParts, *, reuse: Reuse = "exact") -> None:
        self._segmenter = segmenter
        self._vocabulary: Vocabulary = segmenter.vocabulary
        self._tolerance = _tolerance(reuse)
        self._kept: _Kept | None = None
        self.encoded = 0
        self.kept = 0

    def __call__(self, image: ImageSource, *, confidence: bool = False) -> Segmentation:
        """Segment the next frame.

        Args:
            image: as for `Segmenter`.
            confidence: also give each pixel's probability of its class.

        Raises:
            ImageError: unreadable, of another kind, or above a limit.
        """
        prepared = self._segmenter.preparation(image)
        kept, changed = self._encode(prepared)
        self._kept = kept
        if not changed and (again := self._again(kept, prepared, confidence)) is not None:
            return again
        encoded = Encoded.of(prepared, kept.features)
        result = self._segmenter.decode(encoded, self._vocabulary, confidence=confidence)
        kept.result = replace(result, image=None)
        return _copied(result)

    def _encode(self, prepared: PreparedImage) -> tuple[_Kept, bool]:
        """The frame's features, and whether a window of it was encoded for them."""
        kept, windows = self._kept, prepared.windows
        if kept is None or self._tolerance is None or kept.tiling != prepared.tiling:
            changed = np.arange(len(windows))
            kept = _Kept(prepared.tiling, windows.copy(), self._segmenter.backend.features(windows).copy())
        else:
            changed = np.flatnonzero(_differences(kept.windows, windows) > self._tolerance)
            if len(changed):
                kept.features[changed] = self._segmenter.backend.features(windows[changed])
                kept.windows[changed] = windows[changed]
        self.encoded += len(changed)
        self.kept += len(windows) - len(changed)
        return kept, len(changed) > 0

    def _again(self, kept: _Kept, prepared: PreparedImage, confidence: bool) -> Segmentation | None:
        """The last frame's result with this frame's image, if decoding would give the same."""
        last = kept.result
        if last is None or last.labels.shape != prepared.image.shape[:2]:
            return None
        if confidence != (last.confidence is not None):
            return None
        if self._segmenter.options.refine is not None and self._tolerance != 0:
            return None  # refinement looks at the pixels themselves
        return _copied(replace(last, image=prepared.image, name=prepared.name))


def _copied(result: Segmentation) -> Segmentation:
    """With arrays of its own: what is kept must not change with what a caller does to a result."""
    confidence = None if result.confidence is None else result.confidence.copy()
    return replace(result, labels=result.labels.copy(), confidence=confidence)


def _differences(old: NDArray[np.uint8], new: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(windows,): the largest difference of two values in each."""
    # One window at a time stays in the cache; uint8 has no negative numbers.
    return np.array(
        [(np.maximum(one, other) - np.minimum(one, other)).max() for one, other in zip(old, new, strict=True)]
    )


def _tolerance(reuse: Reuse) -> int | None:
    """The largest difference of a window that is kept; None for keeping none."""
    if reuse == "off":
        return None
    if reuse == "exact":
        return 0
    if isinstance(reuse, bool) or not isinstance(reuse, int) or not 0 <= reuse <= 255:
        raise OptionError(f"reuse must be 'exact', 'off' or a number from 0 to 255; got {reuse!r}")
    return reuse

"""Segmenting where the encoder runs: what `Segmenter` does instead of encode and decode when the GPU can do it all."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scclip_rt.backends.base import EncoderBackend
from scclip_rt.backends.device_segmenter import DeviceSegmenter, SegmentRequest
from scclip_rt.decode.settings import DecodeOptions
from scclip_rt.errors import BackendError, ImageError
from scclip_rt.image.device_array import is_device_array
from scclip_rt.image.preparation import LoadedImage, Preparation
from scclip_rt.segmentation import Segmentation
from scclip_rt.stream import Outcome, Timings
from scclip_rt.vocabulary.file import Vocabulary

if TYPE_CHECKING:
    from scclip_rt.image.load import ImageSource

WORKERS = 4
"""Threads of a stream: reading JPEG takes longer than the GPU needs for the image, so several read at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePath:
    """A segmenter's parts, for as long as its encoder does everything.

    Attributes:
        encoder: resizes, cuts, encodes and decodes.
        prepare: loads images and knows their tilings.
        vocabulary: in use.
        options: of decoding, without refinement.
        confidence: whether probabilities are wanted.
    """

    encoder: DeviceSegmenter
    prepare: Preparation
    vocabulary: Vocabulary
    options: DecodeOptions
    confidence: bool

    def outcome(
        self, image: "ImageSource", loaded: LoadedImage | None = None
    ) -> "Outcome[ImageSource, Segmentation]":
        """Segment one image; its error is in the outcome. All but loading counts as `encode`."""
        timings = Timings()
        try:
            if loaded is None:
                with timings.measure("prepare"):
                    loaded = self.prepare.load(image)
            with timings.measure("encode"):
                result = self._segment(loaded)
        except ImageError as error:
            return Outcome(image, timings, error=error)
        return Outcome(image, timings, result=result)

    def _segment(self, loaded: LoadedImage) -> Segmentation:
        decoded = self.encoder.segment(
            SegmentRequest(
                image=loaded.image,
                tiling=loaded.tiling,
                grid=loaded.grid,
                text=self.vocabulary.embeddings,
                settings=self.vocabulary.decode_settings(self.options, confidence=self.confidence),
            )
        )
        host: NDArray[np.uint8] | None = loaded.image if isinstance(loaded.image, np.ndarray) else None
        return Segmentation.of(decoded, self.vocabulary, image=host, name=loaded.name)

    def _task(self, image: "ImageSource") -> "Callable[[], Outcome[ImageSource, Segmentation]]":
        """What a worker is to do with an image. One on the GPU is received here, in the thread that has it."""
        if not is_device_array(image):
            return partial(self.outcome, image)
        try:
            loaded = self.prepare.load(image)
            return partial(self.outcome, image, replace(loaded, image=self.encoder.receive(image)))
        except (ImageError, BackendError) as error:
            return partial(_failed, image, error)

    def outcomes(self, images: "Iterable[ImageSource]") -> "Iterator[Outcome[ImageSource, Segmentation]]":
        """Segment many, in order; a few are read ahead. What the source raises comes after all that it gave."""
        pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="scclip-device")
        waiting: deque[Future[Outcome[ImageSource, Segmentation]]] = deque()
        source = iter(images)
        failure: Exception | None = None
        wait = True
        try:
            while True:
                try:
                    while failure is None and len(waiting) <= WORKERS:
                        waiting.append(pool.submit(self._task(next(source))))
                except StopIteration as error:
                    failure = error
                except Exception as error:  # the source is the caller's
                    failure = error
                if not waiting:
                    break
                yield waiting.popleft().result()
            if failure is not None and not isinstance(failure, StopIteration):
                raise failure
        except KeyboardInterrupt:
            wait = False
            raise
        finally:
            pool.shutdown(wait=wait, cancel_futures=True)


def _failed(image: "ImageSource", error: Exception) -> "Outcome[ImageSource, Segmentation]":
    """An error of an image, at the image's turn: one of the image is its outcome, one of the GPU ends the stream."""
    if isinstance(error, ImageError):
        return Outcome(image, Timings(), error=error)
    raise error


def device_path(
    encoder: EncoderBackend,
    prepare: Preparation,
    vocabulary: Vocabulary,
    options: DecodeOptions,
    confidence: bool,
) -> DevicePath | None:
    """The device's path, if the encoder has one for this vocabulary and these options; refinement needs the host."""
    if not isinstance(encoder, DeviceSegmenter) or options.refine is not None:
        return None
    if (
        options.class_threshold > 0
        or options.maps != "cosine"
        or options.class_weighting != "none"
        or not prepare.whole_windows
    ):
        return None  # what the GPU's decode has no form for
    queries, classes = len(vocabulary.embeddings), len(vocabulary.classes)
    if not encoder.can_segment(num_queries=queries, num_classes=classes):
        return None
    return DevicePath(
        encoder=encoder,
        prepare=prepare,
        vocabulary=vocabulary,
        options=options,
        confidence=confidence,
    )

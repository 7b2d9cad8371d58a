"""A loaded bundle: from a request's bytes to windows, and from features to a result."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scclip_rt.backends.device_segmenter import DeviceSegmenter
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.encoded import Encoded
from scclip_rt.image.load import ImageSource
from scclip_rt.image.preparation import PreparedImage
from scclip_rt.segmentation import Segmentation
from scclip_rt.segmenter import Segmenter
from scclip_rt.serving.feature_cache import FeatureCache
from scclip_rt.serving.images import WireImage, check_size, open_image
from scclip_rt.serving.settings import ServeSettings
from scclip_rt.serving.vocabularies import Vocabularies
from scclip_rt.vocabulary.file import Vocabulary

_NO_WINDOWS = np.empty((0, 0, 0, 3), np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """Settings of decoding that a request may bring; None takes the model's."""

    logit_scale: float | None = None
    prob_threshold: float | None = None
    area_threshold: float | None = None
    refine: Literal["pamr", "none"] | None = None

    def over(self, segmenter: Segmenter) -> Segmenter:
        """The segmenter with these settings.

        Raises:
            OptionError: a number outside its range, or an unknown refinement.
        """
        changes = {name: getattr(self, name) for name in self.__slots__ if getattr(self, name) is not None}
        if not changes:
            return segmenter
        if changes.get("refine") == "none":
            changes["refine"] = None
        return segmenter.with_options(replace(segmenter.options, **changes))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyImage:
    """What preparing gave: windows to encode, or what needs no encoder any more."""

    windows: NDArray[np.uint8]
    image: PreparedImage | None = None
    encoded: Encoded | None = None
    result: Segmentation | None = None
    key: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """One bundle, loaded and warm.

    Attributes:
        name: in URLs.
        segmenter: with the service's settings.
        vocabularies: of this bundle.
        max_pixels: of an image.
        key: of this loading: features of one are not another's.
    """

    name: str
    segmenter: Segmenter
    vocabularies: Vocabularies
    max_pixels: int
    key: bytes = field(default_factory=lambda: uuid.uuid4().bytes)

    @classmethod
    def load(cls, name: str, bundle: Bundle, settings: ServeSettings) -> LoadedModel:
        """Load the encoder, embed the service's classes, and run one image to warm up.

        Raises:
            ScclipError: the bundle, the backend, a vocabulary or an option is at fault.
        """
        segmenter = Segmenter(
            bundle,
            backend=settings.backend,
            device=settings.device,
            precision=settings.precision,
            ort_provider=settings.ort_provider,
            threads=settings.threads,
            batch=settings.batch,
            short_side=settings.short_side,
            stride=settings.stride,
            preset=settings.preset,
            templates=settings.templates,
            text_precision=settings.text_precision,
            max_pixels=settings.limits.max_pixels,
        )
        default = _default_vocabulary(segmenter, settings)
        ready = {
            key: segmenter.with_classes(vocabulary=path).vocabulary
            for key, path in settings.vocabularies.items()
        }
        vocabularies = Vocabularies(
            bundle,
            templates=settings.templates,
            ready=ready,
            default=default,
            keep=settings.limits.max_vocabularies,
            max_names=settings.limits.max_classes,
            threads=settings.threads,
            shared=settings.shared,
            text_precision=settings.text_precision,
        )
        model = cls(
            name=name,
            segmenter=segmenter,
            vocabularies=vocabularies,
            max_pixels=settings.limits.max_pixels,
        )
        model._warm_up()
        return model

    def prepare(
        self,
        image: WireImage,
        vocabulary: Vocabulary,
        overrides: Overrides,
        *,
        confidence: bool,
        whole: bool,
        cache: FeatureCache,
    ) -> ReadyImage:
        """In a worker: decode, resize and cut one image, unless the cache has its features.

        Args:
            image: an encoded file's bytes, or (H, W, 3) uint8 RGB.
            vocabulary: to label with.
            overrides: of decoding.
            confidence: also give probabilities.
            whole: let a GPU that can segment by itself do so; its features are then not seen.
            cache: of features.

        Raises:
            ImageError: unreadable, or too many windows.
            TooLargeError: too many pixels.
            UnsupportedMediaError: of an unknown format.
        """
        key = cache.key(image, self.key)
        if (encoded := cache.get(key)) is not None:
            return ReadyImage(windows=_NO_WINDOWS, encoded=encoded)
        source = self._open(image)
        if whole and isinstance(self.segmenter.backend, DeviceSegmenter):
            segmenter = overrides.over(self.segmenter.with_classes(vocabulary=vocabulary))
            return ReadyImage(windows=_NO_WINDOWS, result=segmenter(source, confidence=confidence))
        prepared = self.segmenter.preparation(source)
        return ReadyImage(windows=prepared.windows, image=prepared, key=key)

    def finish(
        self,
        ready: ReadyImage,
        features: NDArray[np.float32],
        vocabulary: Vocabulary,
        overrides: Overrides,
        *,
        confidence: bool,
        cache: FeatureCache,
        threads: int | None,
    ) -> tuple[Segmentation, Encoded | None]:
        """In a worker: label one image.

        Args:
            ready: what `prepare` gave.
            features: (W, N, E) of its windows.
            vocabulary: to label with.
            overrides: of decoding.
            confidence: also give probabilities.
            cache: keeps the features.
            threads: to decode with; None takes the segmenter's.

        Returns:
            The result, and what it was decoded from (None where a GPU did all).
        """
        if ready.result is not None:
            return ready.result, None
        encoded = ready.encoded
        if encoded is None:
            if ready.image is None:
                raise RuntimeError("an image was prepared without windows, features or result")
            encoded = Encoded.of(ready.image, features)
            cache.put(ready.key, encoded)
        segmenter = overrides.over(self.segmenter)
        return segmenter.decode(encoded, vocabulary, confidence=confidence, threads=threads), encoded

    def _open(self, image: WireImage) -> ImageSource:
        if isinstance(image, bytes):
            return open_image(image, max_pixels=self.max_pixels)
        check_size(image.shape[0], image.shape[1], max_pixels=self.max_pixels)
        return image

    def _warm_up(self) -> None:
        """One image through everything, so that the first request is as quick as the others."""
        side = self.segmenter.preparation.short_side
        image = np.zeros((side, side * 4 // 3, 3), np.uint8)
        vocabulary = self.vocabularies.default
        if vocabulary is None:
            self.segmenter.encode(image)
        else:
            self.segmenter.with_classes(vocabulary=vocabulary)(image)


def _default_vocabulary(segmenter: Segmenter, settings: ServeSettings) -> Vocabulary | None:
    if settings.classes is not None:
        classes = list(settings.classes) if isinstance(settings.classes, tuple) else settings.classes
        return segmenter.with_classes(classes, background=settings.background).vocabulary
    if segmenter.bundle.manifest.vocabularies:
        return segmenter.with_classes(background=settings.background).vocabulary
    return None


def bundle_stamp(path: str) -> tuple[int, ...] | None:
    """What changes when a bundle is replaced: folder and manifest as they lie on the disk; None if it isn't there."""
    manifest = Bundle.open(path).path if path == "demo" else Path(path)
    try:
        folder, file = manifest.stat(), (manifest / "bundle.json").stat()
    except OSError:
        return None
    return (folder.st_ino, folder.st_dev, file.st_ino, file.st_mtime_ns, file.st_size)

"""The result of segmenting one image."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.errors import ImageError, OptionError, printable
from scclip_rt.files import atomic_path
from scclip_rt.image.png import encode_png
from scclip_rt.vocabulary.classes import shorten

if TYPE_CHECKING:
    from scclip_rt.decode.best import Labels
    from scclip_rt.decode.decode import Decoded
    from scclip_rt.vocabulary.file import Vocabulary

UNLABELLED = "(unlabelled)"
"""What pixels without a class are called in shares and legends."""
_OVERLAY_SIDE = 1600


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segmentation:
    """A label map and what its numbers mean.

    Attributes:
        labels: (H, W) uint8, or uint16 above 254 classes.
        classes: names; `labels` holds indices into them.
        unlabelled: the label of pixels without a class, 255 or 65535.
        confidence: (H, W) float32, probability of the best class before the threshold; None unless asked for.
        background: index of the background class, or None.
        image: (H, W, 3) uint8, what was segmented, for overlays; may be None. Copies and pickles leave it out.
        name: of the image, for file names; may be None.
    """

    labels: Labels
    classes: tuple[str, ...]
    unlabelled: int
    confidence: NDArray[np.float32] | None = None
    background: int | None = None
    image: NDArray[np.uint8] | None = None
    name: str | None = None

    @classmethod
    def of(
        cls, decoded: Decoded, vocabulary: Vocabulary, *, image: NDArray[np.uint8] | None, name: str | None
    ) -> Segmentation:
        """What was decoded, with the names of its classes and the image it is of."""
        return cls(
            labels=decoded.labels,
            classes=vocabulary.classes,
            unlabelled=decoded.unlabelled,
            confidence=decoded.confidence,
            background=vocabulary.background,
            image=image,
            name=name,
        )

    def shares(self) -> dict[str, float]:
        """The share of all pixels of each class that is present, largest first, adding up to 1.

        Pixels without a class count under "(unlabelled)".
        """
        return {self._name(label): share for label, share in self.label_shares()}

    def label_shares(self) -> list[tuple[int, float]]:
        """As `shares`, with labels for names."""
        if self.labels.dtype == np.uint8:
            from PIL import (
                Image,
            )  # counts bytes; numpy makes eight of each first and takes three times as long

            counts = np.array(Image.fromarray(self.labels).histogram())
        else:
            counts = np.bincount(self.labels.ravel())
        present = np.flatnonzero(counts)
        order = present[np.argsort(-counts[present], kind="stable")]
        return [(int(label), float(counts[label] / self.labels.size)) for label in order]

    def overlay(
        self,
        image: NDArray[np.uint8] | None = None,
        *,
        alpha: float = 0.55,
        legend: bool = True,
        long_side: int | None = None,
    ) -> NDArray[np.uint8]:
        """The classes in colour over the image.

        Args:
            image: (H, W, 3) uint8 RGB; None takes the segmented one.
            alpha: how opaque the colours are, 0..1.
            legend: add a panel with the classes present and their shares; the result is then larger than the image.
            long_side: shrink a larger image by a whole number, to at most so many pixels; None keeps its size.

        Returns:
            (H', W', 3) uint8 RGB.
        """
        from scclip_rt.overlay import LegendEntry, add_legend, class_colours, paint, shown_colours, shrink

        image = self.image if image is None else image
        if image is None:
            raise ImageError("this result doesn't hold its image; pass it to overlay(image)")
        if image.shape != (*self.labels.shape, 3) or image.dtype != np.uint8:
            raise ImageError(
                f"an overlay needs the segmented image, uint8 {(*self.labels.shape, 3)}; "
                f"got {image.dtype} {image.shape}"
            )
        if not 0 <= alpha <= 1:
            raise OptionError(f"alpha must be in 0..1; got {alpha}")
        if long_side is not None and (not isinstance(long_side, int) or long_side < 1):
            raise OptionError(
                f"long_side must be a whole number of at least 1; got {long_side!r}", field="long_side"
            )
        shares = self.label_shares()
        present = [label for label, _ in shares]
        colours = class_colours(present, background=self.background, unlabelled=self.unlabelled)
        image, labels = shrink(image, self.labels, long_side)
        painted = paint(image, labels, present, colours, alpha)
        if not legend:
            return painted
        colours = shown_colours(painted, labels, present, colours)
        entries = [
            LegendEntry(self._name(label), share, tuple(colour))
            for (label, share), colour in zip(shares, colours.tolist(), strict=True)
        ]
        return add_legend(painted, entries)

    def save(
        self,
        directory: str | os.PathLike[str],
        stem: str | None = None,
        *,
        overlay: bool = True,
        force: bool = False,
    ) -> list[Path]:
        """Write `STEM.labels.png` (the labels, 8 bits with a palette or 16 grey) and `STEM.overlay.png`.

        Args:
            directory: made if it doesn't exist.
            stem: None takes the image's name without its suffix.
            overlay: also write the overlay, if the image is at hand: at most 1600 pixels on the long side without its
                legend, as it is for people; the labels have every pixel.
            force: replace existing files.

        Returns:
            The files written.

        Raises:
            OutputError: a file exists and `force` is not given, or can't be written; then neither is left.
        """
        stem = stem if stem is not None else Path(self.name or "image").stem
        folder = Path(directory)
        labels = folder / f"{stem}.labels.png"
        if not overlay or self.image is None:
            with atomic_path(labels, force=force) as temporary:
                temporary.write_bytes(self._labels_png())
            return [labels]
        picture = folder / f"{stem}.overlay.png"
        with (
            atomic_path(labels, force=force) as labels_temporary,
            atomic_path(picture, force=force) as picture_temporary,
        ):
            labels_temporary.write_bytes(self._labels_png())
            picture_temporary.write_bytes(encode_png(self.overlay(long_side=_OVERLAY_SIDE)))
        return [labels, picture]

    def _labels_png(self) -> bytes:
        from scclip_rt.overlay import labels_png

        return labels_png(self.labels, background=self.background, unlabelled=self.unlabelled)

    def __repr__(self) -> str:
        """One line: name, size, and the five largest classes."""
        shares = list(self.shares().items())
        listed = ", ".join(f"{shorten(name)} {100 * share:.0f} %" for name, share in shares[:5])
        more = f", {len(shares) - 5} more" if len(shares) > 5 else ""
        name = f"{Path(self.name).name} " if self.name else ""
        return (
            f"<Segmentation {printable(name)}{self.labels.shape[1]}×{self.labels.shape[0]}: {listed}{more}>"
        )

    def _repr_png_(self) -> bytes | None:
        """The overlay, for notebooks; of a result without its image, the labels in colour."""
        return self._labels_png() if self.image is None else encode_png(self.overlay(long_side=_OVERLAY_SIDE))

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the image: what is sent or kept is the labels (and the confidence, if it was asked for)."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "image"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in (state | {"image": None}).items():
            object.__setattr__(self, name, value)

    def _name(self, label: int) -> str:
        return UNLABELLED if label == self.unlabelled else self.classes[label]

"""A function module for CVAT's automatic annotation; `cvat-cli` runs it where the images are, no server needed.

    cvat-cli task auto-annotate 7 --function-module scclip_rt.serving.adapters.cvat -p classes=str:"sky; dog, puppy"

The task's labels of the same names get masks; with CVAT's option for polygons they get outlines.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scclip_rt.errors import OptionError
from scclip_rt.segmenter import Segmenter
from scclip_rt.serving.vocabularies import split_classes

if TYPE_CHECKING:
    from PIL import Image

    from scclip_rt.segmentation import Segmentation


class CvatFunction:
    """What `create` makes: CVAT asks it for `spec` and calls `detect`.

    Args:
        segmenter: with the classes to annotate.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter

    @property
    def spec(self) -> Any:
        """The labels, of type mask; the background is none."""
        import cvat_sdk.auto_annotation as annotation

        vocabulary = self._segmenter.vocabulary
        return annotation.DetectionFunctionSpec(
            labels=[
                annotation.label_spec(name, index, type="any")
                for index, name in enumerate(vocabulary.classes)
                if index != vocabulary.background
            ]
        )

    def detect(self, context: Any, image: Image.Image) -> list[Any]:
        """One image's masks, or polygons where CVAT asks for them.

        Args:
            context: CVAT's; its `conf_threshold` leaves out less probable pixels.
            image: as CVAT loaded it.
        """
        segmenter = self._segmenter
        if context.conf_threshold:
            segmenter = segmenter.with_options(
                replace(segmenter.options, prob_threshold=float(context.conf_threshold))
            )
        result = segmenter(image)
        return _polygons(result) if context.conv_mask_to_poly else _masks(result)


def create(
    bundle: str = "demo", classes: str | None = None, vocabulary: str | None = None, **options: Any
) -> CvatFunction:
    """What `cvat-cli` calls with the `-p` parameters.

    Args:
        bundle: directory, or `demo`.
        classes: `sky; grass, lawn; dog, puppy`.
        vocabulary: instead of `classes`, a file that `scclip embed` wrote.
        options: further arguments of `Segmenter`.

    Raises:
        ScclipError: as `Segmenter`.
    """
    if classes is not None and not split_classes(classes):
        raise OptionError("classes names none; give for example 'sky; grass, lawn; dog'")
    return CvatFunction(
        Segmenter(
            bundle,
            classes=None if classes is None else split_classes(classes),
            vocabulary=vocabulary,
            **options,
        )
    )


def _masks(result: Segmentation) -> list[Any]:
    import cvat_sdk.auto_annotation as annotation

    from scclip_rt.formats.rle import cvat_masks

    return [
        annotation.mask(mask.label, [*mask.counts, *mask.box])
        for mask in cvat_masks(result.labels)
        if mask.label not in (result.background, result.unlabelled)
    ]


def _polygons(result: Segmentation) -> list[Any]:
    import cvat_sdk.auto_annotation as annotation

    from scclip_rt.formats.polygons import label_polygons

    return [
        annotation.polygon(polygon.label, polygon.rings[0].astype(float).ravel().tolist())
        for polygon in label_polygons(result.labels)
        if polygon.label not in (result.background, result.unlabelled)
    ]

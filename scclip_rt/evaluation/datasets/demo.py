"""The demo scenes as a dataset: rendered as they are asked for, with exact masks."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from scclip_rt.evaluation.datasets.base import Dataset, Sample
from scclip_rt.evaluation.errors import DatasetError
from scclip_rt.vocabulary.classes import ClassSource, parse_classes

if TYPE_CHECKING:
    from scclip_rt.demo.scenes import Scene


def open_demo(*, classes: ClassSource | None = None) -> Dataset:
    """The held-out demo scenes, with the settings of the bundle.

    Args:
        classes: other names for the same materials, in the same order; None takes their own.

    Raises:
        BackendError: OpenCV, which draws them, is not installed.
        DatasetError: another number of classes.
    """
    from scclip_rt.demo.scenes import CLASSES, TEST_SCENES  # not for who evaluates other images

    prompts = parse_classes(CLASSES if classes is None else classes)
    if len(prompts) != len(CLASSES):
        raise DatasetError(f"the demo scenes have {len(CLASSES)} classes; the list has {len(prompts)}")
    return Dataset(
        name="demo",
        title=f"demo scenes ({len(CLASSES)} materials)",
        prompts=prompts,
        classes=tuple(names[0] for names in prompts),
        samples=_Scenes(TEST_SCENES),
        background="none",
        identity=f"test:{TEST_SCENES}",
    )


@dataclass(frozen=True, slots=True)
class _Scenes(Sequence[Sample]):
    """Held-out scenes by index; each access renders."""

    number: int

    def __len__(self) -> int:
        return self.number

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.number))]
        if not 0 <= index < self.number:
            raise IndexError(index)
        from scclip_rt.demo.scenes import test_scene

        scene = test_scene(index)
        return Sample(name=f"scene-{index:03}", image=scene.image, truth=functools.partial(_truth, scene))


def _truth(scene: Scene) -> NDArray[np.uint16]:
    return scene.mask.astype(np.uint16)

"""Frames of a video file, a network stream or a camera, upright, with their times."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.errors import ImageError, optional_module
from scclip_rt.limits import in_range


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One frame.

    Attributes:
        image: (H, W, 3) uint8 RGB, turned as the file asks for.
        number: in the source, from 0.
        time: seconds, as a file counts them, or since the first frame of a live source; None where it doesn't say.
    """

    image: NDArray[np.uint8]
    number: int
    time: Fraction | None


def load_av() -> ModuleType:
    """PyAV's module `av`.

    Raises:
        BackendError: it is not installed.
    """
    return optional_module("av", "video needs PyAV", "video")


def read_frames(source: str | os.PathLike[str], *, every: int = 1) -> Iterator[Frame]:
    """The frames of a source, in the order they are shown.

    Args:
        source: a file; an address such as `rtsp://…`; or a camera's device file such as `/dev/video0`.
        every: take each so many-th frame, beginning with the first. The others are decoded, but not converted.

    Yields:
        Frames, one at a time: nothing is read ahead.

    Raises:
        ImageError: no such file, no video in it, or damaged.
        OptionError: `every` is outside its range.
        BackendError: PyAV is not installed.

    Example:
        >>> for frame in read_frames("film.mp4", every=10):
        ...     print(float(frame.time), frame.image.shape)
    """
    in_range("every", every)
    return _frames(os.fspath(source), every)


def _frames(source: str, every: int) -> Iterator[Frame]:
    av = load_av()
    camera = Path(source).is_char_device()
    # Live sources count from when they were switched on, or in years.
    origin = None if camera or "://" in source else Fraction(0)
    try:
        with av.open(source, format="video4linux2,v4l2" if camera else None) as container:
            if not container.streams.video:
                raise ImageError(f"{source} holds no video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                if number % every:
                    continue
                time = _time(frame)
                origin = time if origin is None else origin
                since = None if time is None or origin is None else time - origin
                yield Frame(image=_upright(frame), number=number, time=since)
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"can't read video from {source}: {reason}") from error


def _upright(frame: Any) -> NDArray[np.uint8]:
    image: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # degrees, counter-clockwise
    return image if turns == 0 else np.ascontiguousarray(np.rot90(image, turns))


def _time(frame: Any) -> Fraction | None:
    if frame.pts is None or frame.time_base is None:
        return None
    return Fraction(frame.pts * frame.time_base)

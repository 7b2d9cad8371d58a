"""Label maps as a lossless video, and overlays as one to look at."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from scclip_rt.errors import ImageError, OutputError
from scclip_rt.files import atomic_path
from scclip_rt.video.read import Frame, load_av

if TYPE_CHECKING:
    from scclip_rt.segmentation import Segmentation

_CLASSES = "SCCLIP_CLASSES"
_GREY = ("gray", "gray16le")
_TICKS = 90_000
"""Of a second: the clock of most video; both containers round to their own."""
_QUALITY = {"crf": "20", "preset": "veryfast"}


class _Video:
    """A video file that is there, whole, after the `with` block has ended without an error.

    Args:
        path: of the file.
        codec: of the stream.
        options: of the codec.
        metadata: of the file.
        force: replace an existing file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        codec: str,
        options: dict[str, str],
        metadata: dict[str, str],
        force: bool,
    ) -> None:
        self._path = Path(path)
        self._codec = codec
        self._options = options
        self._metadata = metadata
        self._force = force
        self._stack = ExitStack()
        self._container: Any = None
        self._stream: Any = None
        self._size: tuple[int, int] | None = None
        self._last = -_TICKS // 1000

    def __enter__(self) -> Self:
        av = load_av()
        temporary = self._stack.enter_context(atomic_path(self._path, force=self._force))
        self._container = self._stack.enter_context(av.open(str(temporary), "w"))
        self._container.metadata.update(self._metadata)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._stack.__exit__(kind, error, trace)

    def _add(self, pixels: NDArray[Any], source: str, pixel_format: str, frame: Frame) -> None:
        av = load_av()
        size = (pixels.shape[1], pixels.shape[0])
        if self._stream is None:
            self._size = size
            self._stream = self._open_stream(size, pixel_format)
        elif size != self._size:
            raise OutputError(
                f"{self._path}: frame {frame.number} is {size[0]}×{size[1]}, those before were "
                f"{self._size and '×'.join(map(str, self._size))}; write to a folder instead"
            )
        image = av.VideoFrame.from_ndarray(pixels, format=source)
        wanted = self._last + _TICKS // 25 if frame.time is None else round(frame.time * _TICKS)
        # A source may repeat a time, and Matroska's clock has milliseconds.
        self._last = image.pts = max(wanted, self._last + _TICKS // 1000)
        image.time_base = Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(image))

    def _open_stream(self, size: tuple[int, int], pixel_format: str) -> Any:
        stream = self._container.add_stream(self._codec, rate=25, options=self._options)
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        stream.time_base = stream.codec_context.time_base = Fraction(1, _TICKS)
        return stream


class MaskVideo(_Video):
    """Writes labels as a lossless grey video: Matroska, FFV1, 8 bits, or 16 above 254 classes.

    The class names are in the file's metadata, the frames' times are kept to the millisecond. `read_masks` reads it,
    and any program that reads FFV1.

    Args:
        path: of the file, `.mkv`.
        classes: names, in the order of the labels.
        force: replace an existing file.

    Raises:
        OutputError: the file exists and `force` is not given, or can't be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], classes: tuple[str, ...], *, force: bool = False
    ) -> None:
        metadata = {_CLASSES: json.dumps(classes, ensure_ascii=False)}
        # Each frame by itself (g=1): a player may jump anywhere. slicecrc: a damaged file is found out.
        options = {"level": "3", "g": "1", "slicecrc": "1"}
        super().__init__(path, codec="ffv1", options=options, metadata=metadata, force=force)

    def add(self, result: Segmentation, frame: Frame) -> None:
        """Write a frame's labels."""
        grey = "gray" if result.labels.dtype == np.uint8 else "gray16le"
        self._add(result.labels, grey, grey, frame)


class OverlayVideo(_Video):
    """Writes overlays as H.264 in `.mp4` or `.mkv`; a last odd row or column is left out.

    Args:
        path: of the file.
        force: replace an existing file.

    Raises:
        OutputError: the file exists and `force` is not given, or can't be written.
    """

    def __init__(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        super().__init__(path, codec="libx264", options=_QUALITY, metadata={}, force=force)

    def add(self, result: Segmentation, frame: Frame) -> None:
        """Write a frame under the colours of its classes, without a legend: its size would change with them."""
        picture = result.overlay(frame.image, legend=False)
        height, width = (side // 2 * 2 for side in picture.shape[:2])
        self._add(np.ascontiguousarray(picture[:height, :width]), "rgb24", "yuv420p", frame)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaskFrame:
    """A frame of a mask video: (H, W) uint8 or uint16 labels, the names of classes, and the time in seconds."""

    labels: NDArray[np.uint8] | NDArray[np.uint16]
    classes: tuple[str, ...]
    time: Fraction


def read_masks(path: str | os.PathLike[str]) -> Iterator[MaskFrame]:
    """The label maps of a video that `MaskVideo` wrote.

    Raises:
        ImageError: not such a file, encoded again as something else, or damaged.
    """
    av = load_av()
    try:
        with av.open(os.fspath(path)) as container:
            if _CLASSES not in container.metadata or not container.streams.video:
                raise ImageError(f"{path} is no video of labels: it names no classes")
            classes = tuple(json.loads(container.metadata[_CLASSES]))
            for frame in container.decode(container.streams.video[0]):
                if frame.format.name not in _GREY:
                    raise ImageError(
                        f"{path} has {frame.format.name} frames, where labels are {' or '.join(_GREY)}: it was encoded "
                        "again after it was written. Read the file that 'scclip segment' wrote"
                    )
                labels = frame.to_ndarray(format=frame.format.name)
                yield MaskFrame(labels=labels, classes=classes, time=Fraction(frame.pts * frame.time_base))
    except (av.FFmpegError, OSError) as error:
        raise ImageError(f"can't read {path}: {getattr(error, 'strerror', None) or error}") from error

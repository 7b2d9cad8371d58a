"""A service behind a socket, and pictures to send it."""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from scclip_rt.serving.service import Service
from scclip_rt.serving.settings import Limits, ModelSource, ServeSettings

CLASSES = ("red, scarlet", "green", "blue", "background")


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A service, and a client that knows where it is."""

    service: Service
    client: httpx.Client
    address: tuple[str, int]


def wait_for(what: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until something is so."""
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit
        time.sleep(0.01)


def settings_of(bundle: Path, **changes: object) -> ServeSettings:
    settings = ServeSettings(
        models=(ModelSource(name="tiny", path=str(bundle)),),
        classes=CLASSES,
        templates="none",
        watch=0,
        limits=Limits(max_bytes=1 << 20, max_pixels=400_000, max_classes=20),
    )
    return replace(settings, **changes)


def picture(seed: int, height: int = 96, width: int = 130) -> np.ndarray:
    """(height, width, 3) uint8: smooth patches of colour."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST))


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="PNG")
    return stream.getvalue()

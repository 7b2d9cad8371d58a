"""What a service is told: models, limits, and how it talks. Picklable, for worker processes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from scclip_rt.errors import OptionError
from scclip_rt.limits import in_range

MAX_BYTES = 32 << 20
MAX_PIXELS = 50_000_000
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_ORIGIN = re.compile(r"https?://[^/\s?#]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request may cost.

    Attributes:
        queue: images in the house at a time, those at work included; the next gets 503.
        timeout: seconds from a request's first byte to its answer; then 504 (408 while the body still arrives).
        max_bytes: of a request's body, unpacked; above it 413.
        max_pixels: of an image, read from its header; above it 413.
        max_classes: names in a request, synonyms included; above it 413.
        embeddings: requests whose class names are embedded at a time; twice as many wait, the next gets 503.
        cache_bytes: images with their features that are kept for the next request with the same bytes; 0 is off.
        max_vocabularies: class lists kept embedded in memory.
    """

    queue: int = 64
    timeout: float = 30.0
    max_bytes: int = MAX_BYTES
    max_pixels: int = MAX_PIXELS
    max_classes: int = 1000
    embeddings: int = 2
    cache_bytes: int = 128 << 20
    max_vocabularies: int = 64

    def __post_init__(self) -> None:
        for item in fields(self):
            in_range(item.name, getattr(self, item.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model to serve: its name in URLs and where its bundle is. Watched, and loaded again when it is replaced."""

    name: str
    path: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise OptionError(
                f"a model's name goes into URLs: letters, digits, dots, dashes and underscores; got {self.name!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """A service.

    Attributes:
        models: at least one; requests that name none get the first.
        classes: the classes of requests that name none, as `Segmenter` takes them; None takes the bundle's own.
        vocabularies: name → file that `scclip embed` wrote; a request asks for them by name.
        templates: prompts around names.
        background: of `classes`, as for `Segmenter`.
        text_precision: as for `Segmenter`.
        backend, device, precision, ort_provider, threads, batch, short_side, stride, preset: as for `Segmenter`.
        limits: of requests.
        api_key: what clients must send, or None.
        cors: origins whose pages may call the service; none by default.
        label_studio: origin of the Label Studio whose images may be fetched, for example `http://localhost:8080`.
        label_studio_token: its access token.
        watch: seconds between looks at the bundles; 0 is off.
        shared: folder where worker processes find each other's vocabularies; None keeps them in memory.
    """

    models: tuple[ModelSource, ...]
    classes: str | Path | tuple[str, ...] | None = None
    vocabularies: Mapping[str, Path] = field(default_factory=dict)
    templates: str | Path | None = None  # the bundle's
    background: str | None = None
    text_precision: str = "fp32"
    backend: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    ort_provider: str | None = None
    threads: int | None = None
    batch: int | None = None
    short_side: int | None = None
    stride: int | None = None
    preset: str | None = None
    limits: Limits = Limits()
    api_key: str | None = None
    cors: tuple[str, ...] = ()
    label_studio: str | None = None
    label_studio_token: str | None = None
    watch: float = 2.0
    shared: Path | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise OptionError("name at least one bundle to serve")
        names = [model.name for model in self.models]
        if len(set(names)) < len(names):
            raise OptionError(f"two models have the same name; got {', '.join(names)}")
        for name in self.vocabularies:
            if not _NAME.fullmatch(name):
                raise OptionError(
                    f"a vocabulary's name may hold letters, digits, dots, dashes and underscores; got {name!r}"
                )
        in_range("watch", self.watch)
        for origin in self.cors:  # a browser's never end in a slash, so such a one would allow nobody
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise OptionError(
                    f"an origin looks like https://a.example, or is *; got {origin!r}", field="cors"
                )
        if self.label_studio is not None and not _ORIGIN.match(self.label_studio):
            raise OptionError(
                f"Label Studio's URL looks like http://localhost:8080; got {self.label_studio!r}",
                field="label_studio",
            )

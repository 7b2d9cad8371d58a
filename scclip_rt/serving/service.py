"""Models, engine, limits: everything between a decoded request and its answer, whatever protocol it came by."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from scclip_rt.bundle.bundle import Bundle
from scclip_rt.cpus import worker_threads
from scclip_rt.encoded import Encoded
from scclip_rt.errors import OptionError, ScclipError
from scclip_rt.segmentation import Segmentation
from scclip_rt.serving.engine import Engine, Job, Work
from scclip_rt.serving.errors import (
    BadRequestError,
    BusyError,
    DeadlineError,
    NotFoundError,
    NotReadyError,
)
from scclip_rt.serving.feature_cache import FeatureCache
from scclip_rt.serving.images import WireImage
from scclip_rt.serving.metrics import Metrics
from scclip_rt.serving.model import LoadedModel, Overrides, ReadyImage, bundle_stamp
from scclip_rt.serving.settings import ModelSource, ServeSettings
from scclip_rt.serving.vocabularies import with_background
from scclip_rt.vocabulary.file import Vocabulary

Result = TypeVar("Result")
_log = logging.getLogger("scclip_rt.serving")
_AS_THE_MODEL = Overrides()
_LONG_LIST = 100  # classes, or as many hundreds of characters: reading more takes too long for an event loop
_REFRESH_SECONDS = 2.0  # of the gauges, which another process may be asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a request asks for.

    Attributes:
        image: an encoded file's bytes, or (H, W, 3) uint8 RGB.
        model: its name; None takes the first.
        classes: an entry a class, synonyms after commas; None for a vocabulary.
        vocabulary: its name; None without classes takes the default.
        background: name of a class, `none`, or None.
        overrides: of decoding.
        confidence: also give probabilities.
        features: also give features.
    """

    image: WireImage
    model: str | None = None
    classes: tuple[str, ...] | None = None
    vocabulary: str | None = None
    background: str | None = None
    overrides: Overrides = _AS_THE_MODEL
    confidence: bool = False
    features: bool = False

    def __post_init__(self) -> None:
        if self.classes is not None and self.vocabulary is not None:
            raise BadRequestError("send either classes or a vocabulary's name, and not both")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a renderer gets, in a worker.

    Attributes:
        model: that answered.
        result: labels and confidence.
        encoded: features; None where a GPU did all and none were asked for.
    """

    model: LoadedModel
    result: Segmentation
    encoded: Encoded | None


@dataclass(slots=True, eq=False)
class Visit:
    """One request on its way through the service: its clock, and what the log is to say.

    Attributes:
        deadline: `time.monotonic()` after which nobody waits.
        note: for the access log.
        jobs: to cancel when the client goes.
    """

    deadline: float
    note: dict[str, Any] = field(default_factory=dict)
    jobs: list[Job[Any]] = field(default_factory=list)
    gone: bool = False

    def cancel(self) -> None:
        """The client is gone: work that is not begun is not done."""
        self.gone = True
        for job in self.jobs:
            job.cancel()


@dataclass(slots=True, eq=False)
class _Slot:
    """A served model: what is loaded, and the bundle it came from."""

    source: ModelSource
    model: LoadedModel | None = None
    error: str | None = None
    stamp: tuple[int, ...] | None = None


class Service:
    """The service behind every protocol. Loading starts at once, in a thread.

    Args:
        settings: what to serve, and how.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.cache = FeatureCache(settings.limits.cache_bytes)
        workers = max(2, min(8, worker_threads(None) // 2))
        self.engine = Engine(limit=settings.limits.queue, workers=workers, observer=self.metrics)
        self._slots = {source.name: _Slot(source) for source in settings.models}
        self._embedder = ThreadPoolExecutor(settings.limits.embeddings, thread_name_prefix="scclip-embed")
        self._embedding = 0
        self.draining = False
        self._stop = threading.Event()
        self._failed: ScclipError | None = None
        self._add_gauges()
        self._loader = threading.Thread(target=self._load_and_watch, name="scclip-loader", daemon=True)
        self._loader.start()

    @property
    def failed(self) -> ScclipError | None:
        """What kept a model from loading at the start."""
        return self._failed

    @property
    def ready(self) -> bool:
        """Whether every model is loaded and warm, and the server stays."""
        return not self.draining and all(slot.model is not None for slot in self._slots.values())

    def models(self) -> dict[str, LoadedModel | None]:
        """Name → what is loaded, in the order of the settings."""
        return {name: slot.model for name, slot in self._slots.items()}

    def model(self, name: str | None) -> LoadedModel:
        """The loaded model of that name; None is the first.

        Raises:
            NotFoundError: no such model.
            NotReadyError: it is not loaded yet.
        """
        slot = self._slots.get(name) if name is not None else next(iter(self._slots.values()))
        if slot is None:
            raise NotFoundError(f"no model is called {name!r}; this server has {', '.join(self._slots)}")
        if slot.model is None:
            reason = slot.error or "it is still being loaded"
            raise NotReadyError(f"model {slot.source.name!r} is not ready: {reason}", retry_after=2)
        return slot.model

    def visit(self) -> Visit:
        """A request begins: its clock."""
        return Visit(deadline=time.monotonic() + self.settings.limits.timeout)

    async def segment(self, query: Query, render: Callable[[Answer], Result], visit: Visit) -> Result:
        """Segment one image.

        Args:
            query: what is asked for.
            render: makes the answer, in a worker.
            visit: the request's.

        Raises:
            ServingError, ScclipError: what keeps the answer from being made.
        """
        self.engine.check_room()
        model = self.model(query.model)
        vocabulary = await self.vocabulary(
            model, classes=query.classes, name=query.vocabulary, background=query.background, visit=visit
        )
        query.overrides.over(model.segmenter)  # a wrong setting shows before any work

        def prepare() -> ReadyImage:
            return model.prepare(
                query.image,
                vocabulary,
                query.overrides,
                confidence=query.confidence,
                whole=not query.features,
                cache=self.cache,
            )

        def finish(ready: ReadyImage, features: NDArray[np.float32], threads: int | None) -> Result:
            result, encoded = model.finish(
                ready,
                features,
                vocabulary,
                query.overrides,
                confidence=query.confidence,
                cache=self.cache,
                threads=threads,
            )
            self.metrics.image(model.name, cached=ready.encoded is not None)
            return render(Answer(model=model, result=result, encoded=encoded))

        job = self.engine.submit(
            Work(prepare=prepare, finish=finish, encoder=model.segmenter.backend, deadline=visit.deadline)
        )
        visit.jobs.append(job)
        visit.note["seconds"] = job.seconds
        try:
            return await asyncio.wait_for(
                asyncio.wrap_future(job.future), max(0.0, visit.deadline - time.monotonic())
            )
        except TimeoutError:
            job.cancel()
            raise DeadlineError(
                f"no answer within {self.settings.limits.timeout:g} s; the server is busy, or the image is large"
            ) from None
        except asyncio.CancelledError:
            job.cancel()
            raise

    async def vocabulary(
        self,
        model: LoadedModel,
        *,
        classes: tuple[str, ...] | None,
        name: str | None,
        background: str | None,
        visit: Visit,
    ) -> Vocabulary:
        """The vocabulary that a request names, embedded if need be.

        Raises:
            ServingError, ScclipError: as `Vocabularies`.
        """
        if classes is None:
            return with_background(model.vocabularies.find(name), background)

        def find() -> Vocabulary | None:
            return model.vocabularies.known(classes, background)

        long = len(classes) > _LONG_LIST or sum(map(len, classes)) > _LONG_LIST * 100
        known = await asyncio.to_thread(find) if long else find()
        return known if known is not None else (await self.embed(model, classes, background, visit))[1]

    async def embed(
        self, model: LoadedModel, classes: tuple[str, ...], background: str | None, visit: Visit
    ) -> tuple[str, Vocabulary]:
        """Embed a list of classes, a few lists at a time.

        Returns:
            The name to ask for it, and the vocabulary.

        Raises:
            BusyError: too many lists wait already.
            ServingError, ScclipError: as `Vocabularies.embed`.
        """
        if self._embedding >= 3 * self.settings.limits.embeddings:
            raise BusyError("too many class lists are being embedded; try again later", retry_after=2)
        self._embedding += 1
        start = time.monotonic()
        future = asyncio.get_running_loop().run_in_executor(
            self._embedder,
            lambda: model.vocabularies.embed(
                classes, background, deadline=visit.deadline, gone=lambda: visit.gone or self._stop.is_set()
            ),
        )
        future.add_done_callback(self._embedded)
        try:
            result = await asyncio.wait_for(
                asyncio.shield(future), max(0.0, visit.deadline - time.monotonic())
            )
        except TimeoutError:
            raise DeadlineError(
                "the class names were not embedded in time; send them again to go on where this stopped"
            ) from None
        self.metrics.stage("embed", time.monotonic() - start)
        return result

    def _embedded(self, future: asyncio.Future[Any]) -> None:
        self._embedding -= 1
        if not future.cancelled():
            future.exception()  # looked at: the request may have gone by now

    def drain(self) -> None:
        """From now on `ready` says no; what was accepted is still answered."""
        self.draining = True

    def close(self, timeout: float = 10.0) -> None:
        """Finish what is in the house and end the threads."""
        self.draining = True
        self._stop.set()
        self.engine.close(timeout)
        self._embedder.shutdown(wait=False, cancel_futures=True)

    def _add_gauges(self) -> None:
        gauge = self.metrics.gauge
        gauge("scclip_queue_limit", "Images that may be in the house.", lambda: self.settings.limits.queue)
        gauge("scclip_in_flight", "Images in the house.", lambda: self.engine.jobs)
        gauge("scclip_queue_depth", "Images that no thread has looked at.", lambda: self.engine.waiting)
        gauge("scclip_embedding", "Class lists being embedded.", lambda: self._embedding)
        gauge("scclip_feature_cache_bytes", "Bytes of cached images.", lambda: self.cache.held_bytes)
        gauge("scclip_ready", "1 when every model is loaded.", lambda: int(self.ready), joint="livemin")

    def _load_and_watch(self) -> None:
        """In the loader's thread: load every model, then load those again whose bundle was replaced."""
        for slot in self._slots.values():
            self._load(slot)
        while not self._stop.wait(self.settings.watch or _REFRESH_SECONDS):
            self.metrics.refresh()
            for slot in self._slots.values() if self.settings.watch else ():
                stamp = bundle_stamp(slot.source.path)
                if stamp is not None and stamp != slot.stamp:
                    self._load(slot)

    def _load(self, slot: _Slot) -> None:
        """Load one model; what was loaded before stays until the new one is warm, and if that fails."""
        name, path = slot.source.name, slot.source.path
        stamp, start = bundle_stamp(path), time.monotonic()
        try:
            model = LoadedModel.load(name, Bundle.open(path), self.settings)
        except Exception as error:
            # Not remembered as seen: a copy that is still being written is complete at one of the next looks.
            message = " ".join(str(error).split())
            self.metrics.loaded(name, "error")
            if slot.model is None and self._failed is None:
                self._failed = error if isinstance(error, ScclipError) else OptionError(message)
            if message != slot.error:
                _log.error("model %s was not loaded: %s", name, message)
            slot.error = message
            return
        old, slot.model, slot.error, slot.stamp = slot.model, model, None, stamp
        if old is not None:
            self.cache.forget(old.key)
        self.metrics.loaded(name, "ok")
        _log.info(
            "model %s is ready: %s",
            name,
            _described(model.segmenter.backend.describe(), time.monotonic() - start),
        )


def _described(info: Mapping[str, Any], seconds: float) -> str:
    return f"{info['backend']} {info['precision']} on {info['device']}, {info['threads']} threads, {seconds:.1f} s"

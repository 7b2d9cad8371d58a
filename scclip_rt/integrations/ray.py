"""Ray: `segment_dataset` for Ray Data's datasets, `RayEngine` for `scclip batch`.

Ray Data 2.60 waits without a message when actors take every CPU and none is left to read. So what is asked for is
compared with what the cluster has, before anything starts.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scclip_rt.batch.engine import Event, Failed, shard_events
from scclip_rt.batch.errors import BatchError
from scclip_rt.batch.item import Shard
from scclip_rt.batch.segment_rows import SegmentRows
from scclip_rt.batch.worker import Progress, Setup, Worker, bundle_anywhere
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.errors import OptionError, ScclipError, install
from scclip_rt.limits import in_range
from scclip_rt.vocabulary.open import EmbeddingOptions, resolve_vocabulary

if TYPE_CHECKING:
    from ray.data import Dataset

    from scclip_rt.vocabulary.file import Vocabulary

__all__ = ["ActorPlan", "RayEngine", "SegmentRows", "plan_actors", "segment_dataset"]

BATCH_SIZE = 16
"""Rows an actor takes at a time: windows are batched across them, and their bytes are in memory at once."""
_CPUS_PER_ACTOR = 4
_STORE_BYTES = 200 << 20
"""Object store of a Ray that is started for shards: their images never go through it."""
_TELL_AFTER = 10.0
"""Seconds that may pass in silence while actors wait for their resources."""
_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorPlan:
    """Actors that fit a cluster.

    Attributes:
        actors: how many.
        cpus: that Ray reserves for each: their sum leaves one CPU of every machine for reading.
        gpus: likewise.
        threads: of each actor's segmenter: the machine's CPUs divided by its actors.
    """

    actors: int
    cpus: float
    gpus: float
    threads: int


def plan_actors(
    nodes: Sequence[tuple[float, float]], *, actors: int | None, gpus_per_actor: float = 0
) -> ActorPlan:
    """Divide a cluster among actors so that Ray can start them all and still read.

    Args:
        nodes: (CPUs, GPUs) of each machine.
        actors: how many; None takes one for each GPU share, or for each four CPUs.
        gpus_per_actor: GPUs that each actor holds.

    Raises:
        OptionError: the cluster has fewer GPUs than the actors need, or no CPUs.
    """
    in_range("gpus_per_actor", gpus_per_actor)
    usable = [(cpus, gpus) for cpus, gpus in nodes if cpus >= 1 and gpus >= gpus_per_actor]
    if not usable:
        asked = f"{gpus_per_actor:g} GPUs an actor" if gpus_per_actor else "CPUs"
        raise OptionError(f"no machine of the cluster has {asked}; it has {_describe(nodes)}")
    if gpus_per_actor:
        room = [int(gpus / gpus_per_actor + 1e-9) for _, gpus in usable]
    else:
        room = [max(1, int(cpus) // _CPUS_PER_ACTOR) for cpus, _ in usable]
    if actors is None:
        actors = sum(room)
    in_range("actors", actors)
    if gpus_per_actor and actors > sum(room):
        raise OptionError(
            f"{actors} actors of {gpus_per_actor:g} GPUs need more than the cluster has: {_describe(nodes)}. "
            f"At most {sum(room)} fit"
        )
    each = -(-actors // len(usable))
    fewest = min(cpus for cpus, _ in usable)
    if not gpus_per_actor and each > fewest:
        raise OptionError(
            f"{actors} actors on {len(usable)} machines of {fewest:g} CPUs have less than one CPU each; "
            f"take at most {int(fewest) * len(usable)}"
        )
    cpus = int(100 * (fewest - 1) / each) / 100
    return ActorPlan(actors=actors, cpus=cpus, gpus=gpus_per_actor, threads=max(1, int(fewest) // each))


def segment_dataset(
    dataset: Dataset,
    bundle: str | os.PathLike[str],
    classes: str | os.PathLike[str] | Sequence[str] | None = None,
    *,
    vocabulary: str | os.PathLike[str] | Vocabulary | None = None,
    templates: str | None = None,
    background: str | None = None,
    text_precision: str = "fp32",
    column: str | None = None,
    keep: Sequence[str] | None = None,
    actors: int | None = None,
    gpus_per_actor: float = 0,
    batch_size: int = BATCH_SIZE,
    **options: Any,
) -> Dataset:
    """Segment the images of a dataset.

    Args:
        dataset: rows with images as bytes, as paths that every machine sees, or as Hugging Face's structs; read with
            `ray.data.read_binary_files(…)` or `read_parquet(…)`. `read_images(…)` gives pixels that have lost their
            EXIF orientation, and is refused.
        bundle: as for `Segmenter`; a path that every machine sees.
        classes: as for `Segmenter`; embedded here, once.
        vocabulary: instead of `classes`.
        templates: as for `Segmenter`.
        background: as for `Segmenter`.
        text_precision: as for `Segmenter`.
        column: see `SegmentRows`.
        keep: see `SegmentRows`.
        actors: how many; None takes one for each four CPUs, or for each GPU share.
        gpus_per_actor: GPUs that each actor holds.
        batch_size: rows an actor takes at a time.
        options: further options of `Segmenter`. `threads` is planned unless given.

    Returns:
        A dataset, not computed yet: the columns that are kept, and `height`, `width`, `labels_png`, `shares`, `error`.

    Raises:
        OptionError: the cluster has no room for the actors.
        ScclipError: the bundle or the classes are not sound.

    Example:
        >>> photos = ray.data.read_binary_files("s3://bucket/photos", include_paths=True)
        >>> segment_dataset(photos, "/mnt/vitb16.scclip", ["sky", "dog, puppy"]).write_parquet("s3://bucket/labels")
    """
    from ray.data import ActorPoolStrategy

    plan = plan_actors(_cluster(), actors=actors, gpus_per_actor=gpus_per_actor)
    arguments = {
        "vocabulary": resolve_vocabulary(
            Bundle.open(os.fspath(bundle)),
            EmbeddingOptions(templates=templates, text_precision=text_precision),
            classes=classes,
            vocabulary=vocabulary,
            background=background,
        ),
        "column": column,
        "keep": keep,
        **_device(plan),
        "threads": plan.threads,
        **options,
    }
    _tell_if_busy(plan)
    return dataset.map_batches(
        SegmentRows,
        fn_constructor_args=(bundle_anywhere(bundle),),
        fn_constructor_kwargs=arguments,
        batch_size=batch_size,
        compute=ActorPoolStrategy(size=plan.actors),
        num_cpus=plan.cpus,
        num_gpus=plan.gpus or None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RayEngine:
    """Workers of `scclip batch` on a Ray cluster.

    Each actor reads its shards and writes their outputs itself, so that no image passes through Ray: input, bundle and
    output must lie where every machine sees them under the same path.

    Attributes:
        address: of the cluster; `auto` for the one this machine is in, None starts Ray here.
        actors: how many; None takes one for each four CPUs, or for each GPU share.
        gpus_per_actor: GPUs that each actor holds.
        threads: CPU threads of each actor; None divides each machine's CPUs.
        device: of each actor's segmenter; None takes `cuda:0` with a GPU, else what the bundle's options say.
    """

    address: str | None = None
    actors: int | None = None
    gpus_per_actor: float = 0
    threads: int | None = None
    device: str | None = None

    def run(self, setup: Setup, shards: Sequence[tuple[int, Shard]]) -> Iterator[Event]:
        """See `Engine`."""
        ray = _ray()
        started = not ray.is_initialized()
        plan = plan_actors(
            _cluster(self.address, store=_STORE_BYTES), actors=self.actors, gpus_per_actor=self.gpus_per_actor
        )
        overrides = {**_device(plan), "threads": self.threads or plan.threads}
        if self.device is not None:
            overrides["device"] = self.device
        count = min(plan.actors, max(1, len(shards)))
        actor_class = ray.remote(ShardActor).options(num_cpus=plan.cpus, num_gpus=plan.gpus)
        try:
            yield from ShardRun(ray, lambda: actor_class.remote(setup, overrides), count, shards).events()
        finally:
            if started:
                ray.shutdown()


class ShardActor:
    """A worker in a Ray actor."""

    def __init__(self, setup: Setup, overrides: dict[str, Any]) -> None:
        self._error: ScclipError | None = None
        try:
            self._worker = Worker(setup, **overrides)
        except (
            ScclipError
        ) as error:  # raised in a constructor it would reach the caller as an actor that died
            self._error = error

    def ready(self) -> ScclipError | None:
        """What is wrong here, if anything is."""
        return self._error

    def run(self, index: int, shard: Shard) -> Iterator[Event | ScclipError]:
        """The events of one shard; images are told about once a second."""
        if self._error is not None:
            yield self._error
            return
        images = errors = 0
        told = time.monotonic()
        try:
            for event in shard_events(self._worker, index, shard):
                if isinstance(event, Progress):
                    images, errors = images + event.images, errors + event.errors
                if images and (not isinstance(event, Progress) or time.monotonic() - told >= 1):
                    yield Progress(images=images, errors=errors)
                    images, errors, told = 0, 0, time.monotonic()
                if not isinstance(event, Progress):
                    yield event
        except ScclipError as error:
            yield error


class ShardRun:
    """Shards over actors, one at a time each; an actor that died is replaced, and its shard done again."""

    def __init__(
        self, ray: Any, make: Callable[[], Any], count: int, shards: Sequence[tuple[int, Shard]]
    ) -> None:
        self._ray = ray
        self._make = make
        self._left = deque(shards)
        self._idle = deque(make() for _ in range(count))
        self._running: dict[Any, tuple[Any, tuple[int, Shard], list[Progress]]] = {}
        self._deaths: dict[int, int] = {}

    def events(self) -> Iterator[Event]:
        _wait_until_ready(self._ray, list(self._idle))
        while self._left or self._running:
            while self._left and self._idle:
                actor, shard = self._idle.popleft(), self._left.popleft()
                stream = actor.run.options(num_returns="streaming").remote(*shard)
                self._running[stream] = (actor, shard, [])
            ready, _ = self._ray.wait(list(self._running), num_returns=1, fetch_local=True)
            for stream in ready:
                yield from self._advance(stream)

    def _advance(self, stream: Any) -> Iterator[Event]:
        actor, _, told = self._running[stream]
        try:
            event = self._ray.get(next(stream))
        except StopIteration:
            del self._running[stream]
            self._idle.append(actor)
            return
        except self._ray.exceptions.RayActorError as error:
            yield from self._again(stream, error)
            return
        if isinstance(event, ScclipError):
            raise event
        if isinstance(event, Progress):
            told.append(event)
        yield event

    def _again(self, stream: Any, error: Exception) -> Iterator[Event]:
        """After the death of an actor: take back what it told, and give its shard to whoever is free."""
        _, shard, told = self._running.pop(stream)
        deaths = self._deaths[shard[0]] = self._deaths.get(shard[0], 0) + 1
        for progress in told:
            yield Progress(images=-progress.images, errors=-progress.errors)
        if deaths == _TRIES:
            reason = " ".join(str(error).split())
            yield Failed(shard=shard[0], reason=f"shard {shard[0]}: {deaths} actors died with it: {reason}")
        else:
            self._left.append(shard)
        self._idle.append(self._make())


def _wait_until_ready(ray: Any, actors: list[Any]) -> None:
    """Wait for every actor, and say so if that takes long.

    Raises:
        ScclipError: an actor can't start, or can't open the bundle.
    """
    waiting = [actor.ready.remote() for actor in actors]
    while waiting:
        ready, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_TELL_AFTER)
        try:
            problems = ray.get(ready)
        except ray.exceptions.RayActorError as error:
            raise BatchError(f"an actor can't start: {' '.join(str(error).split())}") from error
        for problem in problems:
            if problem is not None:
                raise problem
        if waiting:
            free = ray.available_resources()
            print(
                f"scclip: {len(actors) - len(waiting)} of {len(actors)} actors have started; the others wait for "
                f"resources or open the bundle (free: {free.get('CPU', 0):g} CPUs, {free.get('GPU', 0):g} GPUs)",
                file=sys.stderr,
            )


def _tell_if_busy(plan: ActorPlan) -> None:
    """Ray Data says nothing while actors wait for what others hold."""
    free = _ray().available_resources()
    if free.get("CPU", 0) < plan.actors * plan.cpus + 1 or free.get("GPU", 0) < plan.actors * plan.gpus:
        print(
            f"scclip: the cluster has {free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs free, and "
            f"{plan.actors} actors with a CPU to read need {plan.actors * plan.cpus + 1:g} and "
            f"{plan.actors * plan.gpus:g}: they wait until others have finished",
            file=sys.stderr,
        )


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise OptionError(f"Ray is not installed: {install('ray')}") from error
    return ray


def _cluster(address: str | None = None, *, store: int | None = None) -> list[tuple[float, float]]:
    """(CPUs, GPUs) of each machine that is alive; joins or starts Ray if this process has not yet."""
    ray = _ray()
    if not ray.is_initialized():
        new = address is None and not os.environ.get("RAY_ADDRESS")
        options = {"object_store_memory": store, "include_dashboard": False} if new else {}
        try:
            ray.init(address=address, log_to_driver=False, **options)
        except ConnectionError as error:
            raise OptionError(f"no Ray cluster at {address}: {' '.join(str(error).split())}") from error
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in resources]


def _device(plan: ActorPlan) -> dict[str, str]:
    return {"device": "cuda:0"} if plan.gpus else {}  # Ray shows each actor its own GPUs only


def _describe(nodes: Sequence[tuple[float, float]]) -> str:
    return ", ".join(f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in nodes) or "no machines"

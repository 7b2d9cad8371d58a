"""What a cluster of N machines would be held up by: a calculation, from rates measured here and stated sizes.

    python -m benchmarks.cpu.cluster [--nodes 100] [--actor-rate 1.2] [--json benchmarks/results/cluster.json]

Measured here, with real Ray on two CPUs: events that the driver of `scclip batch --engine ray` takes per second, and
shards it hands out per second, from actors that do nothing else. Everything else is an argument. No cluster was used.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from scclip_rt.batch.ledger import Finished
from scclip_rt.batch.worker import Progress
from scclip_rt.integrations.ray import ShardRun


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster and its load; rates per second, sizes in bytes.

    Attributes:
        nodes: machines.
        actors: of each machine.
        actor_rate: images of each actor.
        image_bytes: read for an image.
        row_bytes: written for an image.
        shard_size: images of a shard.
        storage_rate: bytes that the shared file system gives to all machines.
        file_rate: files that it creates and syncs for all machines.
        event_rate: events that the driver takes.
        shard_rate: shards that the driver hands out.
    """

    nodes: int
    actors: int
    actor_rate: float
    image_bytes: float
    row_bytes: float
    shard_size: int
    storage_rate: float
    file_rate: float
    event_rate: float
    shard_rate: float

    @property
    def images(self) -> float:
        """Images per second, if nothing holds the actors up."""
        return self.nodes * self.actors * self.actor_rate

    def load(self) -> dict[str, float]:
        """The share of each part that the actors at full speed would use; above 1 it holds them up."""
        shards = self.images / self.shard_size
        events = (
            min(self.nodes * self.actors, self.images) + shards
        )  # an actor tells of its images once a second
        return {
            "reading and writing": self.images * (self.image_bytes + self.row_bytes) / self.storage_rate,
            "creating files (output and record of each shard)": 2 * shards / self.file_rate,
            "head: events": events / self.event_rate,
            "head: handing out shards": shards / self.shard_rate,
            "object store": 0.0,  # shards' names and counts only
        }


class _Idle:
    """An actor that tells of progress and does no work."""

    def __init__(self, events: int) -> None:
        self._events = events

    def ready(self) -> None:
        return None

    def run(self, index: int, _: object) -> Iterator[Any]:
        for _ in range(self._events):
            yield Progress(images=1, errors=0)
        yield Finished(shard=index, images=self._events, errors=0, seconds=0.0)


def driver_rate(ray: Any, *, events: int, shards: int) -> float:
    """Events (or, with none, shards) per second that the driver of a run takes."""
    actor = ray.remote(_Idle).options(num_cpus=0.5)
    run = ShardRun(ray, lambda: actor.remote(events), 2, [(i, None) for i in range(shards)])
    start, taken = None, 0
    for _ in run.events():
        if start is None:
            start = time.perf_counter()  # the actors have started
        else:
            taken += 1
    return taken / (time.perf_counter() - (start or 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=100, help="(%(default)s)")
    parser.add_argument("--actors", type=int, default=4, help="of each machine (%(default)s)")
    parser.add_argument("--actor-rate", type=float, default=1.2, help="images per second (%(default)s)")
    parser.add_argument("--image-bytes", type=float, default=100e3, help="(%(default)g)")
    parser.add_argument("--row-bytes", type=float, default=5e3, help="(%(default)g)")
    parser.add_argument("--shard-size", type=int, default=256, help="(%(default)s)")
    parser.add_argument("--storage-rate", type=float, default=1e9, help="bytes per second (%(default)g)")
    parser.add_argument("--file-rate", type=float, default=500, help="files per second (%(default)g)")
    parser.add_argument("--json", type=Path, help="write the result here")
    args = parser.parse_args()
    import ray

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(num_cpus=2, object_store_memory=200 << 20, include_dashboard=False, log_to_driver=False)
    try:
        events = driver_rate(ray, events=300, shards=6)
        shards = driver_rate(ray, events=0, shards=200)
    finally:
        ray.shutdown()
    stated = {name: value for name, value in vars(args).items() if name != "json"}
    cluster = Cluster(**stated, event_rate=events, shard_rate=shards)
    print(f"measured: the driver takes {events:.0f} events/s and hands out {shards:.0f} shards/s")
    print(f"{args.nodes} machines: {cluster.images:.0f} images/s if nothing holds them up")
    load = cluster.load()
    for part, share in sorted(load.items(), key=lambda pair: -pair[1]):
        print(f"  {share:7.1%}  {part}")
    worst = max(load.values())
    print(
        f"the first part is full at {cluster.images / worst:.0f} images/s, {args.nodes / worst:.0f} such machines"
    )
    if args.json is not None:
        report = {
            "question": "what holds up a cluster of so many machines? A calculation",
            "stated": stated,
            "measured": {"event_rate": events, "shard_rate": shards},
            "images_per_second": cluster.images,
            "load": load,
            "environment": environment(),
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()

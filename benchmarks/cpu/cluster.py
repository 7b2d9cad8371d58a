"""What a cluster of N machines would be held up by: a calculation, from rates measured here and stated sizes.

    python -m benchmarks.cpu.cluster [--nodes 100] [--actor-rate 1.2] [--json benchmarks/results/cluster.json]

Measured here, with real Ray on two CPUs: events that the driver of `scclip batch --engine ray` takes per second, and
shards it hands out per second, from actors that do nothing else. Everything else is an argument. No cluster was used.
"""

import argparse
import os
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.harness import parser, write_report
from scclip_rt.batch.ledger import Finished
from scclip_rt.batch.worker import Progress
from scclip_rt.integrations.ray import ShardRun


def load(args: argparse.Namespace, images: float, event_rate: float, shard_rate: float) -> dict[str, float]:
    """The share of each part that actors at full speed (`images` per second) would use; above 1 it holds them up."""
    shards = images / args.shard_size
    # An actor tells of its images once a second.
    events = min(args.nodes * args.actors, images) + shards
    return {
        "reading and writing": images * (args.image_bytes + args.row_bytes) / args.storage_rate,
        "creating files (output and record of each shard)": 2 * shards / args.file_rate,
        "head: events": events / event_rate,
        "head: handing out shards": shards / shard_rate,
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
    """Measure the driver, calculate, print, write."""
    options = parser(__doc__)
    options.add_argument("--nodes", type=int, default=100, help="machines (%(default)s)")
    options.add_argument("--actors", type=int, default=4, help="of each machine (%(default)s)")
    options.add_argument("--actor-rate", type=float, default=1.2, help="images per second (%(default)s)")
    options.add_argument("--image-bytes", type=float, default=100e3, help="read for an image (%(default)g)")
    options.add_argument("--row-bytes", type=float, default=5e3, help="written for an image (%(default)g)")
    options.add_argument("--shard-size", type=int, default=256, help="images (%(default)s)")
    options.add_argument("--storage-rate", type=float, default=1e9, help="bytes per second (%(default)g)")
    options.add_argument("--file-rate", type=float, default=500, help="files per second (%(default)g)")
    args = options.parse_args()
    import ray

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(num_cpus=2, object_store_memory=200 << 20, include_dashboard=False, log_to_driver=False)
    try:
        events = driver_rate(ray, events=300, shards=6)
        shards = driver_rate(ray, events=0, shards=200)
    finally:
        ray.shutdown()
    images = args.nodes * args.actors * args.actor_rate
    shares = load(args, images, events, shards)
    print(f"measured: the driver takes {events:.0f} events/s and hands out {shards:.0f} shards/s")
    print(f"{args.nodes} machines: {images:.0f} images/s if nothing holds them up")
    for part, share in sorted(shares.items(), key=lambda pair: -pair[1]):
        print(f"  {share:7.1%}  {part}")
    worst = max(shares.values())
    print(f"the first part is full at {images / worst:.0f} images/s, {args.nodes / worst:.0f} such machines")
    write_report(
        args.json,
        "what holds up a cluster of so many machines? A calculation",
        stated={name: value for name, value in vars(args).items() if name != "json"},
        measured={"event_rate": events, "shard_rate": shards},
        images_per_second=images,
        load=shares,
    )


if __name__ == "__main__":
    main()

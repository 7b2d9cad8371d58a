"""What Prometheus reads at `/metrics`."""

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of one service. With worker processes (`PROMETHEUS_MULTIPROC_DIR`) a page shows the sum of all."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "scclip_requests", "Requests answered.", ["route", "status"], registry=registry
        )
        self._latency = Histogram(
            "scclip_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = Histogram(
            "scclip_stage_seconds",
            "Time of an image in a stage: queue, prepare, encode (its share of its batches), finish; and embed.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._fill = Histogram(
            "scclip_batch_fill",
            "Windows in a batch over the most it could hold.",
            buckets=(0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0),
            registry=registry,
        )
        self._batch_requests = Counter(
            "scclip_batch_requests", "Requests that had windows in a batch, summed.", registry=registry
        )
        self._images = Counter("scclip_images", "Images segmented.", ["model"], registry=registry)
        self._hits = Counter(
            "scclip_feature_cache_hits", "Images whose features were in the cache.", registry=registry
        )
        self._reloads = Counter(
            "scclip_model_loads",
            "Bundles loaded, again or at the start.",
            ["model", "result"],
            registry=registry,
        )
        self._gauges: list[tuple[Gauge, Callable[[], float]]] = []
        self.gauge("scclip_resident_bytes", "Memory of the process in use.", resident_bytes)

    def gauge(
        self,
        name: str,
        text: str,
        value: Callable[[], float],
        *,
        joint: Literal["livesum", "livemin"] = "livesum",
    ) -> None:
        """Add a number that is read when the page is asked for; `joint` says what it is of several processes."""
        gauge = Gauge(name, text, registry=self.registry, multiprocess_mode=joint)
        self._gauges.append((gauge, value))

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def stage(self, stage: str, seconds: float) -> None:
        """A stage of one image took so long."""
        self._stages.labels(stage).observe(seconds)

    def batch(self, windows: int, size: int, requests: int) -> None:
        """A batch went through the encoder."""
        self._fill.observe(windows / size)
        self._batch_requests.inc(requests)

    def image(self, model: str, *, cached: bool) -> None:
        """An image was segmented."""
        self._images.labels(model).inc()
        if cached:
            self._hits.inc()

    def loaded(self, model: str, result: str) -> None:
        """A bundle was loaded (`ok`) or refused (`error`)."""
        self._reloads.labels(model, result).inc()

    def refresh(self) -> None:
        """Write the gauges' values: other processes' pages show what was written last."""
        for gauge, value in self._gauges:
            gauge.set(value())

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        self.refresh()
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        joint = CollectorRegistry()
        MultiProcessCollector(joint)  # type: ignore[no-untyped-call]
        return generate_latest(joint)


def resident_bytes() -> float:
    """Memory of this process in use; the most it ever was, where the system only tells that."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024
    return float(pages * os.sysconf("SC_PAGE_SIZE"))

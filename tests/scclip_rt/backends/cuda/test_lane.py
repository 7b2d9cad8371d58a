"""Runs of several chunks on one lane, over a library that takes only addresses that TensorRT would take."""

# ruff: noqa: ARG002 (the arguments are the protocol's)
from pathlib import Path

import numpy as np
import pytest

from scclip_rt.backends.cuda import Device, DeviceBuffer, KernelSet, Ledger, Stream
from scclip_rt.backends.cuda.decode import DecodeKernels, DecodeTask
from scclip_rt.backends.cuda.plans import Lane, SegmentPlan, SegmentShape, Sizes
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.decode.plan import decode_plan
from scclip_rt.decode.settings import DecodeSettings
from scclip_rt.image.geometry import Tiling
from stand_ins.cuda import FakeDriver
from stand_ins.kernels import add_kernels

PATCHES, QUERIES = 9, 5


class PickyGraph:
    """Cosines: the first byte of each window plus a number of their own. Refuses addresses between multiples of 256."""

    batch = (1, 2)
    queries = (1, 100)
    capturable = False

    def __init__(self, fake: FakeDriver) -> None:
        self._fake = fake

    def session(self, stream: Stream) -> "PickyGraph":
        self._stream = stream
        return self

    def call(self, *, batch: int, height: int, width: int, queries: int) -> "PickyGraph":
        self._shape = (batch, height, width, 3)
        return self

    def settled(self) -> None: ...

    def close(self) -> None: ...

    def enqueue(self, *, windows: int, text: int, features: int, logits: int) -> None:
        assert all(address % 256 == 0 for address in (windows, text, features, logits))
        batch = self._shape[0]

        def work() -> None:
            first = self._fake.view(windows, self._shape, np.uint8).reshape(batch, -1)[:, 0]
            out = self._fake.view(logits, (batch, PATCHES, QUERIES), np.float32)
            out[...] = first[:, None, None] + np.arange(PATCHES * QUERIES).reshape(PATCHES, QUERIES) / 100

        self._fake.queue(self._stream.address, work)


@pytest.mark.parametrize("batch", [1, 2])
def test_runs_that_would_start_between_aligned_addresses(
    own_bundle: Path, device: Device, fake: FakeDriver, batch: int
) -> None:
    """Windows of 42×42 pixels (patches of 14) and five queries: no multiple of 256 bytes after the first run."""
    add_kernels(own_bundle, fake)
    graph, ledger = PickyGraph(fake), Ledger(device)
    graph.batch = (1, batch)
    tiling = Tiling.windows(70, 98, window=42, stride=28)
    image = np.random.default_rng(1).integers(0, 256, (70, 98, 3), np.uint8)
    lane = Lane(device, graph, ledger)
    task = DecodeTask(
        plan=decode_plan(tiling, (3, 3), (70, 98)),
        settings=DecodeSettings(
            query_class=np.arange(QUERIES),
            num_classes=QUERIES,
            logit_scale=40.0,
            prob_threshold=0.0,
            area_threshold=0.0,
            background=None,
            with_confidence=False,
        ),
    )
    shape = SegmentShape(
        source=(70, 98), tiling=tiling, batch=batch, sizes=Sizes(patches=PATCHES, embed_dim=8)
    )
    text = DeviceBuffer.of(ledger, np.zeros((QUERIES, 8), np.float32), "queries")
    kernels = DecodeKernels.of(KernelSet.load(Bundle.open(own_bundle), device))
    plan = SegmentPlan(lane, shape, task, text, kernels, None)
    plan.run(image)
    corners = [int(image[top, left, 0]) for top in tiling.rows for left in tiling.columns]
    logits = fake.view(plan._logits.pointer, (len(corners), PATCHES, QUERIES), np.float32)
    np.testing.assert_array_equal(logits[:, 0, 0], corners)
    np.testing.assert_allclose(logits[:, -1, -1], np.array(corners) + 0.44)
    plan.close()
    text.close()
    lane.close()
    assert ledger.held == 0

"""Ray: plans that leave room to read, datasets, and `scclip batch --engine ray`. Ray starts once, on two CPUs."""

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from scclip_rt import BackendError, OptionError, Segmenter
from scclip_rt.batch import BatchJob, InputOptions, run_batch
from scclip_rt.integrations import ray as integration
from scclip_rt.integrations.ray import RayEngine, plan_actors, segment_dataset
from tiny_bundle import blocks_image

CLASSES = ["cat", "dog, puppy", "sky"]


@pytest.mark.parametrize(
    ("nodes", "actors", "gpus", "expected"),
    [
        ([(2, 0)], 1, 0, (1, 1.0, 2)),
        ([(2, 0)], 2, 0, (2, 0.5, 1)),
        ([(1, 0)], None, 0, (1, 0.0, 1)),
        ([(16, 0)] * 3, None, 0, (12, 3.75, 4)),
        ([(16, 4), (16, 4), (8, 0)], None, 1, (8, 3.75, 4)),
        ([(16, 1)], None, 0.5, (2, 7.5, 8)),
    ],
)
def test_plans_leave_a_cpu_of_each_machine_to_read(
    nodes: list[tuple[float, float]], actors: int | None, gpus: float, expected: tuple[int, float, int]
) -> None:
    plan = plan_actors(nodes, actors=actors, gpus_per_actor=gpus)
    assert (plan.actors, plan.cpus, plan.threads) == expected
    each = -(-plan.actors // len([node for node in nodes if node[1] >= gpus]))
    assert all(each * plan.cpus <= cpus - 1 for cpus, node_gpus in nodes if node_gpus >= gpus)


@pytest.mark.parametrize(
    ("nodes", "actors", "gpus", "message"),
    [
        ([(2, 0)], 3, 0, "less than one CPU each; take at most 2"),
        ([(8, 0)], None, 1, "no machine of the cluster has 1 GPUs an actor"),
        ([(8, 2)], 3, 1, "At most 2 fit"),
        ([], None, 0, "no machines"),
        ([(2, 0)], 0, 0, "actors must be a whole number"),
    ],
)
def test_what_does_not_fit_is_refused(
    nodes: list[tuple[float, float]], actors: int | None, gpus: float, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        plan_actors(nodes, actors=actors, gpus_per_actor=gpus)


def test_classes_of_a_dataset_are_embedded_in_the_precision_asked_for(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This bundle has no int8 text encoder: float32 must not take its place."""
    monkeypatch.setitem(sys.modules, "ray.data", Mock())
    monkeypatch.setattr(integration, "_cluster", lambda: [(4.0, 0.0)])
    monkeypatch.setattr(integration, "_tell_if_busy", Mock())
    with pytest.raises(BackendError, match="the bundle has: fp32"):
        segment_dataset(Mock(), bundle_path, CLASSES, text_precision="int8")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else it writes a token into the home folder
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=2, object_store_memory=200 << 20, include_dashboard=False, log_to_driver=False)
        yield ray
        ray.shutdown()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images; one is turned by EXIF, one is none."""
    folder = tmp_path_factory.mktemp("photos")
    turned = Image.Exif()
    turned[0x0112] = 6
    for i in range(5):
        image = Image.fromarray(blocks_image(80 + i, 120, seed=i))
        image.save(folder / f"{i}.jpg", exif=turned if i == 3 else Image.Exif())
    (folder / "5.jpg").write_bytes(b"no image")
    return folder


@pytest.mark.slow  # Ray starts
def test_actors_on_every_cpu_leave_one_to_read(ray: Any, bundle_path: Path, photos: Path) -> None:
    """With a CPU an actor, this would wait forever without a message (Ray 2.60)."""
    dataset = ray.data.read_binary_files(str(photos), include_paths=True)
    made = segment_dataset(dataset, bundle_path, CLASSES, actors=2, batch_size=2, templates="none")
    rows = {Path(row["path"]).name: row for row in made.take_all()}
    segment = Segmenter(bundle_path, classes=CLASSES, templates="none")
    assert sorted(rows) == [f"{i}.jpg" for i in range(6)]
    for i in range(5):
        expected = segment(photos / f"{i}.jpg").labels
        row = rows[f"{i}.jpg"]
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(row["labels_png"]))), expected)
        assert (row["height"], row["width"], row["error"]) == (*expected.shape, "")
        assert "bytes" not in row
    assert rows["3.jpg"]["height"] == 120  # upright
    assert "not an image" in rows["5.jpg"]["error"]
    assert rows["5.jpg"]["labels_png"] == b""


@pytest.mark.slow  # Ray starts
def test_a_batch_run_whose_actor_dies_writes_what_one_here_writes(
    ray: Any, bundle_path: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(output: Path) -> BatchJob:
        return BatchJob(
            inputs=[photos],
            bundle=bundle_path,
            output=output,
            classes=CLASSES,
            templates="none",
            format="webdataset",
            reading=InputOptions(shard_size=3),
        )

    died = tmp_path / "died"

    class Mortal(integration.ShardActor):
        """Dies in its first shard of all."""

        def run(self, index: int, shard: Any) -> Iterator[Any]:
            if not died.exists():
                died.touch()
                os._exit(1)
            yield from super().run(index, shard)

    run_batch(job(tmp_path / "local"))
    monkeypatch.setattr(integration, "ShardActor", Mortal)
    done: list[int] = []
    report = run_batch(
        job(tmp_path / "ray"), RayEngine(actors=1), progress=lambda images, *_: done.append(images)
    )
    assert died.exists()
    assert (report.images, report.errors, report.failed) == (6, 1, ())
    assert done[-1] == 6
    for path in sorted((tmp_path / "local").glob("*.tar")):
        assert path.read_bytes() == (tmp_path / "ray" / path.name).read_bytes()

"""The figures of docs/how-it-works.md: drawn from what the demo model computes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("matplotlib")

from benchmarks.demo import stages
from scclip_rt.demo.scenes import test_scene as scene

PAGE = Path(__file__).parents[2] / "docs/how-it-works.md"


def test_every_figure_of_the_page_is_drawn_and_none_other(tmp_path: Path) -> None:
    computed = stages.compute(stages.load_model(), stages.window_of(scene(8).image, 70))
    # What is marked as an outlier is what has the highest factor.
    assert sorted(torch.topk(computed.scores, len(computed.outliers)).indices.tolist()) == computed.outliers
    assert torch.equal(computed.repaired[0], computed.last[0])
    assert not torch.equal(computed.repaired[computed.outliers[0]], computed.last[computed.outliers[0]])
    text = torch.eye(computed.features.shape[1])[:3]
    written = stages.draw(computed, 130, text, ["one", "two", "three"], tmp_path)
    assert {path.name for path in written} == {
        path.name for path in (PAGE.parent / "images/stages").iterdir()
    }
    for path in written:
        assert f"(images/stages/{path.name})" in PAGE.read_text("utf-8")
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("L")).std() > 10  # not blank
        assert path.stat().st_size < 100_000

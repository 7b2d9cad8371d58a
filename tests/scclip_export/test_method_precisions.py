"""Every method's window encoder in every precision within its parity limits, and what it costs in operations."""

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from graph_flops import matmul_flops
from scclip_export.checkpoint.load_model import LoadedModel, Source, load_model
from scclip_export.methods import METHODS
from scclip_export.model.geometry import Geometry
from scclip_export.options import ExportConfig
from scclip_export.parity import Reference, check_encoder, run_encoder
from scclip_export.quantize import Int8Options
from scclip_export.writers import WRITERS, EncoderJob, GridPlan
from scclip_rt.bench.flops import count_flops
from scclip_rt.precisions import PRECISIONS
from synthetic import scene

SIDE = 7
OPTIONS: dict[str, dict[str, Any]] = {
    "sfp": {},
    "naclip": {},
    "clearclip": {},
    "sclip": {},
    "segearth": {},
    "resclip": {"cross_blocks": (1, 3)},
    "surgery": {"blocks": 2},
    "gem": {"blocks": 2},
}


@pytest.fixture(scope="module")
def model(micro_checkpoint: Path) -> LoadedModel:
    return load_model(Source(checkpoint=micro_checkpoint, heads=2), lambda _: None)


@pytest.mark.parametrize("method", OPTIONS)
def test_narrow_encoders_keep_their_limits(method: str, model: LoadedModel, tmp_path: Path) -> None:
    options = METHODS[method].options(**OPTIONS[method])
    parts = options.parts(layers=4, patch_size=16)
    window = SIDE * 16
    job = EncoderJob(
        config=ExportConfig(source=Source(checkpoint=tmp_path), method=method, int8=Int8Options(windows=6)),
        model=model,
        parts=parts,
        geometry=Geometry(
            window=window, stride=window // 2, short_side=window, long_side=2048, pads=parts.pads
        ),
        grid=GridPlan(kind="window", fixed=(SIDE, SIDE), examples=((SIDE, SIDE),)),
        directory=tmp_path,
    )
    windows = np.stack([scene(window, window, seed) for seed in range(2)])
    reference = Reference.of(job.encoder(), windows)
    for precision in PRECISIONS:
        WRITERS[precision].write(job, lambda _: None)
        runs = run_encoder(reference, WRITERS[precision].open(job.path(precision)))
        parity = check_encoder(reference, runs, precision=precision)
        assert parity.passed, (precision, parity)
    bundle: Any = SimpleNamespace(
        model=model.architecture,
        manifest=SimpleNamespace(calibration={"method": method, **asdict(options)}),
    )
    counted = count_flops(bundle, patches=SIDE * SIDE).total
    assert counted == pytest.approx(matmul_flops(job.path("fp32")), rel=5e-3)

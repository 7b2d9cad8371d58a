"""The calibrated encoder with Triton kernels against itself in plain torch."""

import pytest
import torch
from torch.nn import functional as F

from scclip_export.model.calibration import CalibrationConfig
from scclip_export.model.dtypes import POLICIES
from scclip_export.model.encoder import CalibratedEncoder
from synthetic import scene

CALIBRATION = CalibrationConfig(pre_layer=2, post_layer=1, fusion_layers=(1, 3), cls_residual=0.3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_and_outliers_are_those_of_plain_torch(micro_clip, precision) -> None:
    windows = torch.stack([torch.from_numpy(scene(96, 112, seed)) for seed in range(2)])
    text = F.normalize(torch.randn(5, 64), dim=-1)
    results = {}
    for kernels in ("reference", "triton"):
        encoder = CalibratedEncoder(
            micro_clip.visual,
            CALIBRATION,
            grid=None,
            policy=POLICIES[precision],
            kernels=kernels,
            debug_outputs=True,
        )
        results[kernels] = encoder(windows, text)
    (plain, plain_logits, plain_outliers), (triton, logits, outliers) = results.values()
    assert torch.equal(outliers, plain_outliers)
    budget = 1e-5 if precision == "fp32" else 2e-2
    assert 0 < (triton - plain).abs().max() < budget  # other sums, so not a copy of the same path
    assert (logits - plain_logits).abs().max() < budget


def test_without_outliers_to_resolve(micro_clip) -> None:
    from dataclasses import replace

    windows = torch.from_numpy(scene(96, 112, 0))[None]
    text = F.normalize(torch.randn(5, 64), dim=-1)
    calibration = replace(CALIBRATION, outlier_fraction=0.0)
    plain, triton = (
        CalibratedEncoder(micro_clip.visual, calibration, grid=(6, 7), kernels=kernels)(windows, text)[0]
        for kernels in ("reference", "triton")
    )
    torch.testing.assert_close(triton, plain, rtol=0, atol=1e-5)

"""What the exporter traces is what the runtime's OpenVINO backend can keep in float32 under bf16."""

import importlib.util
from pathlib import Path

import pytest

from scclip_rt.backends.openvino.encoder import load_openvino
from scclip_rt.backends.openvino.split import split_encoder
from scclip_rt.bundle.bundle import Bundle


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="extra `openvino`")
@pytest.mark.parametrize("grid", ["window", "fixed", "dynamic"])
def test_the_anomaly_stage_of_a_traced_encoder_is_found(micro_bundle: Path, grid: str) -> None:
    bundle = Bundle.open(micro_bundle)
    (spec,) = bundle.encoders_for(grid)  # type: ignore[arg-type]
    split = split_encoder(load_openvino().Core().read_model(str(bundle.path / spec.file)))
    assert split is not None
    kinds = [node.get_type_name() for node in split.stage.get_ops()]
    assert (kinds.count("TopK"), kinds.count("MatMul")) == (2, 1)
    assert len(split.stage.outputs) == 1
    # Only activations cross: all of them have the batch in their shape. Weights and axes stay constants in every part.
    parts = (split.trunk, split.stage, split.tail)
    assert all(parameter.partial_shape.is_dynamic for part in parts for parameter in part.inputs)

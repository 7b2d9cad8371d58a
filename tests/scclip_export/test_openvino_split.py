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
    # Of numbers only activations cross, which have the batch in their shape: weights stay constants in every part.
    crossing = [port for part in (split.trunk, split.stage, split.tail) for port in part.inputs]
    assert all(port.partial_shape.is_dynamic for port in crossing if port.element_type.is_real())

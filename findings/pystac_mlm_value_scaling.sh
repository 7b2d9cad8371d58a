#!/usr/bin/env bash
# pystac 1.15.2, pystac.extensions.mlm: it names version 1.4.0 of the Machine Learning Model extension as its own, but reads
# and writes an input's value_scaling as one object. In 1.4 it is a list (one entry, or one a band), as stac-model 0.7.0, the
# extension's own library, has it. Two of pystac's resize types are spelt "interpolate-…" where the extension says
# "interpolation-…". So neither library takes the other's input.
# Seen: stac-model's input, read by pystac: AttributeError: 'list' object has no attribute 'get'. pystac's input, read by
# stac-model: a ValidationError that names value_scaling and resize_type.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pystac==1.15.2 stac-model==0.7.0
"$folder/venv/bin/python" - <<'PYTHON'
from pydantic import ValidationError
from pystac.extensions import mlm
from pystac.extensions.raster import DataType
from stac_model.input import InputStructure, ModelInput, ValueScalingZScore

assert mlm.DEFAULT_VERSION == "1.4.0"
axes = ["batch", "channel", "height", "width"]
theirs = ModelInput(
    name="image",
    bands=["red"],
    input=InputStructure(shape=[1, 1, 8, 8], dim_order=axes, data_type="float32"),
    value_scaling=[ValueScalingZScore(mean=1.0, stddev=2.0)],
    resize_type="interpolation-linear",
)
read = mlm.ModelInput(theirs.model_dump(mode="json"))
try:
    print("pystac reads:", read.value_scaling.type)
except AttributeError as error:
    print("pystac reads stac-model's input: AttributeError:", error)
else:
    raise SystemExit("pystac reads a list of scalings now")

written = mlm.ModelInput.create(
    name="image",
    bands=["red"],
    input=mlm.InputStructure.create([1, 1, 8, 8], axes, DataType.FLOAT32),
    value_scaling=mlm.ValueScaling.create(mlm.ValueScalingType.Z_SCORE, mean=1.0, stddev=2.0),
    resize_type=mlm.ResizeType.INTERPOLATION_LINEAR,
)
try:
    ModelInput.model_validate(written.to_dict())
except ValidationError as error:
    named = sorted({str(item["loc"][0]) for item in error.errors()})
    print("stac-model reads pystac's input: ValidationError:", named)
    assert named == ["resize_type", "value_scaling"], named
else:
    raise SystemExit("stac-model reads what pystac writes now")
PYTHON

#!/usr/bin/env bash
# label-studio-sdk 2.1.2: LabelInterface.validate_task fails on every task that has predictions or annotations.
#
# A task with pre-annotations is what Label Studio imports, and each of its predictions is sound by the same class's
# validate_prediction. validate_task calls that method without its argument. Seen:
#     validate_task without predictions: True
#     validate_prediction: True
#     validate_task with predictions: TypeError: LabelInterface.validate_prediction() missing 1 required positional argument: 'prediction'
# So tests/readers/read_labelstudio.py checks predictions one by one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check label-studio-sdk==2.1.2
"$folder/env/bin/python" - <<'PY' | tee "$folder/output"
from label_studio_sdk.label_interface import LabelInterface

interface = LabelInterface(
    '<View><Image name="image" value="$image"/>'
    '<Choices name="kind" toName="image"><Choice value="cat"/></Choices></View>'
)
choice = {"type": "choices", "from_name": "kind", "to_name": "image", "value": {"choices": ["cat"]}}
prediction = {"model_version": "one", "result": [choice]}
task = {"data": {"image": "https://example.org/a.jpg"}}
print("validate_task without predictions:", interface.validate_task(task))
print("validate_prediction:", interface.validate_prediction(prediction))
try:
    print("validate_task with predictions:", interface.validate_task(task | {"predictions": [prediction]}))
except TypeError as error:
    print("validate_task with predictions: TypeError:", error)
PY
grep -q "^validate_prediction: True" "$folder/output"
grep -q "TypeError: LabelInterface.validate_prediction() missing 1 required" "$folder/output"

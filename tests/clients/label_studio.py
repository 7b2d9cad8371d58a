"""Label Studio's SDK reads the masks that its ML backend protocol gets. URL GRPC IMAGE EXPECTED."""

import base64
import sys
from pathlib import Path

import numpy as np
import requests
from label_studio_sdk.converter.brush import decode_rle

url, _, image, expected_file = sys.argv[1:]
expected = np.load(expected_file)
names = requests.get(f"{url}/v1/models", timeout=60).json()["data"]["demo"]["classes"]
labels = "".join(f'<Label value="{name}"/>' for name in names)
config = (
    f'<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i">{labels}</BrushLabels></View>'
)
address = "data:image/png;base64," + base64.b64encode(Path(image).read_bytes()).decode()
task = {"id": 1, "data": {"image": address}}
assert requests.get(f"{url}/health", timeout=60).json()["status"] == "UP"
version = requests.post(f"{url}/setup", json={"project": "1.1", "schema": config}, timeout=60).json()[
    "model_version"
]
body = {"tasks": [task], "label_config": config, "project": "1.1", "params": {"context": None}}
reply = requests.post(f"{url}/predict", json=body, timeout=60).json()
found = np.full(expected.shape, 255)
for row in reply["results"][0]["result"]:
    mask = decode_rle(row["value"]["rle"]).reshape(*expected.shape, 4)[..., 3] > 0
    found[mask] = names.index(row["value"]["brushlabels"][0])
assert reply["model_version"] == version
assert np.array_equal(found, expected)
print("label-studio-sdk ok")

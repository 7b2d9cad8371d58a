#!/usr/bin/env bash
# kserve 0.21.0: an encoded image travels as a BYTES tensor in the protocol's binary form, and its client writes it so. But
# what its model server reads requests with, InferRequest.from_bytes, turns each element into UTF-8 text: a JPEG is refused,
# with the advice to pass binary_data=True, which it was. Replies with such a tensor end alike in the client,
# InferResponse.from_bytes. Text passes, and so do these bytes over gRPC, and UINT8 tensors.
# Seen: "sky": read. The first bytes of a JPEG: InferenceError: Failed to encode "b'\xff\xd8\xff'" using UTF-8. Please use
# binary_data=True, if you want to pass a byte array. Over gRPC: the same bytes come back.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check kserve==0.21.0
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import numpy as np
from kserve import InferInput, InferRequest
from kserve.errors import InferenceError


def request(value: bytes) -> InferRequest:
    tensor = InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([value], dtype=np.object_), binary_data=True)
    return InferRequest("demo", [tensor])


def read_rest(value: bytes) -> bytes:
    body, json_length = request(value).to_rest()
    assert isinstance(body, bytes) and body.endswith(value), "the client wrote it in another form"
    item = InferRequest.from_bytes(body, json_length, "demo").inputs[0].as_numpy()[0]
    return item.encode() if isinstance(item, str) else item


image = b"\xff\xd8\xff"
assert read_rest(b"sky") == b"sky"
print("text over REST: read")
assert InferRequest.from_grpc(request(image).to_grpc()).inputs[0].as_numpy()[0] == image
print("a JPEG's bytes over gRPC: read")
try:
    read_rest(image)
except InferenceError as error:
    print("a JPEG's bytes over REST: InferenceError:", error)
    assert "using UTF-8" in str(error), error
else:
    raise SystemExit("kserve reads binary BYTES tensors now")
PYTHON

"""Triton's HTTP and gRPC clients: the labels that Python gives, by every way of sending. URL GRPC IMAGE EXPECTED."""

import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc
import tritonclient.http
from PIL import Image
from tritonclient.utils import InferenceServerException

url, grpc_address, image, expected_file = sys.argv[1:]
expected = np.load(expected_file)
data = np.array([Path(image).read_bytes()], dtype=np.object_)
pixels = np.array(Image.open(image).convert("RGB"))
names = np.array(["grass", "sky, night sky"], dtype=np.object_)

for library, address in ((tritonclient.http, url.removeprefix("http://")), (tritonclient.grpc, grpc_address)):
    client = library.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("demo")
    assert client.get_server_metadata()
    assert client.get_model_metadata("demo")
    file = library.InferInput("image", [1], "BYTES")
    file.set_data_from_numpy(data)
    raw = library.InferInput("image", pixels.shape, "UINT8")
    raw.set_data_from_numpy(pixels)
    classes = library.InferInput("classes", [2], "BYTES")
    classes.set_data_from_numpy(names)
    for given in (file, raw):
        assert np.array_equal(client.infer("demo", [given]).as_numpy("labels"), expected)
    wanted = [
        library.InferRequestedOutput(name) for name in ("features", "labels", "confidence", "class_names")
    ]
    reply = client.infer(
        "demo", [file, classes], outputs=wanted, request_id="7", parameters={"refine": "none"}
    )
    assert reply.as_numpy("labels").max() <= 1
    assert reply.as_numpy("confidence").shape == expected.shape
    assert reply.as_numpy("features").ndim == 3
    assert reply.as_numpy("class_names").tolist() == [b"grass", b"sky"]
    for model, inputs in (("other", [file]), ("demo", [classes])):
        try:
            client.infer(model, inputs)
        except InferenceServerException as error:
            message = error.message()
        else:
            message = "no error"
        assert "no model" in message or "`image` is missing" in message, message
    print(library.__name__, "ok")

client = tritonclient.http.InferenceServerClient(url.removeprefix("http://"))
as_json = tritonclient.http.InferInput("image", pixels.shape, "UINT8")
as_json.set_data_from_numpy(pixels, binary_data=False)
output = [tritonclient.http.InferRequestedOutput("labels", binary_data=False)]
for options in ({}, {"request_compression_algorithm": "gzip"}, {"request_compression_algorithm": "deflate"}):
    reply = client.infer("demo", [as_json], outputs=output, **options)
    assert np.array_equal(reply.as_numpy("labels"), expected)
print("JSON, gzip and deflate ok")

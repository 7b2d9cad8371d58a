"""KServe's inference clients for REST and gRPC. URL GRPC IMAGE EXPECTED."""

import asyncio
import sys
from pathlib import Path

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

url, grpc_address, image, expected_file = sys.argv[1:]
expected = np.load(expected_file)


def request() -> InferRequest:
    given = InferInput("image", [1], "BYTES")
    given.set_data_from_numpy(np.array([Path(image).read_bytes()], dtype=np.object_), binary_data=True)
    return InferRequest(model_name="demo", infer_inputs=[given])


async def main() -> None:
    rest = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await rest.is_server_ready(url)
    assert await rest.is_model_ready(url, "demo")
    for reply in (
        await rest.infer(url, request(), model_name="demo", headers={}, timeout=60),
        await InferenceGRPCClient(grpc_address).infer(request()),
    ):
        outputs = {output.name: output for output in reply.outputs}
        assert np.array_equal(outputs["labels"].as_numpy(), expected)


asyncio.run(main())
print("kserve REST and gRPC ok")

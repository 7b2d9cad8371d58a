"""The endpoint of naive.py under LitServe (pip install litserve): its worker process, one request at a time.

python benchmarks/serving/naive_litserve.py BUNDLE PORT
"""

import sys
from typing import Any

import litserve
from fastapi import Response
from naive import png_of

from scclip_rt import Segmenter


class Api(litserve.LitAPI):  # type: ignore[misc]
    """LitServe's hooks."""

    bundle = "demo"

    def setup(self, device: str) -> None:  # noqa: ARG002 (LitServe's signature)
        """In the worker."""
        self.segment = Segmenter(self.bundle)

    def decode_request(self, request: Any) -> bytes:
        """The form's file: LitServe takes bytes in forms only."""
        data: bytes = request["image"].file.read()
        return data

    def predict(self, data: bytes) -> bytes:
        """The work."""
        return png_of(self.segment, data)

    def encode_response(self, png: bytes) -> Response:
        """The answer."""
        return Response(png, media_type="image/png")


def main() -> None:
    """Serve until a signal."""
    api: Any = Api(api_path="/v1/segment")
    api.bundle = sys.argv[1]
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()

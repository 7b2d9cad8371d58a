"""The same `Segmenter` in LitServe. It takes and gives JSON, as its examples do: the files are base64 texts in it.

python -m benchmarks.serving.lit BUNDLE PORT [CLASSES]
"""

import base64
import sys

import litserve

from benchmarks.serving.naive import png_of
from scclip_rt import Segmenter


class Api(litserve.LitAPI):
    """One image a request. At module level, since LitServe sends it to a process of its own."""

    def __init__(self, bundle: str, classes: str | None = None) -> None:
        super().__init__()
        self.bundle, self.classes = bundle, classes

    def setup(self, device: str) -> None:  # noqa: ARG002
        """In that process."""
        self.segment = Segmenter(self.bundle, classes=self.classes)

    def decode_request(self, request: dict[str, str]) -> bytes:
        """The file in a request."""
        return base64.b64decode(request["image"])

    def predict(self, image: bytes) -> bytes:
        """Its label PNG."""
        return png_of(self.segment, image)

    def encode_response(self, output: bytes) -> dict[str, str]:
        """The answer."""
        return {"labels": base64.b64encode(output).decode("ascii")}


if __name__ == "__main__":
    server = litserve.LitServer(Api(sys.argv[1], *sys.argv[3:]), accelerator="cpu")
    server.run(port=int(sys.argv[2]), host="127.0.0.1", generate_client_file=False, log_level="warning")

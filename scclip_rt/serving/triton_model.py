"""The Python-backend model of a Triton repository (`scclip-export --triton-repository`): image bytes to labels.

Triton runs it inside its server; the encoder and the text encoder are models of the same repository, called from here,
so that Triton batches, places and counts them. Everything else is the runtime's own code. With the parameter `ENCODER`
set to `local` the bundle's TensorRT engine segments in this process instead, on the device from image to labels.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt import __version__
from scclip_rt.backends import BackendInfo
from scclip_rt.backends.host_encoder import BatchedEncoder, Feeds
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.errors import BackendError, ScclipError
from scclip_rt.segmenter import Segmenter
from scclip_rt.serving.images import open_image
from scclip_rt.serving.vocabularies import Vocabularies
from scclip_rt.vocabulary.file import Vocabulary

ENCODER, TEXT = "scclip_encoder", "scclip_text"
UNLABELLED = 65535
_EMBED_SECONDS = 60.0
_log = logging.getLogger("scclip_rt.serving")


class TritonEncoder(BatchedEncoder):
    """The image encoder as another model of the repository, which gives features alone.

    Args:
        triton: the module `triton_python_backend_utils`.
        bundle: whose encoder it is.
        batch: most windows that it takes.
    """

    def __init__(self, triton: Any, bundle: Bundle, batch: int) -> None:
        spec = bundle.encoders_for("window")[0]
        info: BackendInfo = {
            "backend": "triton",
            "version": __version__,
            "provider": ENCODER,
            "device": "as Triton places it",
            "precision": spec.precision,
            "grid": str(spec.grid),
            "encoder": spec.file,
            "threads": 1,
            "batch": batch,
            "reason": "the model repository",
        }
        super().__init__(bundle, spec, info, batch)
        self._triton = triton

    def infer(self, names: Sequence[str], feeds: Feeds) -> list[NDArray[np.float32]]:
        """See `BatchedEncoder`."""
        features = call(self._triton, ENCODER, {"windows": feeds["windows"]}, "features")
        return [features if name == "features" else features @ feeds["text"].T for name in names]


class TritonText:
    """The text encoder as another model of the repository; a `TextBackend`."""

    def __init__(self, triton: Any) -> None:
        self._triton = triton

    def encode(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """(B, T) int64 to (B, E) float32."""
        return call(self._triton, TEXT, {"tokens": tokens}, "embeddings")


def call(triton: Any, model: str, inputs: Feeds, output: str) -> NDArray[np.float32]:
    """Run another model of the repository.

    Raises:
        BackendError: Triton says that it failed.
    """
    request = triton.InferenceRequest(
        model_name=model,
        requested_output_names=[output],
        inputs=[triton.Tensor(name, np.ascontiguousarray(array)) for name, array in inputs.items()],
    )
    response = request.exec()
    if response.has_error():
        raise BackendError(f"{model}: {response.error().message()}")
    values: NDArray[np.float32] = triton.get_output_tensor_by_name(response, output).as_numpy()
    return values


class TritonPythonModel:
    """What Triton's Python backend looks for in `model.py`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle beside `model.py`."""
        import triton_python_backend_utils as triton

        self._triton = triton
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        folder = Path(args["model_repository"]) / args["model_version"] / "bundle"
        bundle = Bundle.open(folder)
        local = parameters.get("ENCODER") == "local"
        encoder = None if local else TritonEncoder(triton, bundle, int(parameters["MAX_BATCH"]))
        self._max_pixels = int(parameters["MAX_PIXELS"])
        device = f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else "cpu"
        self._segmenter = Segmenter(
            bundle,
            encoder=encoder,
            backend="tensorrt" if local else "auto",
            device=device if local else "auto",
            max_pixels=self._max_pixels,
        )
        has_own = bool(bundle.manifest.vocabularies)
        self._vocabularies = Vocabularies(
            bundle,
            templates=None,
            ready={},
            default=self._segmenter.vocabulary if has_own else None,
            keep=64,
            max_names=int(parameters["MAX_CLASSES"]),
            threads=None,
            shared=None,
            text_precision=parameters.get("TEXT_PRECISION", "fp32") if local else "fp32",
            text=None if local else TritonText(triton),
            text_sha256=parameters.get("TEXT_SHA256"),
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request; one that fails, fails alone."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        triton = self._triton
        try:
            vocabulary = self._vocabulary(request)
            data = bytes(triton.get_input_tensor_by_name(request, "IMAGE").as_numpy().ravel()[0])
            segmenter = self._segmenter.with_classes(vocabulary=vocabulary)
            result = segmenter(open_image(data, max_pixels=self._max_pixels))
            # One type for every request, since the configuration names it; so unlabelled has one value, too.
            labels = result.labels.astype(np.uint16)
            labels[result.labels == result.unlabelled] = UNLABELLED
            outputs = [
                triton.Tensor("LABELS", labels),
                triton.Tensor(
                    "CLASS_NAMES", np.array([name.encode() for name in result.classes], dtype=np.object_)
                ),
            ]
            return triton.InferenceResponse(output_tensors=outputs)
        except ScclipError as error:
            return triton.InferenceResponse(output_tensors=[], error=triton.TritonError(str(error)))
        except Exception as error:
            _log.exception("a request failed")
            return triton.InferenceResponse(
                output_tensors=[], error=triton.TritonError(f"internal error: {type(error).__name__}")
            )

    def _vocabulary(self, request: Any) -> Vocabulary:
        tensor = self._triton.get_input_tensor_by_name(request, "CLASSES")
        if tensor is None:
            return self._vocabularies.find(None)
        names = [value.decode() for value in tensor.as_numpy().ravel()]
        return self._vocabularies.embed(names, None, deadline=time.monotonic() + _EMBED_SECONDS)[1]

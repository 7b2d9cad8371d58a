"""TensorRT and TensorRT-RTX engines for a bundle: built from its ONNX files, stored beside them with a sidecar each.

Neither torch nor onnx is needed: an existing bundle and the library are enough.
"""

from scclip_export.engines.add import EngineReport, add_engines, check_requests
from scclip_export.engines.kernels import add_kernels, check_kernels, wants_kernels
from scclip_export.engines.request import EngineRequest

__all__ = [
    "EngineReport",
    "EngineRequest",
    "add_engines",
    "add_kernels",
    "check_kernels",
    "check_requests",
    "wants_kernels",
]

"""TensorRT-RTX: as `scclip_rt.backends.tensorrt`, with engines that need no GPU to be built."""

from scclip_rt.backends.base import EncoderRequest
from scclip_rt.backends.cuda.encoder import DeviceEncoder
from scclip_rt.backends.tensorrt import open_engine
from scclip_rt.bundle.bundle import Bundle


def open_encoder(bundle: Bundle, request: EncoderRequest) -> DeviceEncoder:
    """Load the bundle's TensorRT-RTX engine for this GPU; see `BackendModule`."""
    return open_engine("tensorrt-rtx", bundle, request)

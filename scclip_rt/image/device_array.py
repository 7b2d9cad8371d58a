"""Whether an image lies in CUDA memory, told without touching CUDA."""

from typing import Any

# DLPack's device types: CUDA memory and CUDA managed memory.
_DLPACK_CUDA = (2, 13)


def is_device_array(value: object) -> bool:
    """Whether an object says that its elements are in CUDA memory."""
    if hasattr(value, "__cuda_array_interface__"):
        return True
    try:
        device = getattr(value, "__dlpack_device__", None)
        return device is not None and int(device()[0]) in _DLPACK_CUDA
    except Exception:  # whatever this object is, it is no array of ours
        return False


def array_shape(value: Any) -> tuple[int, ...]:
    """The shape that somebody's device array states, before it is looked at any further."""
    interface = getattr(value, "__cuda_array_interface__", None)
    shape = interface["shape"] if interface is not None else value.shape
    return tuple(int(length) for length in shape)

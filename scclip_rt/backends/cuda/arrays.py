"""Arrays of others that live on the GPU (PyCUDA, CuPy, torch, …), seen without a copy."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from scclip_rt.backends.cuda.stream import Event, Stream
from scclip_rt.errors import BackendError, ImageError

# CUDA's number for the default stream that other streams of the process wait for (CU_STREAM_LEGACY).
_DEFAULT_STREAM = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceArray:
    """Somebody's array in device memory.

    Attributes:
        pointer: its first element.
        shape: lengths.
        strides: bytes from one element to the next along each axis.
        dtype: of its elements.
        owner: kept so that the memory stays.
        ready: what its content waits for, where the stream that sees it is not the one that will read it.
    """

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: "np.dtype[Any]"
    owner: object
    ready: Event | None = None


def device_array(value: Any, stream: Stream) -> DeviceArray:
    """See an array of device memory, in order after what its owner's stream has been given.

    Args:
        value: has `__dlpack__` or `__cuda_array_interface__`.
        stream: will wait for the work that produces the array.

    Raises:
        BackendError: another GPU's memory, or a protocol that does not work here.
    """
    if hasattr(value, "__dlpack_device__"):
        # First, because it hands the stream over: torch's other protocol says nothing of its stream.
        return _from_dlpack(value, stream)
    return _from_interface(value, stream)


def image_array(value: Any, stream: Stream) -> DeviceArray:
    """As `device_array`, for an image: (H, W, 3) uint8 whose rows may be apart, whose pixels may not.

    Raises:
        ImageError: another dtype, shape or layout.
    """
    array = device_array(value, stream)
    height_width_colour = len(array.shape) == 3 and array.shape[2] == 3 and min(array.shape) > 0
    if array.dtype != np.uint8 or not height_width_colour or array.strides[1:] != (3, 1):
        raise ImageError(
            "an image on the GPU must be uint8 (height, width, 3), the three bytes of a pixel and the pixels of "
            f"a row side by side; got {array.dtype} {array.shape}, strides {array.strides}"
        )
    if array.strides[0] < 3 * array.shape[1]:
        raise ImageError(f"the rows of this image on the GPU overlap: strides {array.strides}")
    return array


def _from_dlpack(value: Any, stream: Stream) -> DeviceArray:
    device = int(value.__dlpack_device__()[1])
    if device != stream.device.number:
        raise BackendError(f"this array is on cuda:{device}, the segmenter on {stream.device}; copy it over")
    try:
        try:
            from cuda.core.utils import StridedMemoryView
        except ImportError:  # cuda.core before 1.0
            from cuda.core.experimental.utils import StridedMemoryView
    except ImportError as error:
        if hasattr(value, "__cuda_array_interface__"):
            return _from_interface(value, stream)
        raise BackendError("arrays come by DLPack through cuda-core: pip install cuda-core") from error
    # By its constructor in cuda.core before 0.5, which newer ones deprecate.
    make = getattr(StridedMemoryView, "from_any_interface", StridedMemoryView)
    try:
        view = make(value, stream_ptr=stream.address)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise BackendError(
            f"this {type(value).__name__} can't be shared: {' '.join(str(error).split())}"
        ) from error
    dtype, shape = np.dtype(view.dtype), tuple(int(length) for length in view.shape)
    counted = view.strides  # in elements; None for C order
    strides = _contiguous(shape, dtype.itemsize)
    if counted is not None:
        strides = tuple(int(step) * dtype.itemsize for step in counted)
    return DeviceArray(pointer=int(view.ptr), shape=shape, strides=strides, dtype=dtype, owner=(value, view))


def _from_interface(value: Any, stream: Stream) -> DeviceArray:
    """By the CUDA array interface, version 2 or 3."""
    interface = value.__cuda_array_interface__
    dtype, shape = np.dtype(interface["typestr"]), tuple(int(length) for length in interface["shape"])
    strides = interface.get("strides")
    pointer = int(interface["data"][0])
    _check_place(pointer, stream)
    # None should mean that nobody has to wait. PyCUDA and Numba say it of work on the default stream too, which may
    # still run; 1 is that stream, 2 the thread's: CUDA's own numbers for them.
    producer = interface.get("stream")
    stream.wait_for(_DEFAULT_STREAM if producer is None else int(producer))
    return DeviceArray(
        pointer=pointer,
        shape=shape,
        strides=_contiguous(shape, dtype.itemsize) if strides is None else tuple(int(s) for s in strides),
        dtype=dtype,
        owner=value,
    )


def _check_place(pointer: int, stream: Stream) -> None:
    """Refuse memory of another GPU: a kernel that reads it would end the process's use of CUDA."""
    driver = stream.device.driver
    which = driver.bindings.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    number = int(driver("cuPointerGetAttribute", which, pointer))
    if number != stream.device.number:
        raise BackendError(f"this array is on cuda:{number}, the segmenter on {stream.device}; copy it over")
    which = driver.bindings.CUpointer_attribute.CU_POINTER_ATTRIBUTE_CONTEXT
    # Memory of a pool belongs to no context: 0, or an error.
    status, context = driver.bindings.cuPointerGetAttribute(which, pointer)
    if not int(status) and context is not None and int(context) not in (0, int(stream.device.context)):
        raise BackendError(
            "this array was allocated in another CUDA context than the primary one, which the segmenter uses; with "
            "PyCUDA import pycuda.autoprimaryctx instead of pycuda.autoinit"
        )


def _contiguous(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides, step = [], itemsize
    for length in reversed(shape):
        strides.append(step)
        step *= length
    return tuple(reversed(strides))

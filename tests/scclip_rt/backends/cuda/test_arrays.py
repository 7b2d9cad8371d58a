"""Arrays of others: both protocols, their streams, and what is refused."""

import ctypes
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from scclip_rt.backends.cuda import Device, Stream, device_array, image_array
from scclip_rt.errors import BackendError, ImageError
from scclip_rt.image.device_array import is_device_array
from stand_ins.cuda import LEGACY, FakeDriver, ForeignArray

IMAGE = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)


class _Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("id", ctypes.c_int32))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (
        ("tensor", _Tensor),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
    )


class DlpackArray:
    """What torch's and CuPy's arrays look like: a capsule of the DLPack structure (version 0, still common)."""

    def __init__(self, array: np.ndarray, *, gpu: int = 0, strides: tuple[int, ...] | None = None) -> None:
        self.array, self.gpu, self.streams, self.deleted = array, gpu, [], 0
        self._shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        self._strides = None if strides is None else (ctypes.c_int64 * array.ndim)(*strides)
        tensor = _Tensor(
            array.ctypes.data, _Device(2, gpu), array.ndim, 1, 8, 1, self._shape, self._strides, 0
        )
        self._managed = _Managed(tensor, None, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._delete))

    def _delete(self, _: Any) -> None:
        self.deleted += 1

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, self.gpu)

    def __dlpack__(self, *, stream: Any = None, **_: Any) -> Any:
        self.streams.append(stream)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(self._managed), b"dltensor", None)


def test_who_is_on_the_gpu(fake: FakeDriver) -> None:
    assert is_device_array(ForeignArray(fake, IMAGE))
    assert is_device_array(DlpackArray(IMAGE))
    assert not is_device_array(IMAGE)
    assert not is_device_array("photo.jpg")


def test_the_array_interface_is_seen_in_place(device: Device, fake: FakeDriver) -> None:
    foreign = ForeignArray(fake, IMAGE)
    array = image_array(foreign, Stream(device))
    assert (array.pointer, array.shape, array.strides) == (foreign.pointer, (4, 5, 3), (15, 3, 1))
    assert fake.count("cuMemcpyHtoDAsync") == fake.count("cuMemAlloc") == 0


def test_the_array_interface_is_waited_for(device: Device, fake: FakeDriver) -> None:
    producer, stream = Stream(device), Stream(device)
    done: list[int] = []
    fake.queue(producer.address, lambda: done.append(1))
    device_array(ForeignArray(fake, IMAGE, stream=producer.address), stream)
    stream.synchronize()
    assert done == [1]


def test_work_on_the_default_stream_is_waited_for(device: Device, fake: FakeDriver) -> None:
    """PyCUDA and Numba name no stream for it, and our streams do not wait for that one by themselves."""
    stream = Stream(device)
    done: list[int] = []
    fake.queue(LEGACY, lambda: done.append(1))
    device_array(ForeignArray(fake, IMAGE, stream=None), stream)
    stream.synchronize()
    assert done == [1]


@pytest.mark.parametrize("context", [0xBAD, 0xC0, 0])
def test_memory_of_another_context_is_refused(device: Device, fake: FakeDriver, context: int) -> None:
    """Such as PyCUDA's autoinit makes; memory of a pool belongs to none."""
    foreign = ForeignArray(fake, IMAGE)
    fake.contexts[foreign.pointer] = context
    if context != 0xBAD:
        device_array(foreign, Stream(device))
        return
    with pytest.raises(BackendError, match=r"another CUDA context.*autoprimaryctx"):
        device_array(foreign, Stream(device))


def test_dlpack_is_seen_in_place_and_given_our_stream(device: Device) -> None:
    foreign, stream = DlpackArray(IMAGE), Stream(device)
    array = image_array(foreign, stream)
    assert (array.pointer, array.shape, array.strides) == (IMAGE.ctypes.data, (4, 5, 3), (15, 3, 1))
    assert foreign.streams == [stream.address]
    del array
    assert foreign.deleted == 1


def test_dlpack_through_the_cuda_core_of_2025(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions 0.3 and 0.4 have the constructor alone, in another module."""
    from cuda.core.utils import StridedMemoryView

    class Older:
        def __new__(cls, obj: Any = None, stream_ptr: int | None = None) -> Any:
            return StridedMemoryView.from_dlpack(obj, stream_ptr)

    monkeypatch.setitem(sys.modules, "cuda.core.utils", None)
    older = ModuleType("cuda.core.experimental.utils")
    older.StridedMemoryView = Older  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda.core.experimental", ModuleType("cuda.core.experimental"))
    monkeypatch.setitem(sys.modules, "cuda.core.experimental.utils", older)
    foreign, stream = DlpackArray(IMAGE), Stream(device)
    assert image_array(foreign, stream).pointer == IMAGE.ctypes.data
    assert foreign.streams == [stream.address]


def test_rows_may_be_apart(device: Device) -> None:
    padded = np.zeros((4, 8, 3), np.uint8)
    array = image_array(DlpackArray(padded[:, :5], strides=(24, 3, 1)), Stream(device))
    assert array.strides == (24, 3, 1)


@pytest.mark.parametrize(
    ("array", "strides"),
    [
        (IMAGE.transpose(2, 0, 1), (1, 15, 3)),
        (IMAGE[:, :, :2], (15, 3, 1)),
        (IMAGE, (15, 6, 1)),
        (IMAGE, (6, 3, 1)),
    ],
)
def test_other_layouts_are_refused(device: Device, array: np.ndarray, strides: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="on the GPU"):
        image_array(DlpackArray(array, strides=strides), Stream(device))


def test_other_dtypes_are_refused(device: Device, fake: FakeDriver) -> None:
    with pytest.raises(ImageError, match="must be uint8"):
        image_array(ForeignArray(fake, IMAGE.astype(np.float32)), Stream(device))


def test_another_gpus_memory_is_refused(device: Device) -> None:
    with pytest.raises(BackendError, match=r"on cuda:1, the segmenter on cuda:0"):
        device_array(DlpackArray(IMAGE, gpu=1), Stream(device))


def test_memory_the_driver_knows_elsewhere_is_refused(device: Device, fake: FakeDriver) -> None:
    foreign = ForeignArray(fake, IMAGE)
    del fake.device_memory[foreign.pointer]
    with pytest.raises(BackendError, match="copy it over"):
        device_array(foreign, Stream(device))

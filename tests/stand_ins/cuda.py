"""A CUDA driver on host memory, as strict as the real one where the runtime could go wrong.

It stands in for `cuda.bindings.driver` (whose enumerations and structures it uses). Work queued on a stream runs when
somebody waits for it, not before, so that a missing wait shows; also the last part of a copy from memory that is not
pinned, which the real driver may return before; every address must lie in a live allocation; a thread needs a current
context; asynchronous copies need pinned memory; what capture forbids fails. It can't tell how fast anything is, nor
what a GPU computes: kernels are Python functions.
"""

# ruff: noqa: N802, ARG002 (the names and arguments are CUDA's)
import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cuda.bindings import driver as real

OK = real.CUresult.CUDA_SUCCESS
Work = Callable[[], None]
FakeKernel = Callable[["FakeDriver", tuple[int, int, int], tuple[Any, ...]], None]
IMAGE = b"fake cubin "
LEGACY = 1  # CU_STREAM_LEGACY, which 0 stands for too
_ALIGNED = 256  # what cuMemAlloc guarantees


class Fault(Exception):  # noqa: N818 (a status, not an error of the tests)
    """Ends a call with a status."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = getattr(real.CUresult, f"CUDA_ERROR_{status}")


@dataclass(eq=False)
class FakeStream:
    queue: list[Work] = field(default_factory=list)
    capturing: list[Work] | None = None
    thread: int = 0


@dataclass(frozen=True)
class Call:
    name: str
    arguments: tuple[Any, ...]


def _driver_call(function: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
    def call(self: "FakeDriver", *arguments: Any) -> tuple[Any, ...]:
        self.calls.append(Call(function.__name__, arguments))
        planned = self.faults.get(function.__name__)
        try:
            if planned is not None:
                raise Fault(planned)
            result = function(self, *arguments)
        except Fault as fault:
            values = 1 if function.__name__ in _RETURNS_ONE else 0
            return (fault.status, *([None] * values))
        if result is None:
            return (OK,)
        return (OK, *result) if isinstance(result, tuple) else (OK, result)

    call.__name__ = function.__name__
    return call


_RETURNS_ONE = {"cuMemAlloc", "cuMemHostAlloc", "cuStreamCreate", "cuGraphInstantiate", "cuStreamEndCapture"}


class FakeDriver:
    """One GPU or several; `faults` maps a function's name to the status it is to fail with."""

    def __init__(self, *, capability: tuple[int, int] = (9, 0), gpus: int = 1, memory: int = 1 << 30) -> None:
        self.capability, self.gpus, self.memory = capability, gpus, memory
        self.faults: dict[str, str] = {}
        self.kernels: dict[str, FakeKernel] = {}
        self.calls: list[Call] = []
        self.device_memory: dict[int, Any] = {}
        self.pinned_memory: dict[int, Any] = {}
        self.objects: set[Any] = set()  # streams, graphs, events that nobody destroyed
        self.contexts: dict[int, int] = {}  # of memory that another context than the primary one allocated
        self._streams: dict[int, FakeStream] = {0: FakeStream()}
        self._streams[LEGACY] = self._streams[0]
        self._current = threading.local()
        self._lock = threading.RLock()
        self._handles = iter(range(0x1000, 1 << 40, 0x10))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("cu") and not name.startswith("cuda"):
            raise AttributeError(f"the fake driver has no {name}")
        return getattr(real, name)  # enumerations, structures, handle types

    # What tests look at

    def count(self, name: str) -> int:
        return sum(call.name == name for call in self.calls)

    @property
    def used(self) -> int:
        return sum(len(block) for block in list(self.device_memory.values()))  # other threads allocate

    def view(self, pointer: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Device memory as an array, for fake kernels: the address must be inside one allocation."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._check(self.device_memory, pointer, size)
        return np.frombuffer((ctypes.c_uint8 * size).from_address(int(pointer)), dtype).reshape(shape)

    def device_block(self, size: int) -> int:
        """New device memory, at an address that the real driver might give."""
        whole = (ctypes.c_uint8 * (size + _ALIGNED))()
        block = (ctypes.c_uint8 * size).from_buffer(whole, -ctypes.addressof(whole) % _ALIGNED)
        ctypes.memset(block, 0xFF, size)  # NaN as float32: what nobody wrote must not look like a result
        self.device_memory[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def queue(self, stream: int, work: Work) -> None:
        """What a library (a fake TensorRT) queues on a stream given by its address."""
        self._queue(stream, work)

    # Device and context

    @_driver_call
    def cuInit(self, flags: int) -> None:
        return None

    @_driver_call
    def cuDeviceGetCount(self) -> int:
        return self.gpus

    @_driver_call
    def cuDeviceGet(self, number: int) -> int:
        return number

    @_driver_call
    def cuDeviceGetName(self, length: int, device: int) -> bytes:
        return f"Fake {device}".encode().ljust(length, b"\0")

    @_driver_call
    def cuDeviceGetAttribute(self, attribute: Any, device: int) -> int:
        major = real.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        return self.capability[0] if attribute == major else self.capability[1]

    @_driver_call
    def cuDevicePrimaryCtxRetain(self, device: int) -> int:
        return 0xC0 + device

    @_driver_call
    def cuCtxSetCurrent(self, context: int) -> None:
        self._current.context = int(context)

    @_driver_call
    def cuCtxGetCurrent(self) -> Any:
        return real.CUcontext(getattr(self._current, "context", None) or 0)

    @_driver_call
    def cuMemGetInfo(self) -> tuple[int, int]:
        self._need_context()
        return self.memory - self.used, self.memory

    @_driver_call
    def cuPointerGetAttribute(self, attribute: Any, pointer: int) -> Any:
        base = self._find(self.device_memory, int(pointer))
        if attribute == real.CUpointer_attribute.CU_POINTER_ATTRIBUTE_CONTEXT:
            return real.CUcontext(self.contexts.get(base or 0, 0xC0))
        return 0 if base is not None else 1

    # Memory

    @_driver_call
    def cuMemAlloc(self, size: int) -> int:
        self._need_context()
        self._refuse_while_capturing()
        if self.used + size > self.memory:
            raise Fault("OUT_OF_MEMORY")
        return self.device_block(size)

    @_driver_call
    def cuMemFree(self, pointer: int) -> None:
        self._refuse_while_capturing()
        self._run_all()
        if self.device_memory.pop(int(pointer), None) is None:
            raise Fault("INVALID_VALUE")

    @_driver_call
    def cuMemHostAlloc(self, size: int, flags: int) -> int:
        self._need_context()
        self._refuse_while_capturing()
        block = (ctypes.c_uint8 * size)()
        self.pinned_memory[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    @_driver_call
    def cuMemFreeHost(self, address: int) -> None:
        self._refuse_while_capturing()
        self._run_all()
        del self.pinned_memory[int(address)]

    @_driver_call
    def cuMemcpyHtoD(self, target: int, source: int, size: int) -> None:
        self._need_context()
        self._refuse_while_capturing()
        self._check(self.device_memory, target, size)
        staged = ctypes.string_at(int(source), size)
        # CUDA, "API synchronization behavior": back when the pageable memory has been read, not when it has arrived.
        self._queue(LEGACY, lambda: self._arrive(target, staged))

    @_driver_call
    def cuMemcpyHtoDAsync(self, target: int, source: int, size: int, stream: int) -> None:
        self._copy(target, self.device_memory, source, self.pinned_memory, size, stream)

    @_driver_call
    def cuMemcpyDtoHAsync(self, target: int, source: int, size: int, stream: int) -> None:
        self._copy(target, self.pinned_memory, source, self.device_memory, size, stream)

    @_driver_call
    def cuMemcpyDtoDAsync(self, target: int, source: int, size: int, stream: int) -> None:
        self._copy(target, self.device_memory, source, self.device_memory, size, stream)

    @_driver_call
    def cuMemcpy2DAsync(self, copy: Any, stream: int) -> None:
        source, target = int(copy.srcDevice), int(copy.dstDevice)
        pitches, width, rows = (copy.srcPitch, copy.dstPitch), copy.WidthInBytes, copy.Height
        if min(pitches) < width:
            raise Fault("INVALID_VALUE")

        def work() -> None:
            for row in range(rows):
                self._move(target + row * pitches[1], source + row * pitches[0], width)

        self._queue(stream, work)

    @_driver_call
    def cuMemsetD8Async(self, pointer: int, value: int, size: int, stream: int) -> None:
        def work() -> None:
            self._check(self.device_memory, pointer, size)
            ctypes.memset(int(pointer), value, size)

        self._queue(stream, work)

    # Streams, events, graphs

    @_driver_call
    def cuStreamCreate(self, flags: Any) -> Any:
        self._need_context()
        handle = self._new("stream")
        self._streams[handle] = FakeStream()
        return real.CUstream(handle)

    @_driver_call
    def cuStreamDestroy(self, stream: Any) -> None:
        self._run(self._streams.pop(int(stream)))
        self.objects.discard(("stream", int(stream)))

    @_driver_call
    def cuStreamSynchronize(self, stream: Any) -> None:
        self._need_context()
        found = self._streams[int(stream)]
        if found.capturing is not None:
            raise Fault("STREAM_CAPTURE_UNSUPPORTED")
        self._run(found)

    @_driver_call
    def cuStreamWaitEvent(self, stream: Any, event: int, flags: int) -> None:
        producer = self._streams.get(getattr(self, "_recorded", {}).get(event, 0))
        if producer is not None:
            self._queue(stream, lambda: self._run(producer))

    @_driver_call
    def cuEventCreate(self, flags: Any) -> int:
        return self._new("event")

    @_driver_call
    def cuEventRecord(self, event: int, stream: Any) -> None:
        self.__dict__.setdefault("_recorded", {})[event] = int(stream)

    @_driver_call
    def cuEventSynchronize(self, event: int) -> None:
        self._run_all()

    @_driver_call
    def cuEventDestroy(self, event: int) -> None:
        self.objects.discard(("event", event))

    @_driver_call
    def cuStreamBeginCapture(self, stream: Any, mode: Any) -> None:
        found = self._streams[int(stream)]
        if found.capturing is not None:
            raise Fault("ILLEGAL_STATE")
        found.capturing, found.thread = [], threading.get_ident()

    @_driver_call
    def cuStreamEndCapture(self, stream: Any) -> int:
        found = self._streams[int(stream)]
        work, found.capturing = found.capturing, None
        if work is None:
            raise Fault("ILLEGAL_STATE")
        handle = self._new("graph")
        self.__dict__.setdefault("_graphs", {})[handle] = work
        return handle

    @_driver_call
    def cuGraphInstantiate(self, graph: int, flags: int) -> int:
        handle = self._new("exec")
        self._graphs[handle] = self._graphs[graph]
        return handle

    @_driver_call
    def cuGraphDestroy(self, graph: int) -> None:
        self.objects.discard(("graph", graph))

    @_driver_call
    def cuGraphExecDestroy(self, graph: int) -> None:
        self._graphs.pop(graph)
        self.objects.discard(("exec", graph))

    @_driver_call
    def cuGraphLaunch(self, graph: int, stream: Any) -> None:
        for work in self._graphs[graph]:
            self._queue(stream, work)

    # Kernels

    @_driver_call
    def cuModuleLoadData(self, image: bytes) -> int:
        if not image.startswith(IMAGE):
            raise Fault("INVALID_IMAGE")
        return self._new("module")

    @_driver_call
    def cuModuleUnload(self, module: int) -> None:
        self.objects.remove(("module", module))

    @_driver_call
    def cuModuleGetFunction(self, module: int, name: bytes) -> str:
        if name.decode() not in self.kernels:
            raise Fault("NOT_FOUND")
        return name.decode()

    @_driver_call
    def cuFuncSetAttribute(self, function: str, attribute: Any, value: int) -> None:
        if value > 227 << 10:
            raise Fault("INVALID_VALUE")

    @_driver_call
    def cuLaunchKernel(self, function: str, *rest: Any) -> None:
        gx, gy, gz, _, _, _, _, stream, (values, types), _ = rest
        if min(gx, gy, gz) < 1 or max(gy, gz) > 65535 or len(values) != len(types):
            raise Fault("INVALID_VALUE")
        packed = tuple(kind(value).value for kind, value in zip(types, values, strict=True))
        self._queue(stream, lambda: self.kernels[function](self, (gx, gy, gz), packed))

    def cuGetErrorString(self, status: Any) -> tuple[Any, bytes]:
        return OK, f"words about {status.name}".encode()

    # Inside

    def _new(self, kind: str) -> int:
        handle = next(self._handles)
        self.objects.add((kind, handle))
        return handle

    def _need_context(self) -> None:
        if getattr(self._current, "context", None) is None:
            raise Fault("INVALID_CONTEXT")

    def _refuse_while_capturing(self) -> None:
        mine = threading.get_ident()
        if any(s.capturing is not None and s.thread == mine for s in list(self._streams.values())):
            raise Fault("STREAM_CAPTURE_UNSUPPORTED")

    def _queue(self, stream: Any, work: Work) -> None:
        found = self._streams[int(stream)]
        with (
            self._lock
        ):  # the default stream is every thread's: nothing may go into a queue that is being run
            (found.queue if found.capturing is None else found.capturing).append(work)

    def _run(self, stream: FakeStream) -> None:
        with self._lock:
            queue, stream.queue = stream.queue, []
            for work in queue:
                work()

    def _run_all(self) -> None:
        for stream in list(self._streams.values()):
            self._run(stream)

    def _copy(self, target: int, into: Any, source: int, out_of: Any, size: int, stream: Any) -> None:
        self._check(into, target, size)
        self._check(out_of, source, size)

        def work() -> None:
            self._check(into, target, size)
            self._check(out_of, source, size)
            ctypes.memmove(int(target), int(source), size)

        self._queue(stream, work)

    def _arrive(self, target: int, content: bytes) -> None:
        self._check(self.device_memory, target, len(content))
        ctypes.memmove(int(target), content, len(content))

    def _move(self, target: int, source: int, size: int) -> None:
        self._check(self.device_memory, target, size)
        self._check(self.device_memory, source, size)
        ctypes.memmove(target, source, size)

    def _check(self, memory: dict[int, Any], address: int, size: int) -> None:
        base = self._find(memory, int(address))
        if base is None or int(address) + size > base + len(memory[base]):
            raise Fault("ILLEGAL_ADDRESS")

    @staticmethod
    def _find(memory: dict[int, Any], address: int) -> int | None:
        for base, block in list(memory.items()):
            if base <= address < base + len(block):
                return base
        return None


class ForeignArray:
    """What PyCUDA's arrays look like: device memory with `__cuda_array_interface__`."""

    def __init__(self, driver: FakeDriver, array: np.ndarray, *, stream: int | None = None) -> None:
        self.pointer = driver.device_block(array.nbytes)
        ctypes.memmove(self.pointer, np.ascontiguousarray(array).ctypes.data, array.nbytes)
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "version": 3,
            "stream": stream,
        }

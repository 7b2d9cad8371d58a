"""A stream of one's own: copies and launches in order, events around them, and CUDA graphs of them."""

import contextlib
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from scclip_rt.backends.cuda.device import Device
from scclip_rt.backends.cuda.driver import CudaError


class Stream:
    """A CUDA stream that does not wait for the default one."""

    def __init__(self, device: Device) -> None:
        self.device = device
        device.make_current()
        flags = device.driver.bindings.CUstream_flags.CU_STREAM_NON_BLOCKING
        self.handle = device.driver("cuStreamCreate", flags)
        self._close = weakref.finalize(self, device.release, "cuStreamDestroy", self.handle)

    @property
    def address(self) -> int:
        """The handle as a number: what TensorRT, ONNX Runtime and array protocols take."""
        return int(self.handle)

    def upload(self, pointer: int, address: int, size: int) -> None:
        """Copy `size` bytes of pinned host memory to the device, when the stream gets there."""
        self.device.driver("cuMemcpyHtoDAsync", pointer, address, size, self.handle)

    def download(self, address: int, pointer: int, size: int) -> None:
        """Copy `size` bytes of device memory to pinned host memory."""
        self.device.driver("cuMemcpyDtoHAsync", address, pointer, size, self.handle)

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy `size` bytes within the device."""
        self.device.driver("cuMemcpyDtoDAsync", target, source, size, self.handle)

    def copy_rows(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, rows: int
    ) -> None:
        """Copy `rows` rows of `width` bytes, each `*_pitch` bytes after the last, within the device."""
        bindings = self.device.driver.bindings
        copy = bindings.CUDA_MEMCPY2D()
        copy.srcMemoryType = copy.dstMemoryType = bindings.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy.srcDevice, copy.srcPitch = source, source_pitch
        copy.dstDevice, copy.dstPitch = target, target_pitch
        copy.WidthInBytes, copy.Height = width, rows
        try:
            self.device.driver("cuMemcpy2DAsync", copy, self.handle)
        except CudaError as error:
            # CUDA: within a device it "may fail for pitches not computed by cuMemAllocPitch()", and rows of an image
            # have the image's own.
            if error.status != "CUDA_ERROR_INVALID_VALUE":
                raise
            for row in range(rows):
                self.copy(target + row * target_pitch, source + row * source_pitch, width)

    def zero(self, pointer: int, size: int) -> None:
        """Set `size` bytes to 0."""
        self.device.driver("cuMemsetD8Async", pointer, 0, size, self.handle)

    def synchronize(self) -> None:
        """Wait for all that was queued. Errors of kernels that ran before surface here."""
        self.device.driver("cuStreamSynchronize", self.handle)

    def wait_for(self, producer: int) -> None:
        """Let what is queued from now on wait for what another stream (its address) has been given so far."""
        event = Event(self.device)
        self.device.driver("cuEventRecord", event.handle, self.device.driver.bindings.CUstream(producer))
        self.wait_until(event)

    def wait_until(self, event: "Event") -> None:
        """Let what is queued from now on wait for an event that was recorded on any stream."""
        self.device.driver("cuStreamWaitEvent", self.handle, event.handle, 0)

    def capture(self, work: Callable[[], None]) -> "Graph":
        """Record what `work` queues on this stream, without running it.

        Raises:
            CudaError: something in it can't be captured; the stream is usable again.
        """
        driver = self.device.driver
        mode = driver.bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        with _collector_waits():
            try:
                driver("cuStreamBeginCapture", self.handle, mode)
                work()
            except BaseException:
                # Ends the capture and so makes the stream usable; its own status says what we are raising already.
                _, *graphs = driver.bindings.cuStreamEndCapture(self.handle)
                if graphs and graphs[0] is not None and int(graphs[0]):
                    driver.bindings.cuGraphDestroy(graphs[0])
                raise
            graph = driver("cuStreamEndCapture", self.handle)
        return Graph(self, graph)

    def close(self) -> None:
        """Destroy the stream."""
        self._close()


_CAPTURING = threading.Lock()


@contextlib.contextmanager
def _collector_waits() -> Iterator[None]:
    """Freeing memory spoils a capture: what the collector finds waits until it is over.

    One capture at a time, else the first to end would wake the collector under the others.
    """
    with _CAPTURING:
        collects = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collects:
                gc.enable()


class Graph:
    """A captured sequence, ready to launch with one call; the buffers it names must stay where they are."""

    def __init__(self, stream: Stream, graph: Any) -> None:
        self._stream = stream
        driver = stream.device.driver
        try:
            self._handle = driver("cuGraphInstantiate", graph, 0)
        finally:
            driver("cuGraphDestroy", graph)
        self._close = weakref.finalize(self, stream.device.release, "cuGraphExecDestroy", self._handle)

    def launch(self) -> None:
        """Queue the whole sequence on the stream it was captured from."""
        self._stream.device.driver("cuGraphLaunch", self._handle, self._stream.handle)

    def close(self) -> None:
        """Free it."""
        self._close()


class Event:
    """A point in a stream."""

    def __init__(self, device: Device) -> None:
        self._device = device
        device.make_current()
        flags = device.driver.bindings.CUevent_flags.CU_EVENT_DISABLE_TIMING
        self.handle = device.driver("cuEventCreate", flags)
        self._close = weakref.finalize(self, device.release, "cuEventDestroy", self.handle)

    def record(self, stream: Stream) -> None:
        """Mark this point of the stream."""
        self._device.driver("cuEventRecord", self.handle, stream.handle)

    def close(self) -> None:
        """Destroy the event."""
        self._close()

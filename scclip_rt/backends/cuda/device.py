"""One GPU: its name, what it can do, how much memory is free, and making it current."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self, SupportsInt

from scclip_rt.backends.cuda.driver import Driver, load_driver
from scclip_rt.backends.gpu import Gpu
from scclip_rt.errors import BackendError


@dataclass(frozen=True, slots=True, kw_only=True)
class Device(Gpu):
    """A GPU with its primary context, which torch, TensorRT and ONNX Runtime in this process share.

    Attributes:
        driver: the driver API.
        context: CUcontext, retained once in this process.
    """

    driver: Driver
    context: SupportsInt

    @classmethod
    def open(cls, number: int, driver: Driver | None = None) -> "Device":
        """The GPU of a number; the same object for every caller.

        Args:
            number: as in `cuda:N`.
            driver: None loads the real one.

        Raises:
            BackendError: no driver, no GPU, or none of this number.
        """
        driver = driver or load_driver()
        key = (id(driver), number)
        with _LOCK:
            if key not in _OPEN:
                _OPEN[key] = cls._open(driver, number)
            return _OPEN[key]

    @classmethod
    def _open(cls, driver: Driver, number: int) -> Self:
        gpu = find_gpu(number, driver)
        return cls(
            number=number,
            name=gpu.name,
            compute_capability=gpu.compute_capability,
            driver=driver,
            context=driver("cuDevicePrimaryCtxRetain", driver("cuDeviceGet", number)),
        )

    def make_current(self) -> None:
        """Let this thread's CUDA calls go to this GPU; every thread needs it, it costs next to nothing."""
        self.driver("cuCtxSetCurrent", self.context)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """As `make_current`, and what the thread had before comes back: torch and others keep their GPU."""
        previous = self.driver("cuCtxGetCurrent")
        self.make_current()
        try:
            yield
        finally:
            # A thread that had none keeps this one. No status: an error of the work is what counts.
            if int(previous):
                self.driver.bindings.cuCtxSetCurrent(previous)

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the GPU, all processes counted."""
        with self.current():
            free, total = self.driver("cuMemGetInfo")
        return int(free), int(total)

    def release(self, function: str, handle: object) -> None:
        """Free or destroy something; quiet where the driver refuses.

        At the interpreter's end, or after a fatal error, it goes with the process.
        """
        bindings = self.driver.bindings
        status, previous = bindings.cuCtxGetCurrent()
        if int(status) or int(bindings.cuCtxSetCurrent(self.context)[0]):
            return
        getattr(bindings, function)(handle)
        if int(previous):
            bindings.cuCtxSetCurrent(previous)

    def __str__(self) -> str:
        major, minor = self.compute_capability
        return f"cuda:{self.number} ({self.name}, sm_{major}{minor})"


# Primary contexts are counted by CUDA; one reference per process and GPU is kept until the process ends.
_OPEN: dict[tuple[int, int], Device] = {}
_LOCK = threading.Lock()


def find_gpu(number: int = 0, driver: Driver | None = None) -> Gpu:
    """Ask the driver about one GPU.

    Args:
        number: as in `cuda:0`.
        driver: None loads the real one.

    Raises:
        BackendError: cuda-python is not installed, there is no driver, or no such device.
    """
    driver = driver or load_driver()
    count = driver("cuDeviceGetCount")
    if not 0 <= number < count:
        names = ", ".join(f"cuda:{i} ({_name(driver, i)})" for i in range(count))
        raise BackendError(f"there is no cuda:{number}; this process sees: {names or 'no GPU'}")
    handle, attribute = driver("cuDeviceGet", number), driver.bindings.CUdevice_attribute
    major, minor = (
        int(driver("cuDeviceGetAttribute", which, handle))
        for which in (
            attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    return Gpu(number=number, name=_name(driver, number), compute_capability=(major, minor))


def _name(driver: Driver, number: int) -> str:
    name = driver("cuDeviceGetName", 256, driver("cuDeviceGet", number))
    return bytes(name).split(b"\0")[0].decode("utf-8", "replace")


def device_count() -> int:
    """GPUs that this process sees; 0 without a driver or cuda-python."""
    try:
        return int(load_driver()("cuDeviceGetCount"))
    except BackendError:
        return 0

"""Which NVIDIA GPU this machine has, without taking a context on it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scclip_rt.errors import BackendError

if TYPE_CHECKING:
    from scclip_rt.backends.cuda.driver import Driver


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A device: its number, name and compute capability, such as `8.9`."""

    index: int
    name: str
    compute_capability: str


def find_gpu(index: int = 0, driver: "Driver | None" = None) -> Gpu:
    """Ask the driver about one GPU.

    Args:
        index: the device's number, as in `cuda:0`.
        driver: None loads the real one.

    Raises:
        BackendError: cuda-python is not installed, there is no driver, or no such device.
    """
    # Here: they load numpy, which `scclip --help` does not need.
    from scclip_rt.backends.cuda import device as cuda
    from scclip_rt.backends.cuda import driver as api

    driver = driver or api.load_driver()
    count = driver("cuDeviceGetCount")
    if not 0 <= index < count:
        raise BackendError(f"no GPU cuda:{index}; the driver knows {count}")
    handle = driver("cuDeviceGet", index)
    major, minor = cuda.compute_capability(driver, handle)
    return Gpu(index=index, name=cuda.device_name(driver, handle), compute_capability=f"{major}.{minor}")

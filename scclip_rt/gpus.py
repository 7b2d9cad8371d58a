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
    from scclip_rt.backends.cuda import (
        driver as cuda,  # here: it loads numpy, which `scclip --help` does not need
    )

    driver = driver or cuda.load_driver()
    count = driver("cuDeviceGetCount")
    if not 0 <= index < count:
        raise BackendError(f"no GPU cuda:{index}; the driver knows {count}")
    device = driver("cuDeviceGet", index)
    attribute = driver.bindings.CUdevice_attribute
    major = driver("cuDeviceGetAttribute", attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
    minor = driver("cuDeviceGetAttribute", attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
    name = bytes(driver("cuDeviceGetName", 128, device)).split(b"\0", 1)[0].decode("utf-8", "replace")
    return Gpu(index=index, name=name, compute_capability=f"{major}.{minor}")

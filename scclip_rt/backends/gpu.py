"""Which NVIDIA GPU this machine has, without taking a context on it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scclip_rt.errors import BackendError

if TYPE_CHECKING:
    from scclip_rt.backends.cuda.driver import Driver


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What is known of a GPU by its number; `scclip_rt.backends.cuda.Device` is one with a context on it.

    Attributes:
        number: as in `cuda:N`.
        name: NVIDIA's.
        compute_capability: (major, minor), (9, 0) for an H100.
    """

    number: int
    name: str
    compute_capability: tuple[int, int]

    @property
    def capability(self) -> str:
        """The compute capability as sidecars and options write it, such as `8.9`."""
        return "{}.{}".format(*self.compute_capability)

    def __str__(self) -> str:
        return "cuda:{} ({}, sm_{}{})".format(self.number, self.name, *self.compute_capability)


def find_gpu(number: int = 0, driver: "Driver | None" = None) -> Gpu:
    """Ask the driver about one GPU.

    Args:
        number: as in `cuda:0`.
        driver: None loads the real one.

    Raises:
        BackendError: cuda-python is not installed, there is no driver, or no such device.
    """
    # Here: its package loads numpy, which `scclip --help` does not need.
    from scclip_rt.backends.cuda import driver as api

    driver = driver or api.load_driver()
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


def _name(driver: "Driver", number: int) -> str:
    name = driver("cuDeviceGetName", 256, driver("cuDeviceGet", number))
    return bytes(name).split(b"\0")[0].decode("utf-8", "replace")

"""Which NVIDIA GPU this machine has, asked of the driver through `cuda.bindings`."""

from dataclasses import dataclass
from typing import Any

from scclip_rt.errors import BackendError


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A device: its number, name and compute capability, such as `8.9`."""

    index: int
    name: str
    compute_capability: str


def find_gpu(index: int = 0) -> Gpu:
    """Ask the driver about one GPU.

    Args:
        index: the device's number, as in `cuda:0`.

    Raises:
        BackendError: cuda-python is not installed, there is no driver, or no such device.
    """
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise BackendError(
            f"a GPU can't be looked for: {error}; install cuda-python: pip install 'scclip-rt[tensorrt]'"
        ) from error
    try:
        _call(driver.cuInit(0))
        count = _call(driver.cuDeviceGetCount())
        if not 0 <= index < count:
            raise BackendError(f"no GPU cuda:{index}; the driver knows {count}")
        device = _call(driver.cuDeviceGet(index))
        attribute = driver.CUdevice_attribute
        major = _call(
            driver.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
        )
        minor = _call(
            driver.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
        )
        name = bytes(_call(driver.cuDeviceGetName(128, device))).split(b"\0", 1)[0].decode()
    except RuntimeError as error:  # cuda.bindings raises it where libcuda is not to be found
        raise BackendError(f"no NVIDIA driver on this machine ({_one_line(error)})") from error
    return Gpu(index=index, name=name, compute_capability=f"{major}.{minor}")


def _call(answer: Any) -> Any:
    """The value of a driver call, whose first member is its status."""
    status, *values = answer
    if int(status):
        raise BackendError(f"no usable NVIDIA GPU on this machine: the driver answers {status.name}")
    return values[0] if values else None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]

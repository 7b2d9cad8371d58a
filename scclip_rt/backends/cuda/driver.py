"""CUDA's driver API through `cuda.bindings`, every status checked, its failures as messages for users."""

import functools
import threading
from typing import Any

from scclip_rt.errors import BackendError, install

# What a user can do about a status, by CUresult's name. What is not listed keeps CUDA's own words.
_ADVICE = {
    "CUDA_ERROR_NO_DEVICE": "the driver sees no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES, "
    "or use --device cpu",
    "CUDA_ERROR_INSUFFICIENT_DRIVER": "the driver is older than cuda-python wants; update the driver, or "
    "install the cuda-python of its CUDA version",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "the driver's library and its kernel module differ in version "
    "(an update without a restart?); restart the machine",
    "CUDA_ERROR_SYSTEM_NOT_READY": "the GPU's services are not running yet (fabric manager?); check nvidia-smi",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": "forward compatibility is not for this GPU; update the driver",
    "CUDA_ERROR_DEVICE_UNAVAILABLE": "another process holds the GPU exclusively",
    "CUDA_ERROR_STUB_LIBRARY": "the libcuda.so found is the toolkit's stub, not the driver's; take the stubs "
    "folder off LD_LIBRARY_PATH",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "the kernel was compiled for another architecture",
    "CUDA_ERROR_INVALID_IMAGE": "the compiled kernel is damaged",
    "CUDA_ERROR_ECC_UNCORRECTABLE": "the GPU's memory failed; check nvidia-smi -q",
    "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES": "the kernel needs more registers or shared memory than this GPU has",
}
# After these the context of the whole process is lost: CUDA refuses every later call.
_FATAL = {
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_CONTAINED",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
}


class CudaError(BackendError):
    """A CUDA call failed; `status` is CUresult's name."""

    def __init__(self, message: str, status: str) -> None:
        super().__init__(message)
        self.status = status


class OutOfDeviceMemoryError(CudaError):
    """The GPU has not enough free memory."""


class Driver:
    """`cuda.bindings.driver`, or whatever offers the same functions (tests pass a fake).

    Args:
        bindings: the module; its functions return (status, value, …).
    """

    def __init__(self, bindings: Any) -> None:
        self.bindings = bindings

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Call a function and check its status.

        Args:
            name: for example `cuMemAlloc`.
            arguments: its own, without the ones that return something.

        Returns:
            None, the value, or a tuple of values.

        Raises:
            CudaError: any status but success; `OutOfDeviceMemoryError` where memory is what is missing.
        """
        status, *values = getattr(self.bindings, name)(*arguments)
        if int(status) != 0:
            raise self._error(name, status)
        return None if not values else values[0] if len(values) == 1 else tuple(values)

    def _error(self, name: str, status: Any) -> CudaError:
        label = getattr(status, "name", str(status))
        advice = _ADVICE.get(label, self._words(status))
        if label in _FATAL:
            advice += "; CUDA is of no more use to this process, start it again"
        kind = OutOfDeviceMemoryError if label == "CUDA_ERROR_OUT_OF_MEMORY" else CudaError
        return kind(f"CUDA failed in {name}: {label}: {advice}", label)

    def _words(self, status: Any) -> str:
        try:
            failed, text = self.bindings.cuGetErrorString(status)
        except Exception:  # no driver at all: there is nobody to ask
            return "no further explanation"
        if int(failed) != 0 or text is None:
            return "no further explanation"
        return text.decode("ascii", "replace") if isinstance(text, bytes) else str(text)


@functools.cache
def load_driver() -> Driver:
    """Load and initialise the driver, once in a process.

    Raises:
        BackendError: cuda-python or the driver is missing, or there is no GPU.
    """
    with _LOADING:
        try:
            from cuda.bindings import driver as bindings
        except ImportError as error:
            raise BackendError(
                f"this backend needs cuda-python, which is not installed: {install('tensorrt')} "
                f"(gpu instead of tensorrt for ONNX Runtime), or use --device cpu ({error})"
            ) from error
        driver = Driver(bindings)
        try:
            driver("cuInit", 0)
        except CudaError:
            raise
        except (
            Exception
        ) as error:  # cuda.pathfinder's or cuda.bindings' own, by version; all RuntimeError so far
            reason = " ".join(str(error).split())[:200]
            raise BackendError(
                "no NVIDIA driver on this machine (libcuda.so.1 can't be loaded): install it, in a container "
                f"start with --gpus all, or use --device cpu ({reason})"
            ) from error
        return driver


_LOADING = threading.Lock()

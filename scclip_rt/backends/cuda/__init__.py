"""A thin, typed layer over CUDA's driver API (cuda-python): devices, memory, streams, graphs, kernels.

Everything is imported by those who use a GPU; `import scclip_rt` loads none of it.
"""

from scclip_rt.backends.cuda.arrays import DeviceArray, device_array, image_array
from scclip_rt.backends.cuda.device import Device, device_count
from scclip_rt.backends.cuda.driver import CudaError, Driver, OutOfDeviceMemoryError, load_driver
from scclip_rt.backends.cuda.kernels import Kernel, KernelSet, KernelSpec, read_kernel_list
from scclip_rt.backends.cuda.memory import DeviceBuffer, Ledger, PinnedBuffer, mebibytes
from scclip_rt.backends.cuda.stream import Event, Graph, Stream

__all__ = [
    "CudaError",
    "Device",
    "DeviceArray",
    "DeviceBuffer",
    "Driver",
    "Event",
    "Graph",
    "Kernel",
    "KernelSet",
    "KernelSpec",
    "Ledger",
    "OutOfDeviceMemoryError",
    "PinnedBuffer",
    "Stream",
    "device_array",
    "device_count",
    "image_array",
    "load_driver",
    "mebibytes",
    "read_kernel_list",
]

"""The bundle's compiled kernels: `kernels/kernels.json` and its cubins, loaded for one GPU and launched.

Nothing is compiled here: neither Triton nor nvcc is needed at run time.
"""

import ctypes
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scclip_rt.backends.cuda.device import Device
from scclip_rt.backends.cuda.driver import CudaError
from scclip_rt.backends.cuda.stream import Stream
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.errors import BundleError
from scclip_rt.strict_json import parse_json

KERNEL_LIST = "kernels/kernels.json"
_WARP = 32
# Dynamic shared memory up to this needs no permission.
_FREE_SHARED_BYTES = 48 << 10
_C_TYPES: dict[str, Any] = {
    "i1": ctypes.c_bool,
    "i8": ctypes.c_int8,
    "i16": ctypes.c_int16,
    "i32": ctypes.c_int32,
    "i64": ctypes.c_int64,
    "u8": ctypes.c_uint8,
    "u16": ctypes.c_uint16,
    "u32": ctypes.c_uint32,
    "u64": ctypes.c_uint64,
    "fp32": ctypes.c_float,
    "fp64": ctypes.c_double,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSpec:
    """One compiled kernel, as kernels.json lists it.

    Attributes:
        name: `decode`, `windows`, …; several may have the name, for different architectures or constants.
        file: the cubin, as a path in the bundle.
        compute_capability: (major, minor) it was compiled for.
        entry: the function's name in the cubin.
        num_warps: 32 threads each.
        shared_bytes: dynamic shared memory of a block.
        parameters: names and Triton types, in order.
        constants: what was fixed at compile time.
        hidden_pointers: how many of Triton's own scratch pointers follow the parameters; all null here.
    """

    name: str
    file: str
    compute_capability: tuple[int, int]
    entry: str
    num_warps: int
    shared_bytes: int
    parameters: tuple[tuple[str, str], ...]
    constants: Mapping[str, Any]
    hidden_pointers: int

    def runs_on(self, capability: tuple[int, int]) -> bool:
        """Whether a cubin of this architecture runs on a GPU of that one.

        Machine code runs on later minors of its major. From sm_90 on Triton compiles for sm_90a, sm_100a, …,
        which run on exactly that.
        """
        if self.compute_capability >= (9, 0):
            return capability == self.compute_capability
        return capability[0] == self.compute_capability[0] and capability >= self.compute_capability


class Kernel:
    """A kernel, loaded."""

    def __init__(self, device: Device, spec: KernelSpec, image: bytes) -> None:
        self.spec = spec
        driver = device.driver
        device.make_current()
        try:
            module = driver("cuModuleLoadData", image)
            self._unload = weakref.finalize(self, device.release, "cuModuleUnload", module)
            self._function = driver("cuModuleGetFunction", module, spec.entry.encode())
            if spec.shared_bytes > _FREE_SHARED_BYTES:
                attribute = driver.bindings.CUfunction_attribute
                which = attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                driver("cuFuncSetAttribute", self._function, which, spec.shared_bytes)
        except CudaError as error:
            raise CudaError(f"{spec.file} can't be loaded on {device}: {error}", error.status) from error
        hidden = (ctypes.c_void_p,) * spec.hidden_pointers
        self._types = tuple(_c_type(kind) for _, kind in spec.parameters) + hidden
        self._nulls = (0,) * spec.hidden_pointers

    def constant(self, name: str) -> int:
        """A size that was fixed at compile time.

        Raises:
            BundleError: kernels.json does not give it.
        """
        value = self.spec.constants.get(name)
        if not isinstance(value, int) or value < 1:
            raise BundleError(
                f"{KERNEL_LIST}: kernel {self.spec.name!r} has no usable {name}; export the bundle again"
            )
        return value

    def launch(self, stream: Stream, grid: tuple[int, int, int], **arguments: float) -> None:
        """Queue the kernel.

        Args:
            stream: where.
            grid: blocks along x, y and z.
            arguments: one for each parameter, by name; pointers as numbers.

        Raises:
            TypeError: a parameter without a value, or a value without a parameter.
        """
        names = [name for name, _ in self.spec.parameters]
        if set(names) != set(arguments):
            raise TypeError(f"kernel {self.spec.name!r} takes {', '.join(names)}; got {', '.join(arguments)}")
        values = (*(arguments[name] for name in names), *self._nulls)
        threads = self.spec.num_warps * _WARP
        shared = self.spec.shared_bytes
        packed = (values, self._types)
        stream.device.driver(
            "cuLaunchKernel", self._function, *grid, threads, 1, 1, shared, stream.handle, packed, 0
        )

    def close(self) -> None:
        """Unload it; nothing may be launched any more."""
        self._unload()


class KernelSet:
    """The kernels of a bundle that run on one GPU.

    Args:
        device: the GPU.
        kernels: by name; several where they differ in constants.
        reason: why some or all are missing, for `describe()`.
    """

    def __init__(self, device: Device, kernels: Mapping[str, tuple[Kernel, ...]], reason: str) -> None:
        self.device = device
        self._kernels = kernels
        self.reason = reason

    @classmethod
    def load(cls, bundle: Bundle, device: Device) -> "KernelSet":
        """Load what fits.

        Raises:
            BundleError: kernels.json or a cubin is damaged.
            CudaError: a cubin for this GPU that it refuses.
        """
        if KERNEL_LIST not in bundle.manifest.files:
            return cls(device, {}, "the bundle holds no compiled kernels")
        specs = read_kernel_list(bundle)
        chosen: dict[str, list[KernelSpec]] = {}
        for spec in specs:
            if spec.runs_on(device.compute_capability):
                chosen.setdefault(spec.name, []).append(spec)
        if not chosen:
            have = ", ".join(sorted({"sm_{}{}".format(*spec.compute_capability) for spec in specs}))
            major, minor = device.compute_capability
            return cls(device, {}, f"the bundle's kernels are for {have}, this GPU is sm_{major}{minor}")
        loaded = {}
        for name, candidates in chosen.items():
            newest = max(spec.compute_capability for spec in candidates)
            loaded[name] = tuple(
                Kernel(device, spec, bundle.checked_path(spec.file).read_bytes())
                for spec in candidates
                if spec.compute_capability == newest
            )
        return cls(device, loaded, "")

    def get(self, name: str, *, types: Mapping[str, str] | None = None, **constants: object) -> Kernel | None:
        """The kernel of a name whose parameters have these types and whose constants include these, or None."""
        for kernel in self._kernels.get(name, ()):
            kinds = dict(kernel.spec.parameters)
            fits = all(kernel.spec.constants.get(key) == value for key, value in constants.items())
            if fits and all(kinds.get(key) == kind for key, kind in (types or {}).items()):
                return kernel
        return None

    def close(self) -> None:
        """Unload all of them."""
        for kernels in self._kernels.values():
            for kernel in kernels:
                kernel.close()


def read_kernel_list(bundle: Bundle) -> tuple[KernelSpec, ...]:
    """Read kernels/kernels.json.

    Raises:
        BundleError: not the format, or it names a file that bundle.json does not list.
    """
    path = bundle.checked_path(KERNEL_LIST)
    try:
        specs = parse_kernel_list(path.read_bytes())
    except (OSError, BundleError) as error:
        raise BundleError(f"{path}: {error}", field=KERNEL_LIST) from error
    for spec in specs:
        if spec.file not in bundle.manifest.files:
            raise BundleError(f"{path}: {spec.file!r} is not listed in bundle.json", field=KERNEL_LIST)
    return specs


def parse_kernel_list(data: bytes) -> tuple[KernelSpec, ...]:
    """What a kernels.json says.

    Raises:
        BundleError: it is none.
    """
    try:
        return tuple(_kernel(item) for item in parse_json(data))
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise BundleError(
            f"not a list of kernels ({type(error).__name__}: {error}); export the bundle again"
        ) from error


def _kernel(item: Mapping[str, Any]) -> KernelSpec:
    major, _, minor = str(item["compute_capability"]).partition(".")
    spec = KernelSpec(
        name=_text(item["name"]),
        file=_text(item["file"]),
        compute_capability=(int(major), int(minor)),
        entry=_text(item["entry"]),
        num_warps=int(item["num_warps"]),
        shared_bytes=int(item["shared_bytes"]),
        parameters=tuple((str(name), str(kind)) for name, kind in item["parameters"]),
        constants=dict(item["constants"]),
        hidden_pointers=int(item["hidden_pointers"]),
    )
    for _, kind in spec.parameters:
        _c_type(kind)
    return spec


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _c_type(kind: str) -> Any:
    if kind.startswith("*"):
        return ctypes.c_void_p
    try:
        return _C_TYPES[kind]
    except KeyError:
        raise ValueError(f"a parameter of unknown type {kind!r}") from None

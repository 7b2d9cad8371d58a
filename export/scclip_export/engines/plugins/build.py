"""Our Triton kernels inside TensorRT engines, as ahead-of-time quick plug-ins: the engine holds their PTX.

An encoder for that has nodes of the domain `scclip` (`scclip_export.engines.plugins.nodes`). Plug-ins of the same
names are registered with TensorRT, compiled here for the target; at run time the engine launches them by itself,
without Python, Triton or torch.

What TensorRT 10.9 to 11.4 (`tensorrt.plugin`) asks of a kernel, and what follows:
- It passes the addresses of the inputs, then the integers, then the addresses of the outputs, and nothing else.
  Triton's two hidden parameters are cut out of the PTX, whose body doesn't read them (`without_hidden`).
- Integers may be expressions of the input's shapes: the number of blocks follows batch and patches at run time.
- There is no scratch memory: it is an output that nobody reads.
- Nothing is known to ask the driver for more than 48 KiB of shared memory: a kernel that needs more is refused.
- An ONNX node becomes a plug-in by its operator's name and the attributes `plugin_namespace`, `plugin_version` and
  `aot`. A function of that name in the file would come first: the copy that the parser gets has none.
"""

import contextlib
import importlib
import importlib.util
import inspect
import shutil
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scclip_export.errors import ExportError
from scclip_rt.bundle.manifest import EncoderSpec
from scclip_rt.errors import install

_Key = tuple[str, str, tuple[float, ...]]


def has_plugins(encoder: EncoderSpec) -> bool:
    """Whether an encoder's file has nodes for plug-ins (docs/bundle.md: `plugins` is a part of its name)."""
    return "plugins" in encoder.file.split(".")


def table_prefers(precision: str, *, patches: int, windows: int) -> bool:
    """Whether engines with our kernels were measured to be faster; False without torch to read the table.

    That is `engines` of `scclip_kernels.fastest`'s table, which nobody has measured yet. What torch gains from the
    kernels says nothing of TensorRT, which fuses the plain graph in ways of its own.
    """
    if importlib.util.find_spec("torch") is None:
        return False
    from scclip_kernels.fastest import CALIBRATION, faster_in_triton, measured

    engines = measured().get("engines")
    return engines is not None and faster_in_triton(engines, CALIBRATION, precision, patches, windows)


def check_plugins(trt: Any) -> None:
    """Refuse before any long work where something is missing.

    Args:
        trt: the module `tensorrt`.

    Raises:
        ExportError: torch, onnx or Triton is not installed, or this TensorRT has no ahead-of-time plug-ins.
    """
    missing = [name for name in ("torch", "onnx", "triton") if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"--tensorrt-plugins compiles kernels and needs {', '.join(missing)}; "
            f"install: {install('export,triton')}, or leave it out"
        )
    if not hasattr(trt, "QuickPluginCreationRequest"):
        raise ExportError(
            f"--tensorrt-plugins needs the ahead-of-time plug-ins of TensorRT 10.9 or later; {trt.__version__} has "
            "none. Run `pip install -U tensorrt`, or leave it out"
        )


@contextlib.contextmanager
def plugin_graph(
    trt: Any, path: Path, *, precision: str, capabilities: tuple[str, ...]
) -> Iterator[tuple[Path, int]]:
    """Compile and register the plug-ins of an encoder, and write the copy of its file that TensorRT's parser takes.

    Args:
        trt: the module `tensorrt`.
        path: an ONNX file with plug-in nodes, its weights beside it.
        precision: of its narrow tensors.
        capabilities: what the engine is for, such as `8.9` or `8.0+`; code for the lowest is compiled.

    Yields:
        The copy, which exists until the block is left, and the number of plug-in nodes.

    Raises:
        ExportError: a kernel can't be compiled or does not fit, or the file has no plug-in nodes.
    """
    check_plugins(trt)
    target = min(int(entry.rstrip("+").replace(".", "")) for entry in capabilities)
    with tempfile.TemporaryDirectory(prefix="scclip-plugins-") as folder:
        copy = Path(folder) / path.name
        nodes = _write_copy(path, copy)
        if not nodes:
            raise ExportError(f"{path.name} has no plug-in nodes; export it again with --tensorrt-plugins")
        host = _host(trt)
        host.compile(nodes, precision, target)
        yield copy, len(nodes)
        host.raise_failure()


def _write_copy(path: Path, copy: Path) -> list[tuple[str, dict[str, int | float]]]:
    """Write the parser's copy; return name and attributes of every plug-in node."""
    import onnx
    from onnx import TensorProto, helper

    from scclip_kernels.plugins.table import NAMESPACE, PLUGINS

    model = onnx.load(str(path), load_external_data=False)
    nodes = []
    for node in model.graph.node:
        if node.domain != NAMESPACE:
            continue
        plugin = PLUGINS.get(node.op_type)
        if plugin is None:
            raise ExportError(
                f"{path.name} has a plug-in {node.op_type!r} that this version doesn't know; export it again"
            )
        nodes.append((node.op_type, {item.name: helper.get_attribute_value(item) for item in node.attribute}))
        node.output.extend(f"{node.output[0]}_{output.name}" for output in plugin.outputs[len(node.output) :])
        for name, value in (("plugin_namespace", NAMESPACE), ("plugin_version", "1"), ("aot", 1)):
            node.attribute.append(helper.make_attribute(name, value))
    del model.functions[:]
    data = {
        entry.value
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for name in data:  # no link: readers of ONNX refuse weights behind one
        shutil.copyfile(path.parent / name, copy.parent / name)
    onnx.save(model, str(copy))
    return nodes


@dataclass(slots=True)
class PluginHost:
    """The plug-ins as TensorRT knows them, registered once per process, and the kernels of the build under way."""

    trt: Any
    trtp: Any
    kernels: dict[_Key, tuple[Any, Any]] = field(default_factory=dict)
    failure: Exception | None = None

    def compile(self, nodes: list[tuple[str, dict[str, int | float]]], precision: str, target: int) -> None:
        """Compile every kernel that the nodes need, ahead of the build, where an error is still a message."""
        from scclip_kernels.aot.compile import CompileError, compile_variant
        from scclip_kernels.plugins.plugins import MAX_SHARED_BYTES, plugin_kernel

        self.kernels.clear()
        self.failure = None
        try:
            for name, attributes in nodes:
                key = _key(name, precision, attributes)
                if key in self.kernels:
                    continue
                kernel = plugin_kernel(name, precision, attributes)
                compiled = compile_variant(kernel.variant, target)
                compiled.check()
                if compiled.shared_bytes > MAX_SHARED_BYTES:
                    raise CompileError(
                        f"{name} needs {compiled.shared_bytes:,} bytes of shared memory; "
                        f"a plug-in gets at most {MAX_SHARED_BYTES:,}"
                    )
                self.kernels[key] = kernel, compiled
        except (CompileError, ValueError) as error:
            raise ExportError(f"--tensorrt-plugins: {error}") from error

    def register(self) -> None:
        """Tell TensorRT of every plug-in of the table."""
        from scclip_kernels.plugins.table import NAMESPACE, PLUGINS

        for name, plugin in PLUGINS.items():
            identity = f"{NAMESPACE}::{name}"
            self.trtp.register(identity)(self._describe(plugin))
            self.trtp.aot_impl(identity)(self._implement(plugin))

    def raise_failure(self) -> None:
        """Raise what went wrong in a callback: an exception there would cross C++ frames."""
        if self.failure is not None:
            raise ExportError(f"--tensorrt-plugins: {self.failure}") from self.failure

    def _describe(self, plugin: Any) -> Callable[..., Any]:
        """The function that tells shapes and dtypes of the outputs from those of the inputs."""

        def describe(*inputs: Any, **attributes: Any) -> tuple[Any, ...]:
            lengths = self._lengths(plugin, inputs[0]) | attributes
            dtypes = {
                "wide": self.trt.float32,
                "half": self.trt.float16,
                "narrow": inputs[0].dtype,
                "int": self.trt.int32,
            }
            return tuple(
                self.trtp.from_shape_expr(tuple(output.sizes(lengths)), dtype=dtypes[output.kind])
                for output in plugin.outputs
            )

        desc = self.trtp.TensorDesc
        returned = types.GenericAlias(tuple, (desc,) * len(plugin.outputs))
        return _signed(describe, self._parameters(plugin), returned)

    def _implement(self, plugin: Any) -> Callable[..., Any]:
        """The function that gives the kernel and how it is launched."""

        def implement(*arguments: Any) -> tuple[str, str, Any, Any]:
            try:
                return self._launch(plugin, arguments)
            except Exception as error:
                self.failure = self.failure or error
                raise

        parameters = self._parameters(plugin) | {"outputs": inspect.Parameter.empty, "tactic": int}
        returned = types.GenericAlias(tuple, (str, str, self.trtp.KernelLaunchParams, self.trtp.SymIntExprs))
        return _signed(implement, parameters, returned)

    def _launch(self, plugin: Any, arguments: tuple[Any, ...]) -> tuple[str, str, Any, Any]:
        from scclip_kernels.aot.compile import without_hidden

        inputs, rest = arguments[: len(plugin.inputs)], arguments[len(plugin.inputs) :]
        attributes = dict(zip(plugin.attributes, rest, strict=False))
        narrow = self._narrow(plugin, inputs)
        try:
            kernel, compiled = self.kernels[_key(plugin.name, narrow, attributes)]
        except KeyError:
            raise ExportError(
                f"TensorRT asks for {plugin.name} in {narrow} with {attributes}, which the graph doesn't have"
            ) from None
        lengths = self._lengths(plugin, inputs[0])
        x, y, z = kernel.grid(lengths["patches"], lengths["batch"], self.trtp.cdiv)
        launch = self.trtp.KernelLaunchParams(
            grid_x=x,
            grid_y=y,
            grid_z=z,
            block_x=32 * compiled.num_warps,
            shared_mem=compiled.shared_bytes,
        )
        integers = self.trtp.SymIntExprs(len(plugin.integers))
        for index, name in enumerate(plugin.integers):
            integers[index] = self.trtp.SymInt32(lengths[name.removeprefix("num_")])
        return compiled.entry, without_hidden(compiled), launch, integers

    def _narrow(self, plugin: Any, inputs: tuple[Any, ...]) -> str:
        """The precision of the narrow inputs; every input must have the table's dtype."""
        names = {
            self.trt.float32: "fp32",
            self.trt.float16: "fp16",
            self.trt.bfloat16: "bf16",
            self.trt.int32: "i32",
        }
        found = [names.get(item.dtype, str(item.dtype)) for item in inputs]
        kinds = list(plugin.inputs.values())
        narrow = found[kinds.index("narrow")] if "narrow" in kinds else next(iter(self.kernels))[1]
        wanted = [plugin.dtype(kind, narrow) for kind in kinds]
        if found != wanted:
            raise ExportError(
                f"{plugin.name} takes {', '.join(wanted)}; TensorRT gives it {', '.join(found)}"
            )
        return str(narrow)

    def _lengths(self, plugin: Any, first: Any) -> dict[str, Any]:
        batch, patches = (first.shape_expr[axis] for axis in plugin.axes)
        return {"batch": batch, "patches": patches}

    def _parameters(self, plugin: Any) -> dict[str, Any]:
        return dict.fromkeys(plugin.inputs, self.trtp.TensorDesc) | dict(plugin.attributes)


def _key(name: str, narrow: str, attributes: Mapping[str, int | float]) -> _Key:
    return name, narrow, tuple(round(float(attributes[key]), 6) for key in sorted(attributes))


def _signed(function: Callable[..., Any], parameters: Mapping[str, Any], returned: Any) -> Callable[..., Any]:
    """Give a function the signature that `tensorrt.plugin` reads its inputs and attributes from."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature(
        [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in parameters.items()],
        return_annotation=returned,
    )
    function.__signature__ = signature  # type: ignore[attr-defined]
    return function


_hosts: dict[int, PluginHost] = {}


def _host(trt: Any) -> PluginHost:
    """The registration of this process: a second one under the same names would be refused."""
    if id(trt) not in _hosts:
        host = PluginHost(trt=trt, trtp=importlib.import_module(f"{trt.__name__}.plugin"))
        host.register()
        _hosts[id(trt)] = host
    return _hosts[id(trt)]

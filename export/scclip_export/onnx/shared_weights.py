"""External weights of ONNX files: one encoder may use the weights of another, so that a bundle stores them once."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto

# onnxruntime maps external weights from the file; page alignment keeps that possible for every tensor.
_ALIGNMENT = 4096
# Bytes at both ends of a tensor by which candidates are found: hashing all of them would take longer than comparing.
_EDGE = 64
# Smaller tensors stay in the ONNX file itself, as `onnx_ir.save` has it.
_EXTERNAL_ABOVE = 256
_Key = tuple[int, tuple[int, ...], bytes, bytes]


def external_data(tensor: TensorProto) -> tuple[str, int, int]:
    """Return (location, offset, length in bytes) of an external tensor."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries["location"], int(entries.get("offset", 0)), int(entries["length"])


def _content(tensor: TensorProto, directory: Path) -> bytes:
    location, offset, length = external_data(tensor)
    with (directory / location).open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _key(tensor: TensorProto, directory: Path) -> _Key:
    location, offset, length = external_data(tensor)
    with (directory / location).open("rb") as file:
        file.seek(offset)
        first = file.read(min(_EDGE, length))
        file.seek(offset + length - len(first))
        return tensor.data_type, tuple(tensor.dims), first, file.read(len(first))


def _point_to(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def _by_key(path: Path) -> dict[_Key, list[TensorProto]]:
    """The external tensors of a file, by what is the same for equal ones."""
    known: dict[_Key, list[TensorProto]] = {}
    for tensor in onnx.load(str(path), load_external_data=False).graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            known.setdefault(_key(tensor, path.parent), []).append(tensor)
    return known


def save_model(model: ir.Model, path: Path, base: Path | None = None) -> None:
    """Write a model with weights beside it, in `path` + ".data", but for those that another file has.

    Args:
        model: its tensors become external.
        path: the .onnx file.
        base: an ONNX file in the same folder, whose weights are used wherever they are equal byte for byte.
    """
    known = {} if base is None else _by_key(base)
    own: list[tuple[ir.Value, ir.TensorProtocol]] = []
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= _EXTERNAL_ABOVE:
            continue
        found = _equal(tensor, known, path.parent) if known else None
        if found is None:
            own.append((value, tensor))
        else:
            value.const_value = found
    if own:
        written = ir.external_data.convert_tensors_to_external(
            [tensor for _, tensor in own], path.parent, f"{path.name}.data"
        )
        for (value, _), external in zip(own, written, strict=True):
            value.const_value = external
    ir.save(model, path)


def _equal(
    tensor: ir.TensorProtocol, known: dict[_Key, list[TensorProto]], directory: Path
) -> ir.ExternalTensor | None:
    """The same bytes in a file, under the tensor's name."""
    content = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)
    dims = tuple(tensor.shape.numpy())
    for other in known.get(
        (int(tensor.dtype), dims, content[:_EDGE].tobytes(), content[-_EDGE:].tobytes()), ()
    ):
        location, offset, length = external_data(other)
        if np.array_equal(np.memmap(directory / location, np.uint8, "r", offset, (length,)), content):
            return ir.ExternalTensor(
                location,
                offset,
                length,
                tensor.dtype,
                shape=ir.Shape(dims),
                name=str(tensor.name),
                base_dir=directory,
            )
    return None


def share_weights(path: Path, base: Path) -> int:
    """Let `path` use the weights of `base` wherever they are equal byte for byte.

    Both are ONNX files with external weights in the same folder. What `path` alone has stays in its own `.data` file,
    which goes away when nothing is left; what is in another file already stays there.

    Returns:
        How many bytes are now shared.
    """
    directory = path.parent
    known = _by_key(base)
    model = onnx.load(str(path), load_external_data=False)
    own, shared = path.with_name(path.name + ".data"), 0
    rest = own.with_name(own.name + ".new")
    with rest.open("wb") as file:
        for tensor in model.graph.initializer:
            if tensor.data_location != TensorProto.EXTERNAL or external_data(tensor)[0] != own.name:
                continue
            content, alike = _content(tensor, directory), known.get(_key(tensor, directory), ())
            found = next((other for other in alike if _content(other, directory) == content), None)
            if found is not None:
                _point_to(tensor, *external_data(found))
                shared += len(content)
                continue
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            _point_to(tensor, own.name, file.tell(), len(content))
            file.write(content)
        left = file.tell()
    if left:
        rest.replace(own)
    else:
        rest.unlink()
        own.unlink(missing_ok=True)
    onnx.save(model, str(path))
    return shared

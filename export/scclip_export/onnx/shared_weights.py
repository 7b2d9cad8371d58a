"""External weights of ONNX files: one encoder may use the weights of another, so that a bundle stores them once."""

from pathlib import Path

import onnx
from onnx import TensorProto

# onnxruntime maps external weights from the file; page alignment keeps that possible for every tensor.
_ALIGNMENT = 4096
# Bytes at both ends of a tensor by which candidates are found: hashing all of them would take longer than comparing.
_EDGE = 64
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


def share_weights(path: Path, base: Path) -> int:
    """Let `path` use the weights of `base` wherever they are equal byte for byte.

    Both are ONNX files with external weights in the same folder. What `path` alone has stays in its own `.data` file,
    which goes away when nothing is left.

    Returns:
        How many bytes are now shared.
    """
    directory = path.parent
    known: dict[_Key, list[TensorProto]] = {}
    for tensor in onnx.load(str(base), load_external_data=False).graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            known.setdefault(_key(tensor, directory), []).append(tensor)
    model = onnx.load(str(path), load_external_data=False)
    own, shared = path.with_name(path.name + ".data"), 0
    rest = own.with_name(own.name + ".new")
    with rest.open("wb") as file:
        for tensor in model.graph.initializer:
            if tensor.data_location != TensorProto.EXTERNAL:
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

"""External weights of ONNX files: one encoder may use the weights of another, so that a bundle stores them once."""

import hashlib
from pathlib import Path

import onnx
from onnx import TensorProto

# onnxruntime maps external weights from the file; page alignment keeps that possible for every tensor.
_ALIGNMENT = 4096
_Key = tuple[int, tuple[int, ...], bytes]


def external_data(tensor: TensorProto) -> tuple[str, int, int]:
    """Return (location, offset, length in bytes) of an external tensor."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries["location"], int(entries.get("offset", 0)), int(entries["length"])


def _content(tensor: TensorProto, directory: Path) -> bytes:
    location, offset, length = external_data(tensor)
    with (directory / location).open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _key(tensor: TensorProto, content: bytes) -> _Key:
    return tensor.data_type, tuple(tensor.dims), hashlib.sha256(content).digest()


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
    known: dict[_Key, tuple[str, int, int]] = {}
    for tensor in onnx.load(str(base), load_external_data=False).graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            known[_key(tensor, _content(tensor, directory))] = external_data(tensor)
    model = onnx.load(str(path), load_external_data=False)
    own, shared = path.with_name(path.name + ".data"), 0
    rest = own.with_name(own.name + ".new")
    with rest.open("wb") as file:
        for tensor in model.graph.initializer:
            if tensor.data_location != TensorProto.EXTERNAL:
                continue
            content = _content(tensor, directory)
            found = known.get(_key(tensor, content))
            if found is not None:
                _point_to(tensor, *found)
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

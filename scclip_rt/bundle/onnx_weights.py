"""Which data files an ONNX file refers to, found without loading it.

onnxruntime 1.32 refuses weights outside the model's folder; older releases that this package supports follow
any path. The bundle's rule (inside, listed, hashed) must hold for all of them, so the references are read
here: a walk over the protobuf wire format that steps over weights and needs neither `onnx` nor `protobuf`.

Only the form that protobuf's own writers give is read. Readers differ on the others (a tag in more bytes than it needs,
whose upper bits some drop; an entry with two keys), so that a file could name weights to a library that it does not
name here.
"""

import mmap
import os
from collections.abc import Container, Iterator
from pathlib import Path

from scclip_rt.errors import BundleError
from scclip_rt.files import check_regular

# Message type → field number → type of the nested message (onnx.proto, stable since IR version 3).
_NESTED: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2  # the fields of StringStringEntryProto


def external_locations(path: Path) -> set[str]:
    """The `location` of every tensor stored outside an ONNX file, exactly as written in it.

    Raises:
        BundleError: the file is empty or no protobuf message.
        OSError: the file can't be read.
    """
    check_regular(path)
    with path.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size == 0:
            raise BundleError(f"{path.name} is empty; copy or export the bundle again", field=path.name)
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return set(_locations(data))
            except (IndexError, ValueError) as error:
                raise BundleError(
                    f"{path.name} is no ONNX file ({error}); copy or export the bundle again", field=path.name
                ) from error


def _locations(data: mmap.mmap) -> Iterator[str]:
    # A stack instead of recursion: nested graphs in a hostile file must not exhaust Python's.
    stack = [("model", 0, len(data))]
    while stack:
        kind, start, end = stack.pop()
        if kind == "entry":
            parts = [(field, data[first:last]) for field, first, last in _messages(data, start, end, (1, 2))]
            entry = dict(parts)
            if sorted(field for field, _ in parts if field in (_KEY, _VALUE)) != [_KEY, _VALUE]:
                raise ValueError("an entry of a tensor's data has not one key and one value")
            if entry[_KEY] == b"location":
                yield entry[_VALUE].decode("utf-8")
            continue
        nested = _NESTED[kind]
        for field, first, last in _messages(data, start, end, nested):
            if field in nested:
                stack.append((nested[field], first, last))


def _messages(
    data: mmap.mmap, position: int, end: int, messages: Container[int]
) -> Iterator[tuple[int, int, int]]:
    """Every length-delimited field of the message at [position, end): its number, and where its bytes lie.

    Those of `messages` must be length-delimited.
    """
    while position < end:
        tag, position = _varint(data, position)
        field, wire = tag >> 3, tag & 7
        if not 0 < field < 1 << 29 or (field in messages and wire != 2):
            raise ValueError(f"field {field} of wire type {wire} at byte {position}")
        length = 0
        if wire == 0:
            _, position = _varint(data, position, shortest=False)
        elif wire == 1:
            length = 8
        elif wire == 2:
            length, position = _varint(data, position)
        elif wire == 5:
            length = 4
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if position + length > end:
            raise ValueError(f"field {field} at byte {position} runs past its message")
        if wire == 2:
            yield field, position, position + length
        position += length


def _varint(data: mmap.mmap, position: int, *, shortest: bool = True) -> tuple[int, int]:
    value = data[position]
    if value < 0x80:  # nearly all of them
        return value, position + 1
    value = shift = 0
    while shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if shortest and shift and byte == 0:
                raise ValueError(f"a number at byte {position} in more bytes than it needs")
            return value, position
        shift += 7
    raise ValueError(f"a number of more than ten bytes at byte {position}")

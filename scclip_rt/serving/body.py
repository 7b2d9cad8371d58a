"""Reading a request's body: bounded in bytes and time, and watching whether the client is still there."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Receive

from scclip_rt.serving.errors import (
    BadRequestError,
    BusyError,
    ClientGoneError,
    SlowRequestError,
    TooLargeError,
    UnsupportedMediaError,
)

Result = TypeVar("Result")
_LARGE_BYTES = 1 << 20
_MAX_PART_BYTES = 1 << 20  # of a form field that is no file
_GZIP = b"\x1f\x8b"
_MAX_MEMBERS = 10_000  # of a gzip body (RFC 1952, 2.2): a million empty ones would hold up the event loop
_FIRST_PIECE = 1 << 12  # what follows a member is copied, so that pieces begin small

FormParts = list[tuple[str, str | bytes]]
"""Names and values of a form: text, or a file's bytes."""


class BodyBudget:
    """Bytes of bodies that are still arriving: many slow uploads must not fill the memory.

    Args:
        limit: bytes in all.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0

    def take(self, size: int) -> None:
        """Count `size` more bytes.

        Raises:
            BusyError: too many in all.
        """
        if self._held + size > self._limit:
            raise BusyError("too many uploads at a time; try again later", retry_after=1)
        self._held += size

    def give_back(self, size: int) -> None:
        """A body is complete, or given up."""
        self._held -= size


async def read_body(
    receive: Receive, headers: Headers, *, max_bytes: int, deadline: float, budget: BodyBudget
) -> bytes:
    """The whole body, unpacked.

    Args:
        receive: ASGI's.
        headers: of the request.
        max_bytes: most it may have, before and after unpacking.
        deadline: `time.monotonic()` until which it must have arrived.
        budget: shared by all requests.

    Raises:
        TooLargeError: at once if the length says so, else as soon as it is passed.
        SlowRequestError: not complete in time.
        ClientGoneError: the connection closed half-way.
        UnsupportedMediaError: an unknown content coding.
        BadRequestError: damaged compression.
    """
    length = headers.get("content-length", "")
    digits = length.lstrip("0")
    if length.isascii() and length.isdigit() and (len(digits) > 18 or int(digits or "0") > max_bytes):
        raise _too_large(max_bytes)
    data, held = bytearray(), 0
    try:
        while True:
            message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            if message["type"] == "http.disconnect":
                raise ClientGoneError(
                    f"the client closed the connection after {len(data):,} bytes of its body"
                )
            chunk = message.get("body", b"")
            if len(data) + len(chunk) > max_bytes:
                raise _too_large(max_bytes)
            budget.take(len(chunk))
            held += len(chunk)
            data += chunk
            if not message.get("more_body", False):
                return _unpack(bytes(data), headers.get("content-encoding", "identity"), max_bytes)
    except TimeoutError:
        raise SlowRequestError(f"the body did not arrive in time; {len(data):,} bytes had come") from None
    finally:
        budget.give_back(held)


async def parsed(size: int, read: Callable[[], Result]) -> Result:
    """What a body of `size` bytes says. A large one is read in a thread: others wait for the event loop."""
    return await asyncio.to_thread(read) if size > _LARGE_BYTES else read()


async def wait_until_gone(receive: Receive) -> None:
    """Return when the client closes the connection; the body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def read_form(body: bytes, headers: Headers) -> FormParts:
    """Names and values of a multipart form, text or a file's bytes; nothing is written to disk.

    Raises:
        BadRequestError: not the form that the content type says.
    """

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    try:
        parser = MultiPartParser(headers, stream(), max_files=8, max_fields=32, max_part_size=_MAX_PART_BYTES)
        parser.spool_max_size = len(body) + 1  # in memory: it is there anyway, and the disk may be read-only
        form: FormData = await parser.parse()
    except MultiPartException as error:
        raise BadRequestError(f"the form can't be read: {error.message}") from error
    parts: FormParts = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            parts.append((name, value.file.read()))
            value.file.close()
        else:
            parts.append((name, value))
    return parts


def _unpack(data: bytes, coding: str, max_bytes: int) -> bytes:
    """Undo gzip or deflate, as far as the limit goes."""
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return data
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise UnsupportedMediaError(f"content coding {coding!r} is not read here; gzip, deflate or none")
    unpacked, place = bytearray(), 0
    for _ in range(_MAX_MEMBERS):
        place += _unpack_member(memoryview(data)[place:], coding, unpacked, max_bytes)
        if coding == "deflate" or not data.startswith(_GZIP, place):
            break
    else:
        raise BadRequestError(f"the body's {coding} has more than {_MAX_MEMBERS:,} members")
    if place < len(data):
        raise BadRequestError(f"{len(data) - place:,} bytes follow the end of the body's {coding}")
    return bytes(unpacked)


def _unpack_member(data: memoryview, coding: str, unpacked: bytearray, max_bytes: int) -> int:
    """Append what the first member of `data` holds; return how many bytes it takes."""
    unpacker = zlib.decompressobj(wbits=47)  # gzip and zlib, told apart by their header
    place, step = 0, _FIRST_PIECE
    while not unpacker.eof:
        piece = data[place : place + step]
        if not piece:
            raise BadRequestError(f"the body's {coding} is cut off")
        try:
            unpacked += unpacker.decompress(piece, max_bytes + 1 - len(unpacked))
        except zlib.error as error:
            raise BadRequestError(f"the body is not {coding}: {error}") from error
        if len(unpacked) > max_bytes:
            raise _too_large(max_bytes)
        place += len(piece) - len(unpacker.unused_data)
        step *= 2
    return place


def _too_large(max_bytes: int) -> TooLargeError:
    return TooLargeError(f"the body is larger than this server's {max_bytes:,} bytes")

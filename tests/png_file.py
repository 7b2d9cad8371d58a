"""PNG files as no library here writes them: of any number of bits, or with a size that no pixels stand behind."""

import struct
import zlib

GREY, RGB = 0, 2


def png_file(width: int, height: int, *, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG of these rows, each with its filter byte; they may be fewer than the header says."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )

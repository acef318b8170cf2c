"""PNG files that claim what they do not hold."""

import struct
import zlib


def png_claiming(
    width: int, height: int, *, colour: int = 2, bits: int = 16, extra: tuple[bytes, bytes] | None = None
) -> bytes:
    """A PNG of a correct header with next to nothing behind it, and perhaps one more chunk."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))]
    chunks += [extra] if extra else []
    chunks += [(b"IDAT", zlib.compress(bytes(9))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*parts) for parts in chunks)

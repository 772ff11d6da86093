"""Images for requests: as large as they can be, and unknown to every cache."""

import base64
import struct
import zlib
from random import Random

_SIDE = 224  # pixels


def image(random: Random) -> str:
    """Make a PNG of random pixels, as a data URL."""
    row = 3 * _SIDE
    pixels = b"".join(b"\0" + random.randbytes(row) for _ in range(_SIDE))
    parts = ((b"IHDR", struct.pack(">2I5B", _SIDE, _SIDE, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(pixels, 1)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts)
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()

"""CRC32C, the checksum that Cloud Storage keeps of every object, at memory speed."""

import base64

import google_crc32c
import numpy as np
import numpy.typing as npt

Buffer = npt.NDArray[np.uint8]


def crc32c(data: bytes | Buffer, before: str = "00000000") -> str:
    """CRC32C in hex of `data`, or of what had the checksum `before` with `data` after it."""
    return f"{google_crc32c.extend(int(before, 16), data):08x}"


def from_base64(text: str) -> str:
    """Cloud Storage's form (base64 of four bytes) in hex."""
    return base64.b64decode(text).hex()

"""Small PNG pictures without an imaging library."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from hardpoint.core.errors import DataError

_COLOUR_TYPE = {1: 0, 3: 2}  # channels to the PNG code: grey, red-green-blue


def png(pixels: NDArray[np.uint8]) -> bytes:
    """The PNG file (ISO/IEC 15948, 8 bits, no filter) of ``[h, w]`` or ``[h, w, 1 or 3]`` pixels.

    Raises:
        DataError: for another shape, no pixels, or another type than uint8.

    >>> png(np.zeros((2, 2), np.uint8))[1:4]
    b'PNG'
    """
    image = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if image.ndim != 3 or image.shape[2] not in _COLOUR_TYPE or not image.size or image.dtype != np.uint8:
        raise DataError(
            f"{pixels.dtype} pixels of shape {pixels.shape} are no picture", "give uint8 [h, w] or [h, w, 3]"
        )
    height, width, channels = image.shape
    rows = np.ascontiguousarray(image).reshape(height, width * channels)
    unfiltered = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    head = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPE[channels], 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", head)
        + _chunk(b"IDAT", zlib.compress(unfiltered, 9))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """The picture as a ``data:`` address."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode("ascii")

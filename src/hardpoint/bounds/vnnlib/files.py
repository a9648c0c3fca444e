"""Files that hold a property, plain or packed, read without trusting them."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from hardpoint.bounds.vnnlib.property import Property
from hardpoint.bounds.vnnlib.reading import parse_vnnlib
from hardpoint.core.errors import DataError

MAX_BYTES = 1 << 28
"""The longest text that is read, unpacked."""


def read_vnnlib(path: str | Path) -> Property:
    """The property in a ``.vnnlib`` file, which may be packed by gzip.

    Raises:
        DataError: when the file cannot be read, is too large unpacked, or says what is not understood; with the line.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read {path}: {reason}", "check the path, or download it again") from None
    if len(content) > MAX_BYTES:
        raise DataError(f"{path} holds more than {MAX_BYTES} bytes", "split the property into several")
    return parse_vnnlib(content.decode("utf-8", "replace"), str(path))

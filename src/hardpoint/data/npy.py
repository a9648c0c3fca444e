"""numpy's ``.npy`` and ``.npz`` files. Pickled objects inside them are never read.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hardpoint.core.errors import DataError
from hardpoint.core.suggest import did_you_mean
from hardpoint.data.mapped import Block
from hardpoint.data.spool import SpoolFolder, copy_stream
from hardpoint.data.streams import read_errors, refuse_bomb

DEFAULT_KEYS = (("x", "y"), ("images", "labels"), ("X", "Y"), ("X", "y"))
_MAGIC = b"\x93NUMPY"
_MOST_HEADER = 10_000


def npy_block(path: Path, source: Path | None = None) -> Block:
    """The array in the ``.npy`` file ``path``; errors name ``source`` where that is what the user gave.

    Raises:
        DataError: for a damaged file, a claim that does not match the file's size, or anything but numbers.
    """
    source = source or path
    with read_errors(source), path.open("rb") as file:
        shape, fortran, dtype = _read_header(file, source)
        offset = file.tell()
        if dtype.hasobject:
            raise DataError(
                f"{source} holds pickled Python objects, which can run code when read",
                "store an array of numbers",
            )
        return Block(path, dtype.str, shape, offset, fortran).validate(source)


def _read_header(file: BinaryIO, source: Path) -> tuple[tuple[int, ...], bool, np.dtype[np.void]]:
    start = file.read(8)
    if len(start) < 8 or start[:6] != _MAGIC:
        raise DataError(f"{source} is not a .npy file", "write it with numpy.save")
    version = (start[6], start[7])
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"{source} has .npy version {version[0]}.{version[1]}", "save plain numbers again")
    width, code = (2, "<H") if version == (1, 0) else (4, "<I")
    size = file.read(width)
    length = struct.unpack(code, size)[0] if len(size) == width else -1
    # Held against a limit before it is read, as a claim of 4 GB would be believed otherwise.
    text = file.read(length) if 0 <= length <= _MOST_HEADER else b""
    try:
        if len(text) != length:
            raise ValueError("cut short or too long")
        header = io.BytesIO(size + text)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(header)
        else:
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(header)
    except Exception as error:  # a hostile header can make the parser fail in any way
        raise DataError(f"{source} has a bad .npy header ({error})", "write it with numpy.save") from None
    return shape, fortran, dtype


def npz_blocks(path: Path, keys: tuple[str, str] | None, spool: SpoolFolder) -> tuple[Block, Block]:
    """The inputs and the labels of an ``.npz`` file, unpacked to ``spool`` a piece at a time.

    Args:
        path: the file.
        keys: the names of the two arrays; by default the first pair of ``DEFAULT_KEYS`` that is there.
        spool: where the arrays go.

    Raises:
        DataError: for a missing array, a damaged file or one that would unpack to far more than it can hold.
    """
    with read_errors(path), zipfile.ZipFile(path) as archive:
        known = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
        if keys is None:
            keys = next((pair for pair in DEFAULT_KEYS if set(pair) <= set(known)), None)
        if keys is None:
            raise DataError(
                f"{path} holds the arrays {', '.join(known) or '(none)'}",
                "say which are the inputs and the labels: keys=('x', 'y')",
            )
        for key in keys:
            if key not in known:
                raise DataError(f"{path} has no array {key!r}", did_you_mean(key, known))
        x, y = (
            _unpack(archive, key, spool.path / f"{part}.npy", path)
            for key, part in zip(keys, ("x", "y"), strict=True)
        )
    return npy_block(x, path), npy_block(y, path)


def _unpack(archive: zipfile.ZipFile, key: str, target: Path, path: Path) -> Path:
    info = archive.getinfo(f"{key}.npy")
    refuse_bomb(path, info.file_size)
    try:
        with archive.open(info) as member:
            return copy_stream(member, target)  # type: ignore[arg-type]
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or packed in a way Python cannot read
        raise DataError(f"cannot unpack {key!r} from {path}: {error}", "write it with numpy.savez") from None

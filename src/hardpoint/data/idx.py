"""The idx format of MNIST, packed by gzip or not.

Format: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", section "File formats".
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from hardpoint.core.errors import DataError
from hardpoint.data.mapped import Block
from hardpoint.data.spool import SpoolFolder, copy_stream
from hardpoint.data.streams import is_gzip, open_stream, refuse_bomb

_TYPES = {0x08: "|u1", 0x09: "|i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_NAME = re.compile(r"[.-]idx\d?(-ubyte)?(\.gz)?$")


def is_idx_name(name: str) -> bool:
    """Whether a file is called like an idx file.

    >>> is_idx_name("t10k-images-idx3-ubyte.gz"), is_idx_name("train-images.idx3-ubyte"), is_idx_name("a.gz")
    (True, True, False)
    """
    return bool(_NAME.search(name))


def idx_block(path: Path, spool: SpoolFolder, part: str) -> Block:
    """The array in the idx file ``path``; a packed file is unpacked to ``spool`` under the name ``part``.

    Raises:
        DataError: for a bad magic number, a damaged file, or a size that does not match the header.
    """
    packed = is_gzip(path)
    with open_stream(path) as stream:
        magic = stream.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or not 1 <= magic[3] <= 4:
            raise DataError(
                f"{path} is not an idx file (it starts with {magic.hex(' ') or 'nothing'})",
                "give the images file of an idx pair, such as train-images-idx3-ubyte.gz",
            )
        sizes = stream.read(4 * magic[3])
        if len(sizes) < 4 * magic[3]:
            raise DataError(f"{path} is cut short", "copy it again")
        shape = struct.unpack(f">{magic[3]}I", sizes)
        block = Block(path, _TYPES[magic[2]], shape, offset=4 + len(sizes))
        if not packed:
            return block.validate(path)
        claimed = 1
        for size in (*shape, int(block.dtype[2])):
            claimed *= size
        refuse_bomb(path, claimed)
        unpacked = copy_stream(stream, spool.path / f"{part}.values")
    return Block(unpacked, block.dtype, shape).validate(path)


def labels_beside(path: Path) -> Path:
    """The labels file that goes with the images file ``path``, by the names MNIST uses.

    Raises:
        DataError: when there is none.
    """
    name = re.sub(r"images([.-])idx3", r"labels\1idx1", path.name)
    beside = path.with_name(name)
    if name == path.name or not beside.is_file():
        raise DataError(
            f"no labels were found beside {path}", "give their file: labels='…-labels-idx1-ubyte'"
        )
    return beside

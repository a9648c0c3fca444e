"""A place on disk for rows that came from a format without random access."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hardpoint.core.errors import DataError

_COPY_BYTES = 1 << 18
_OWNED: weakref.WeakValueDictionary[str, SpoolFolder] = weakref.WeakValueDictionary()


class SpoolFolder:
    """A temporary folder that lives as long as the process that made it holds a reference.

    A pickled copy in another process refers to the same folder without owning it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, parent: Path | None = None) -> SpoolFolder:
        """A new folder inside ``parent``, or where the system keeps temporary files."""
        if parent is not None and not parent.is_dir():
            raise DataError(f"the spool folder {parent} does not exist", "create it or give another")
        with write_errors(parent or Path(tempfile.gettempdir())):
            folder = cls(Path(tempfile.mkdtemp(prefix="hardpoint-", dir=parent)))
        weakref.finalize(folder, _remove, str(folder.path), os.getpid())
        _OWNED[str(folder.path)] = folder
        return folder

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.path),)


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked worker inherits the reference, not the folder
        shutil.rmtree(path, ignore_errors=True)


def _reopen(path: str) -> SpoolFolder:
    owned = _OWNED.get(path)
    return SpoolFolder(Path(path)) if owned is None else owned


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turns a full or read-only disk into ``DataError``."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror or error}", "free space or give another spool_dir"
        ) from None


def copy_stream(source: BinaryIO, target: Path) -> Path:
    """``source`` copied to the file ``target``, a piece at a time."""
    with write_errors(target):
        file = target.open("wb")
    with file:
        while piece := source.read(_COPY_BYTES):
            with write_errors(target):
                file.write(piece)
    return target


class NpyWriter:
    """Appends rows to a ``.npy`` file whose length is known only at the end."""

    def __init__(self, path: Path, dtype: DTypeLike, shape: tuple[int, ...] = ()) -> None:
        self.path, self.dtype, self.shape, self.count = path, np.dtype(dtype), shape, 0
        self._write_header("wb")

    def _write_header(self, mode: str) -> None:
        # numpy pads headers so that the first axis can grow in place
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.count, *self.shape),
        }
        with write_errors(self.path), self.path.open(mode) as file:
            np.lib.format.write_array_header_1_0(file, header)

    def append(self, rows: NDArray[Any]) -> None:
        """Add ``rows`` ``[m, *shape]``."""
        with write_errors(self.path), self.path.open("ab") as file:
            file.write(np.ascontiguousarray(rows, dtype=self.dtype).data)
        self.count += len(rows)

    def close(self) -> Path:
        """Finish the header; the path of the file."""
        self._write_header("r+b")
        return self.path

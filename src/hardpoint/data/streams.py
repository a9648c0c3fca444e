"""Reading files that may lie: packed or not, damaged or not, never more than the file can honestly hold."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from hardpoint.core.errors import DataError

FREE_BYTES = 1 << 28
"""A packed file may always unpack to this much."""
MOST_EXPANSION = 200
"""Beyond that, to at most this many times its size; real data seldom packs better than 20 to 1."""


def byte_cap(path: Path) -> int:
    """The most bytes the packed file ``path`` may unpack to."""
    return max(FREE_BYTES, MOST_EXPANSION * path.stat().st_size)


def refuse_bomb(path: Path, claimed: int) -> None:
    """Raises ``DataError`` when ``path`` claims to unpack to more than ``byte_cap``."""
    if claimed > byte_cap(path):
        raise DataError(
            f"{path} has {path.stat().st_size} bytes and claims to unpack to {claimed} or more",
            "if the file is to be trusted, unpack it yourself and give the unpacked file",
        )


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turns what low-level readers raise about ``path`` into ``DataError``."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is damaged or cut short ({error})", "copy or write it again") from None
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror or error}", "check the path and who may read it"
        ) from None


class _Bounded(io.RawIOBase):
    """The bytes of ``inner``, up to the cap of ``path``."""

    def __init__(self, inner: BinaryIO | gzip.GzipFile, path: Path) -> None:
        self._inner, self._path, self._read, self._cap = inner, path, 0, byte_cap(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._inner.read(len(buffer))
        buffer[: len(chunk)] = chunk
        self._read += len(chunk)
        if self._read > self._cap:
            refuse_bomb(self._path, self._read)
        return len(chunk)


def is_gzip(path: Path) -> bool:
    """Whether ``path`` starts like a gzip file, whatever its name."""
    with read_errors(path), path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def open_stream(path: Path) -> Iterator[BinaryIO]:
    """The unpacked bytes of ``path``, read front to back; errors of reading become ``DataError``."""
    packed = is_gzip(path)
    with read_errors(path), path.open("rb") as file:
        if not packed:
            yield file
            return
        with gzip.GzipFile(fileobj=file, mode="rb") as inner:
            yield io.BufferedReader(_Bounded(inner, path), buffer_size=1 << 16)

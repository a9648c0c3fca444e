"""Data in files: rows are read from disk when they are asked for, and only then."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardpoint.core.errors import DataError, NothingToTest
from hardpoint.data.dataset import checked_index, content_sha256, describe_dataset
from hardpoint.data.labels import to_labels
from hardpoint.data.reading import Reading
from hardpoint.data.spool import SpoolFolder

_LABEL_CHUNK = 1 << 16
_MOST_AXES = 8


@dataclass(frozen=True)
class Block:
    """An array of numbers inside a file.

    Args:
        path: the file.
        dtype: the stored type, byte order included, as numpy spells it.
        shape: the stored shape, rows first.
        offset: where the array starts, in bytes.
        fortran: whether the first axis varies fastest.
        count: how many of the rows are in use; all by default.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int = 0
    fortran: bool = False
    count: int | None = None

    def __len__(self) -> int:
        return self.shape[0] if self.count is None else self.count

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.shape[1:]

    def head(self, n: int) -> Block:
        """The first ``n`` rows, or all where there are fewer."""
        return replace(self, count=min(n, len(self)))

    def validate(self, source: Path) -> Block:
        """Itself, after the claims were held against the file's size; nothing is allocated.

        Raises:
            DataError: naming ``source``, when the type is not numbers or the file is longer or shorter than claimed.
        """
        kind = np.dtype(self.dtype)
        if kind.kind not in "buif":
            raise DataError(f"{source} holds values of type {kind}", "store real numbers")
        if not 1 <= len(self.shape) <= _MOST_AXES or min(self.shape) < 0:
            raise DataError(f"{source} claims the shape {self.shape}", "store one row per input")
        claimed = self.offset + math.prod(self.shape) * kind.itemsize
        size = self.path.stat().st_size
        if size != claimed:
            raise DataError(
                f"{source} claims {claimed} bytes for shape {self.shape} but has {size}",
                "the file is cut short or damaged; copy or write it again",
            )
        return self

    def read(self, index: NDArray[np.int64]) -> NDArray[Any]:
        """A copy of the rows ``index``."""
        try:
            # Mapped anew each time: no open file to send to workers, and no pages kept after the call.
            stored = np.memmap(
                self.path,
                dtype=self.dtype,
                mode="r",
                offset=self.offset,
                shape=self.shape,
                order="F" if self.fortran else "C",
            )
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.path} can no longer be read ({error})", "leave data files in place during a run"
            ) from None
        return np.asarray(stored[index])  # indexing by an array copied the rows


@dataclass(frozen=True, eq=False)
class MappedDataset:
    """Inputs and labels in two blocks; built by ``map_blocks``."""

    x: Block
    y: Block
    reading: Reading
    name: str
    kind: str
    source: str
    features: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    spool: SpoolFolder | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.reading.shape(self.x.row_shape)

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        at = checked_index(index, len(self)).numpy()
        labels = self.y.read(at).astype(np.int64).reshape(len(at))
        return self.reading.apply(self.x.read(at)), torch.from_numpy(labels)

    def sha256(self) -> str:
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        return content_sha256(self)

    def origin(self) -> dict[str, Any]:
        """The kind, the source and how values were read."""
        return {"kind": self.kind, "source": self.source, "reading": self.reading.describe()}

    def describe(self) -> dict[str, Any]:
        return describe_dataset(self, self.reading.dtype, self.origin())


def map_blocks(
    x: Block,
    y: Block,
    *,
    reading: Reading,
    path: Path,
    kind: str,
    name: str | None = None,
    limit: int | None = None,
    features: tuple[str, ...] | None = None,
    classes: tuple[str, ...] | None = None,
    spool: SpoolFolder | None = None,
) -> MappedDataset:
    """A dataset of two blocks, its labels checked in one pass.

    Raises:
        NothingToTest: when there is no row.
        DataError: when the lengths differ or a label is not a class; names the row.
    """
    if len(x) != len(y):
        raise DataError(f"{path} has {len(x)} inputs but {len(y)} labels", "give one label per input")
    if len(x) == 0:
        raise NothingToTest(f"{path} holds no rows", "give at least one input")
    if math.prod(x.row_shape) == 0:
        raise DataError(f"inputs of {path} have shape {x.row_shape}: no value", "store at least one feature")
    if limit is not None:
        x, y = x.head(limit), y.head(limit)
    count = None if classes is None else len(classes)
    for start in range(0, len(y), _LABEL_CHUNK):
        values = y.read(np.arange(start, min(start + _LABEL_CHUNK, len(y))))
        to_labels(values, source=str(path), first_row=start, num_classes=count)
    return MappedDataset(x, y, reading, name or path.name, kind, path.name, features, classes, spool)

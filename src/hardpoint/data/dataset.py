"""The face every set of labelled inputs shows to the rest of Hardpoint."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from hardpoint.core.errors import DataError

CHUNK_VALUES = 1 << 18
"""Most numbers of ``x`` that a pass over the data holds at once, unless one input alone has more."""


@runtime_checkable
class Dataset(Protocol):
    """Labelled inputs with random access to any rows.

    A dataset can be pickled and is cheap to send to another process: it holds paths where the rows are in files.
    """

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        ...

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes in label order, where known."""
        ...

    @property
    def features(self) -> tuple[str, ...] | None:
        """The names of the columns, where an input is a row of a table."""
        ...

    def __len__(self) -> int: ...

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` float ``[m, *shape]`` and ``y`` int64 ``[m]`` of the rows ``index`` (int64 ``[m]``), in that order."""
        ...

    def sha256(self) -> str:
        """SHA-256 of the content: the same rows have the same hash, whichever format held them."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-ready: name, kind, n, shape, dtype, sha256, source, features, classes and how values were read."""
        ...


def row_chunks(dataset: Dataset, rows: int = 1024) -> Iterator[Tensor]:
    """All row numbers in order, in int64 pieces of at most ``rows``, fewer where inputs are large."""
    step = max(1, min(rows, CHUNK_VALUES // max(1, math.prod(dataset.shape))))
    for start in range(0, len(dataset), step):
        yield torch.arange(start, min(start + step, len(dataset)))


def content_sha256(dataset: Dataset) -> str:
    """SHA-256 over the dtype, the shape and the bytes of all inputs, then of all labels; one pass, in chunks."""
    inputs, labels, dtype = hashlib.sha256(), hashlib.sha256(), None
    for index in row_chunks(dataset):
        x, y = dataset.rows(index)
        dtype = x.dtype
        inputs.update(x.contiguous().flatten().view(torch.uint8).numpy().data)
        labels.update(y.contiguous().numpy().data)
    whole = hashlib.sha256(f"{dtype}:{len(dataset)}:{tuple(dataset.shape)};".encode())
    whole.update(inputs.digest() + labels.digest())
    return whole.hexdigest()


def describe_dataset(dataset: Dataset, dtype: torch.dtype, origin: dict[str, Any]) -> dict[str, Any]:
    """What ``Dataset.describe`` returns; ``origin`` adds the kind, the source and how values were read."""
    return {
        "name": dataset.name,
        **origin,
        "n": len(dataset),
        "shape": list(dataset.shape),
        "dtype": str(dtype).removeprefix("torch."),
        "sha256": dataset.sha256(),
        "features": None if dataset.features is None else list(dataset.features),
        "classes": None if dataset.classes is None else list(dataset.classes),
    }


def checked_index(index: Tensor, n: int) -> Tensor:
    """``index`` as int64 on the CPU.

    Raises:
        DataError: when it is not a vector of whole numbers in ``[0, n)``.
    """
    if index.dim() != 1 or index.is_floating_point() or index.dtype == torch.bool:
        raise DataError(
            f"row numbers of shape {tuple(index.shape)} and type {index.dtype}", "give an int64 vector"
        )
    index = index.to("cpu", torch.int64)
    outside = (index < 0) | (index >= n)
    if bool(outside.any()):
        raise DataError(f"row {int(index[outside][0])} does not exist", f"rows run from 0 to {n - 1}")
    return index

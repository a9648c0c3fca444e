"""Data that is already in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardpoint.core.errors import DataError, NothingToTest
from hardpoint.data.dataset import checked_index, content_sha256, describe_dataset
from hardpoint.data.labels import to_labels


class MemoryDataset:
    """Tensors or arrays as a dataset. They are not copied where that can be helped: do not change them afterwards.

    Args:
        x: ``[n, ...]`` numbers, in the model's input range; whole numbers become float32.
        y: ``[n]`` or ``[n, 1]`` labels, whole numbers from 0.
        name: what reports call it.
        features: names of the columns, where ``x`` is ``[n, d]``.
        classes: names of the classes in label order.
        origin: more entries for ``describe()``, such as where the rows came from.

    Raises:
        NothingToTest: when there is no row.
        DataError: for anything that is not numbers, lengths that differ, or a label that is not a class.

    >>> data = MemoryDataset([[0.0, 0.5], [1.0, 0.25]], [0, 1])
    >>> data.rows(torch.tensor([1]))
    (tensor([[1.0000, 0.2500]]), tensor([1]))
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        name: str = "memory",
        features: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.features = None if features is None else tuple(str(f) for f in features)
        self.classes = None if classes is None else tuple(str(c) for c in classes)
        self._origin = {"kind": "memory", "source": None, **(origin or {})}
        self._x = _numbers(x)
        labels = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
        if labels.shape[:1] != self._x.shape[:1]:
            raise DataError(
                f"there are {len(self._x)} inputs but {labels.shape[0] if labels.ndim else 'no'} labels",
                "give one label per input",
            )
        if len(self._x) == 0:
            raise NothingToTest("there are no inputs", "give at least one row")
        if self._x.numel() == 0:
            raise DataError(f"inputs of shape {self.shape} hold no value", "give at least one feature")
        if self.features is not None and self.shape != (len(self.features),):
            raise DataError(
                f"{len(self.features)} feature names for inputs of shape {self.shape}",
                "give one name per column",
            )
        count = None if self.classes is None else len(self.classes)
        self._y = torch.from_numpy(to_labels(labels, source="the data", num_classes=count))

    def __len__(self) -> int:
        return len(self._x)

    @property
    def x(self) -> Tensor:
        """All inputs, ``[n, ...]``."""
        return self._x

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._x.shape[1:])

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        index = checked_index(index, len(self))
        return self._x[index], self._y[index]

    def sha256(self) -> str:
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        return content_sha256(self)

    def origin(self) -> dict[str, Any]:
        """The kind, the source and how values were read."""
        return dict(self._origin)

    def describe(self) -> dict[str, Any]:
        return describe_dataset(self, self._x.dtype, self.origin())


def _numbers(x: Any) -> Tensor:
    if isinstance(x, Tensor):
        if x.is_complex() or x.dim() == 0:
            raise DataError(f"inputs are a {x.dtype} of shape {tuple(x.shape)}", "give real numbers [n, ...]")
        held: Tensor = x.detach().cpu()
        return held if held.is_floating_point() else held.to(torch.float32)
    try:
        array = np.asarray(x)
    except ValueError:  # nested lists of different lengths
        raise DataError("inputs have different shapes", "give them all one shape") from None
    if array.dtype.kind not in "buif" or array.ndim == 0:
        raise DataError(
            f"inputs are of type {array.dtype} and shape {array.shape}", "give real numbers [n, ...]"
        )
    kept = array.dtype.kind == "f" and array.dtype.itemsize <= 8
    # Lists hold Python floats; float32 is what models are made of.
    wanted = array.dtype.newbyteorder("=") if kept and hasattr(x, "dtype") else np.dtype(np.float32)
    # torch needs native, forward-strided, writeable memory
    return torch.from_numpy(np.require(array.astype(wanted, copy=False), requirements=["C", "W"]))

"""Labels: whole numbers from 0, one per input."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardpoint.core.errors import DataError


def to_labels(
    values: NDArray[Any], *, source: str, first_row: int = 0, num_classes: int | None = None
) -> NDArray[np.int64]:
    """``values`` ``[n]`` or ``[n, 1]`` as int64 ``[n]``; floats that are whole numbers are accepted.

    Args:
        values: numbers of any type.
        source: what holds them, for the error.
        first_row: the row number of ``values[0]``, for the error.
        num_classes: labels must be below it, where given.

    Raises:
        DataError: naming the first row whose label is not a whole number in ``[0, num_classes)``.

    >>> to_labels(np.array([0.0, 2.0]), source="the labels")
    array([0, 2])
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(
            f"the labels of {source} have shape {values.shape}",
            "give one whole number per input; argmax(1) turns one-hot rows into them",
        )
    if values.dtype.kind not in "buif":
        raise DataError(f"the labels of {source} are of type {values.dtype}", "give whole numbers from 0")

    def refuse(bad: NDArray[np.bool_], why: str, cure: str) -> None:
        if bad.any():
            at = int(bad.argmax())
            raise DataError(f"row {first_row + at} of {source} has label {values[at].item()}, {why}", cure)

    if values.dtype.kind == "f":
        whole = np.isfinite(values) & (np.floor(values) == values)
        refuse(~whole, "which is not a whole number", "give each class a number from 0")
    if values.dtype.kind != "b":
        refuse(values < 0, "which is negative", "number the classes from 0")
        refuse(values > np.iinfo(np.int32).max, "which is too large", "number the classes from 0")
    if num_classes is not None:
        refuse(
            values >= num_classes,
            f"but there are {num_classes} classes",
            f"number the classes from 0 to {num_classes - 1}",
        )
    return values.astype(np.int64)

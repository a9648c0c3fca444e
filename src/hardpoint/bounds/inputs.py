"""What every certificate asks of its inputs and labels before it says anything about them."""

from __future__ import annotations

import torch
from torch import Tensor

from hardpoint.core.box import UNBOUNDED, Box
from hardpoint.core.errors import DataError
from hardpoint.core.rows import all_finite


def refuse_inputs(x: object, box: Box = UNBOUNDED) -> None:
    """Raise where ``x`` is not a tensor of finite floats ``[n, ...]``, all inside ``box``.

    Raises:
        DataError: naming the first row that is not.

    >>> refuse_inputs(torch.tensor([[0.5], [1.5]]), Box(0, 1))
    Traceback (most recent call last):
    hardpoint.core.errors.DataError: row 1 lies outside the input range; scale the inputs into it
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2:
        said = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise DataError(f"inputs are {said}", "give a tensor of floats [n, ...]")
    if not len(x):
        return
    if 0 in x.shape:
        raise DataError(f"inputs have the shape {tuple(x.shape)}", "give at least one number per input")
    if not all_finite(x):
        row = int((~x.isfinite()).flatten(1).any(1).nonzero()[0])
        raise DataError(f"row {row} holds NaN or infinity", "drop or impute it")
    outside = (~box.contains(x)).nonzero().flatten()
    if len(outside):
        raise DataError(f"row {int(outside[0])} lies outside the input range", "scale the inputs into it")


def refuse_labels(y: object, n: int) -> None:
    """Raise where ``y`` is not one whole number of 0 or more for each of ``n`` inputs.

    Raises:
        DataError: saying what it is instead.

    >>> refuse_labels(torch.tensor([0, 2]), 2)
    """
    if not isinstance(y, Tensor):
        raise DataError(f"labels are {type(y).__name__}", "give a tensor")
    if y.dim() != 1 or len(y) != n:
        raise DataError(
            f"there are {n} inputs and labels of shape {tuple(y.shape)}", "give one label per input"
        )
    if y.is_floating_point() or y.is_complex() or y.dtype is torch.bool:
        raise DataError(f"labels are {y.dtype}", "give int64 class numbers")
    if n and int(y.min()) < 0:
        raise DataError("there is a label below 0", "give int64 class numbers")

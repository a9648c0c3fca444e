"""Selecting and joining rows of dataclasses whose tensors share a leading batch axis.

Attack states and regions are such dataclasses; the engine drops finished inputs from them and lets new
ones in without knowing what they hold. Fields that are not tensors (settings) are shared by all rows.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
_FEW = 256  # numbers that Python looks at in less time than it takes to call for their sum


def take_rows(rows: T, keep: Tensor) -> T:
    """The rows ``keep`` (an index tensor) of every tensor field, nested dataclasses included."""
    return _map(rows, lambda values: values[0].index_select(0, keep), [rows])


def cat_rows(first: T, second: T) -> T:
    """All rows of ``first``, then all rows of ``second``."""
    return _map(first, torch.cat, [first, second])


def put_rows(rows: T, where: Tensor, new: T) -> T:
    """``rows`` with the rows ``where`` (an index tensor) replaced by those of ``new``, in order."""
    return _map(rows, lambda pair: pair[0].index_copy(0, where, pair[1]), [rows, new])


def _map(template: T, join: Any, sources: list[T]) -> T:
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(template):  # type: ignore[arg-type]
        value = getattr(template, field.name)
        if isinstance(value, Tensor):
            changes[field.name] = join([getattr(s, field.name) for s in sources])
        elif dataclasses.is_dataclass(value) and not isinstance(value, type) and _has_rows(value):
            changes[field.name] = _map(value, join, [getattr(s, field.name) for s in sources])
    return dataclasses.replace(template, **changes)  # type: ignore[type-var]


def _has_rows(value: Any) -> bool:
    return bool(getattr(type(value), "HAS_ROWS", False))


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """``values`` ``[n]`` viewed as ``[n, 1, …]`` so that it broadcasts against ``like``."""
    return values.view(-1, *([1] * (like.dim() - 1)))


def all_finite(values: Tensor) -> bool:
    """Whether no number is NaN or infinite. A finite sum says so in one pass; only where it is not is each looked at.

    >>> all_finite(torch.tensor([3e38, 3e38])), all_finite(torch.tensor([0.0, torch.inf]))
    (True, False)
    """
    if values.numel() <= _FEW:
        return all(map(math.isfinite, values.reshape(-1).tolist()))
    return math.isfinite(float(values.detach().sum())) or bool(torch.isfinite(values).all())


def chunks(x: Tensor, size: int) -> list[Tensor]:
    """``x`` cut along its first axis into parts of at most ``size`` rows."""
    return [x] if 0 < len(x) <= size else [x[start : start + size] for start in range(0, len(x), size)]

"""Operators that move elements without changing them: reshaping, joining, slicing, indexing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_ELEMENTS = 1 << 26
"""A tensor that a graph makes from a shape alone may not be larger: a tiny file must not fill the memory."""


def _ints(values: Any) -> list[int]:
    return [int(v) for v in (values.tolist() if isinstance(values, Tensor) else values)]


def reshape(x: Tensor, shape: Any, *, allowzero: int = 0) -> Tensor:
    """``x`` in another shape; 0 keeps an axis, -1 takes what is left."""
    target = _ints(shape)
    if not allowzero:
        target = [x.shape[i] if size == 0 else size for i, size in enumerate(target)]
    return x.reshape(target)


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """``x`` as a matrix, split before ``axis``."""
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def squeeze(x: Tensor, axes: Any = None) -> Tensor:
    """``x`` without the axes of length 1 (all of them, or ``axes``)."""
    return x.squeeze() if axes is None else x.squeeze(tuple(_ints(axes)))


def unsqueeze(x: Tensor, axes: Any) -> Tensor:
    """``x`` with axes of length 1 at the places ``axes`` of the result."""
    chosen = _ints(axes)
    rank = x.dim() + len(chosen)
    for axis in sorted(a % rank for a in chosen):
        x = x.unsqueeze(axis)
    return x


def transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    """``x`` with its axes in the order ``perm``; reversed by default."""
    return x.permute(tuple(perm) if perm is not None else tuple(reversed(range(x.dim()))))


def concat(*parts: Tensor, axis: int) -> Tensor:
    """The parts side by side; a part stored for one row is repeated for every row."""
    rank = parts[0].dim()
    rows = max(part.shape[0] for part in parts) if rank else 1
    if axis % max(rank, 1) != 0:
        parts = tuple(
            part.expand(rows, *part.shape[1:]) if part.shape[0] == 1 and rows > 1 else part for part in parts
        )
    return torch.cat(parts, axis)


def split(
    x: Tensor, split: Any = None, *, axis: int = 0, num_outputs: int | None = None
) -> tuple[Tensor, ...]:
    """Pieces of ``x`` along ``axis``, of the given lengths or equal."""
    if split is not None:
        lengths = _ints(split)
    else:
        length = math.ceil(x.shape[axis] / (num_outputs or 1))
        lengths = [min(length, x.shape[axis] - start) for start in range(0, x.shape[axis], length)]
    return tuple(x.narrow(axis, sum(lengths[:i]), length) for i, length in enumerate(lengths))


def slice_(x: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    """The elements from ``starts`` to ``ends`` (excluded) of the given axes."""
    begins, stops = _ints(starts), _ints(ends)
    chosen = _ints(axes) if axes is not None else list(range(len(begins)))
    strides = _ints(steps) if steps is not None else [1] * len(begins)
    for axis, begin, stop, step in zip(chosen, begins, stops, strides, strict=True):
        places = range(*slice(begin, stop, step).indices(x.shape[axis]))
        if step > 0:
            if len(places) == x.shape[axis]:
                continue
            begin, stop = (places[0], places[-1] + 1) if places else (0, 0)
            window: list[slice] = [slice(None)] * (axis % x.dim()) + [slice(begin, stop, step)]
            x = x[tuple(window)]
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64, device=x.device))
    return x


def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """The elements ``indices`` of ``axis``, in the shape of ``indices``."""
    axis = axis % x.dim()
    wrapped = torch.where(indices < 0, indices + x.shape[axis], indices)
    picked = x.index_select(axis, wrapped.flatten())
    return picked.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def expand(x: Tensor, shape: Any) -> Tensor:
    """``x`` repeated so that it has at least ``shape``."""
    target = np.broadcast_shapes(tuple(x.shape), tuple(_ints(shape)))
    _check_size(target)
    return x.expand(target)


def constant_of_shape(shape: Any, *, value: Tensor | None = None) -> Tensor:
    """A tensor of one value."""
    sizes = _ints(shape)
    _check_size(sizes)
    return (torch.zeros(1) if value is None else value).reshape(1).expand(math.prod(sizes)).reshape(sizes)


def shape_of(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """The lengths of the axes of ``x``, int64."""
    return torch.tensor(tuple(x.shape)[start:end], dtype=torch.int64, device=x.device)


def _check_size(shape: Sequence[int]) -> None:
    if math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"a tensor of shape {tuple(shape)} is larger than {MAX_ELEMENTS} elements")


SHAPES: dict[str, Callable[..., Any]] = {
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Gather": gather,
    "Expand": expand,
    "ConstantOfShape": constant_of_shape,
    "Shape": shape_of,
    "Identity": lambda x: x,
}

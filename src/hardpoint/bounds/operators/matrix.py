"""Products of values with constant matrices."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import Tensor

from hardpoint.bounds.operators.affine import Linear, Weighted
from hardpoint.bounds.operators.call import Call, Readers, Wire
from hardpoint.bounds.operators.operator import Live


@dataclass(frozen=True)
class FromRight:
    """``x W^T`` for stacked matrices ``W`` ``[..., m, k]``; ``Linear`` is that of a single one."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = torch.matmul(x, weight.transpose(-1, -2))
        return out if bias is None else out + bias

    def transposed(self, rows: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        return torch.matmul(rows, weight).sum_to_size(len(rows), *shape)


@dataclass(frozen=True)
class FromLeft:
    """``W x`` for one matrix ``W`` ``[m, k]`` or stacked ones ``[..., m, k]``."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = torch.matmul(weight, x)
        return out if bias is None else out + bias

    def transposed(self, rows: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        return torch.matmul(weight.transpose(-1, -2), rows).sum_to_size(len(rows), *shape)


def _product(call: Call) -> Weighted:
    first, second = call.bound("input", "other")
    if isinstance(first, Wire) and isinstance(second, Wire):
        raise call.unknown("both factors depend on the input")
    held: Live = second if isinstance(first, Wire) else first
    axes = held().dim()
    if axes < 2 or len(call.taken) < (1 if isinstance(first, Wire) else 2):
        raise call.unknown("a factor is no matrix")
    if not isinstance(first, Wire):
        return Weighted(FromLeft(), held, None)
    return Weighted(Linear() if axes == 2 else FromRight(), lambda: held().transpose(-1, -2), None)


READERS = Readers(
    functions=dict.fromkeys(
        (operator.matmul, torch.matmul, torch.bmm, torch.mm, "matmul", "mm", "bmm"), _product
    )
)

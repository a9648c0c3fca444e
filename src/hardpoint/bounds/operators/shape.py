"""Operators that keep values and their order: flatten, reshape, joining, and layers that do nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hardpoint.bounds.operators.call import Call, Readers, Wire
from hardpoint.bounds.operators.operator import Live, Rising, UnknownOperator


@dataclass(frozen=True)
class Same(Rising):
    """The value itself."""

    is_affine = True

    def value(self, *x: Tensor) -> Tensor:
        return x[0]


@dataclass(frozen=True)
class Reshaped(Rising):
    """The elements of each input in another shape; their order stays.

    Attributes:
        shape: of one input.
    """

    shape: tuple[int, ...]
    is_affine = True

    def value(self, *x: Tensor) -> Tensor:
        return x[0].reshape(len(x[0]), *self.shape)


@dataclass(frozen=True)
class Joined(Rising):
    """Several values behind one another.

    Attributes:
        axis: along which; the batch is axis 0.
        constants: each part that is no value but a constant, ``[1, ...]``; None where a value comes. Values alone if
            empty.
    """

    axis: int
    constants: tuple[Live | None, ...] = ()
    is_affine = True

    def value(self, *x: Tensor) -> Tensor:
        if not self.constants:
            return torch.cat(x, self.axis)
        values = iter(x)
        parts = [next(values) if held is None else _repeated(held(), len(x[0])) for held in self.constants]
        return torch.cat(parts, self.axis)


def _repeated(constant: Tensor, rows: int) -> Tensor:
    return constant.expand(rows, *constant.shape[1:])


def _reshaped(call: Call, *_: Any) -> Reshaped:
    """Whatever the call says: the first axis, as the tracing has seen with two sizes, is the batch before and after,
    so each input's elements stay its own and in order."""
    return Reshaped(call.shape)


def _joined(call: Call) -> Joined:
    parts, axis = call.bound("tensors", "dim", dim=0)
    if not isinstance(parts, tuple | list) or not all(isinstance(part, Wire) for part in parts):
        raise call.unknown("a joined part does not depend on the input")
    axis = axis % (len(call.shape) + 1)
    if axis == 0:
        raise call.unknown("it joins along the batch")
    return Joined(axis)


def _same(call: Call, *_: Any) -> Same:
    return Same()


def _dropout_layer(call: Call, layer: Any) -> Same:
    return _dropout(call, layer.p if layer.training else 0.0)


def _dropout_function(call: Call) -> Same:
    p, training, _ = call.plain("input", "p", "training", "inplace", p=0.5, training=True, inplace=False)
    return _dropout(call, p if training else 0.0)


def _dropout(call: Call, p: float) -> Same:
    if p > 0:
        raise UnknownOperator(
            f"{call.what} draws at random while the network learns, {call.place}",
            "set its p to 0 for certified training, or call model.eval() to bound the trained network",
        )
    return Same()


READERS = Readers(
    layers={
        nn.Identity: _same,
        nn.Flatten: _reshaped,
        nn.Unflatten: _reshaped,
        **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d), _dropout_layer),
    },
    functions={
        **dict.fromkeys((torch.flatten, torch.reshape, "flatten", "reshape", "view"), _reshaped),
        **dict.fromkeys((torch.squeeze, torch.unsqueeze, "squeeze", "unsqueeze", "unflatten"), _reshaped),
        **dict.fromkeys((torch.cat, torch.concat), _joined),
        "contiguous": _same,
        nn.functional.dropout: _dropout_function,
    },
)

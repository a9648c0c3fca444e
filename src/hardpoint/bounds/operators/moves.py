"""Operators that put elements in other places: slices, transposes, repetitions. Exact, and affine."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hardpoint.bounds.operators.call import Call, Readers, Wire
from hardpoint.bounds.operators.operator import Operator, Rising
from hardpoint.bounds.operators.shape import Reshaped

Move = Callable[..., Any]
"""Makes a tensor of some elements of its first argument, by the settings that follow."""


@dataclass(frozen=True, eq=False)
class Moved(Rising):
    """Each element of the value is one of the input.

    Attributes:
        places: int64, of the shape of one input's value: where each element stands in the flattened input.
    """

    places: Tensor
    is_affine = True

    def value(self, *x: Tensor) -> Tensor:
        return _flat(x[0])[:, self.places.to(x[0].device)]

    def transposed(self, rows: Tensor, shape: torch.Size) -> Tensor:
        places = self.places.to(rows.device).flatten()
        flat = rows.new_zeros(len(rows), shape.numel()).index_add(1, places, _flat(rows))
        return flat.view(len(rows), *shape)


def _flat(x: Tensor) -> Tensor:
    return x.reshape(len(x), math.prod(x.shape[1:]))


def moved(function: Move, call: Call, *settings: Any, **named: Any) -> Operator:
    """The move that ``function`` makes of one input, found by giving it the numbers of the elements of two.

    Raises:
        UnknownOperator: where it mixes inputs, or does anything but move.
    """
    size = torch.Size(call.taken).numel()
    numbers = torch.arange(2 * size).view(2, *call.taken)
    try:
        found = function(numbers, *settings, **named)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise call.unknown(str(error).splitlines()[0]) from None
    if not isinstance(found, Tensor) or found.shape != (2, *call.shape) or found.dtype != torch.int64:
        raise call.unknown("it does not keep the inputs of a batch apart")
    places, other = _flat(found)
    if bool((places < 0).any() | (places >= size).any()) or not torch.equal(other, places + size):
        raise call.unknown("it does not keep the inputs of a batch apart")
    if torch.equal(places, numbers[0].flatten()):
        return Reshaped(call.shape)
    return Moved(places.view(call.shape).clone())


def move(function: Move) -> Callable[[Call], Operator]:
    """How calls of ``function`` are read."""

    def read(call: Call) -> Operator:
        first = call.args[0] if call.args else None
        if not isinstance(first, Wire):
            raise call.unknown("what it moves is given by name")
        settings = [_setting(call, part) for part in call.args[1:]]
        return moved(
            function, call, *settings, **{key: _setting(call, part) for key, part in call.kwargs.items()}
        )

    return read


def _setting(call: Call, value: Any) -> Any:
    """A setting as it is; whole numbers of the network, such as an index, as they are now."""
    if isinstance(value, tuple | list):
        return type(value)(_setting(call, part) for part in value)
    ends = (value.start, value.stop, value.step) if isinstance(value, slice) else (value,)
    if any(isinstance(part, Wire) or (part is not value and callable(part)) for part in ends):
        raise call.unknown("its settings depend on the input")
    if not callable(value):
        return value
    held = value()
    if held.is_floating_point() or held.is_complex():
        raise call.unknown("its settings are no whole numbers")
    return held.cpu()


_MOVES: dict[Callable[..., Any] | str, Move] = {
    operator.getitem: operator.getitem,
    **dict.fromkeys((torch.permute, "permute"), torch.Tensor.permute),
    **dict.fromkeys((torch.transpose, "transpose", torch.swapaxes, "swapaxes"), torch.Tensor.transpose),
    **dict.fromkeys((torch.movedim, "movedim"), torch.Tensor.movedim),
    **dict.fromkeys((torch.narrow, "narrow"), torch.Tensor.narrow),
    **dict.fromkeys((torch.select, "select"), torch.Tensor.select),
    **dict.fromkeys((torch.index_select, "index_select"), torch.Tensor.index_select),
    **dict.fromkeys((torch.flip, "flip"), torch.Tensor.flip),
    **dict.fromkeys((torch.roll, "roll"), torch.Tensor.roll),
    functional.pixel_shuffle: functional.pixel_shuffle,
    functional.pixel_unshuffle: functional.pixel_unshuffle,
    "expand": torch.Tensor.expand,
    "repeat": torch.Tensor.repeat,
}
READERS = Readers(functions={function: move(made) for function, made in _MOVES.items()})

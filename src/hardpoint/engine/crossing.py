"""Ways for a gradient to cross a layer that has none of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, fx, nn

from hardpoint.core.errors import ModelError
from hardpoint.core.rng import Rng
from hardpoint.core.rows import per_row
from hardpoint.engine.layer_calls import LayerCall, first_tensor, with_tensor

_DIRECTIONS = 64
_ALIKE = 0.1  # the least cosine between changes of input and output for the identity to stand in


class CrossingKind(Enum):
    """``IDENTITY``: the output's gradient is the input's. ``SMOOTHED``: that of the layer averaged over noise."""

    IDENTITY = "identity"
    SMOOTHED = "smoothed"


@dataclass(frozen=True)
class Crossing:
    """How a layer is crossed; ``width`` is the noise's standard deviation, in the units of the layer's input."""

    kind: CrossingKind
    width: float = 0.0


def crossing_for(call: LayerCall) -> Crossing:
    """The identity for a layer whose output has its input's shape and moves with it, else smoothing over half of
    the spread of its inputs."""
    z = call.given
    answer = call.answer(z)
    if answer.shape == z.shape:
        way, change = (z.roll(1, 0) - z).double(), (answer.roll(1, 0) - answer).double()
        length = float(way.norm() * change.norm())
        if length > 0 and float((way * change).sum()) / length > _ALIKE:
            return Crossing(CrossingKind.IDENTITY)
    spread = float(z.double().std(0, unbiased=False).mean())
    return Crossing(CrossingKind.SMOOTHED, 0.5 * spread if spread > 0 else 0.1)


class StraightThrough(nn.Module):
    """``inner``, with the same output and another gradient. Its attributes can be read through it."""

    def __init__(self, inner: nn.Module, crossing: Crossing) -> None:
        super().__init__()
        self.inner, self.crossing = inner, crossing
        self.training = inner.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(value, fx.Proxy) for value in (*args, *kwargs.values())):
            # a traced graph would hold what the inner layer does, and lose the other gradient without a word
            raise ModelError("a straight-through layer cannot be traced", "use the module as it is")
        place, z = first_tensor(args, kwargs)
        if z is None or not z.requires_grad or not torch.is_grad_enabled():
            return self.inner(*args, **kwargs)
        with torch.no_grad():
            output = self.inner(*args, **kwargs)
        head = output[0] if isinstance(output, tuple | list) else output
        if self.crossing.kind is CrossingKind.IDENTITY:
            crossed = _Identity.apply(z, head)  # type: ignore[no-untyped-call]
        else:

            def again(point: Tensor) -> Tensor:
                others, named = with_tensor(args, kwargs, place, point)
                answer = self.inner(*others, **named)
                first: Tensor = answer[0] if isinstance(answer, tuple | list) else answer
                return first

            crossed = _Smoothed.apply(z, head, again, self.crossing.width)  # type: ignore[no-untyped-call]
        return (crossed, *output[1:]) if isinstance(output, tuple | list) else crossed

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "inner" or name.startswith("__"):
                raise
            return getattr(self.inner, name)


class _Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, output: Tensor) -> Tensor:
        ctx.dtype = z.dtype
        return output.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.to(ctx.dtype), None


class _Smoothed(torch.autograd.Function):
    """The mean over directions ξ of ξ (f(z + σξ) - f(z - σξ)) / 2σ, which is the gradient of f smoothed over σ.

    The directions are rows of a Hadamard matrix under random signs: of up to ``_DIRECTIONS`` dimensions they are a
    whole basis, and for a layer that treats numbers one by one nothing is left to chance. The signs follow from a row's
    own numbers, so that they change from step to step and nothing depends on the batch."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, output: Tensor, again: Any, width: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.again, ctx.width = again, width
        return output.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (z,) = ctx.saved_tensors
        total = torch.zeros_like(z)
        shape = tuple(z.shape[1:])
        rows = hadamard_rows(math.prod(shape), _DIRECTIONS).to(z)
        signs = Rng(0).fork("smoothed").sign(_fingerprints(z), shape, dtype=z.dtype)
        with torch.no_grad():
            for row in rows:
                direction = row.view(shape) * signs
                step = ctx.width * direction
                change = ctx.again(z + step) - ctx.again(z - step)
                total += per_row((change * gradient).flatten(1).sum(1), z) * direction
        return total / (2 * ctx.width * len(rows)), None, None, None


def hadamard_rows(size: int, most: int) -> Tensor:
    """float32 ``[m, size]`` of ±1: rows of Sylvester's matrix cut to ``size``, spread over it; all of them where there
    are ``most`` or fewer.

    >>> hadamard_rows(2, 8)
    tensor([[ 1.,  1.],
            [ 1., -1.]])
    """
    order = 1 << max(0, (size - 1).bit_length())
    count = min(order, most)
    # consecutive columns would leave rows that differ in their coarsest pattern far from orthogonal
    columns = torch.arange(size) * (int(0.618 * order) | 1) % order
    bits = (torch.arange(count) * (order // count)).unsqueeze(1) & columns
    for shift in (32, 16, 8, 4, 2, 1):  # the parity of the bits that are set
        bits = bits ^ (bits >> shift)
    return 1.0 - 2.0 * (bits & 1).to(torch.float32)


def _fingerprints(z: Tensor) -> Tensor:
    """int64 ``[n]``: a number that follows from all the bits of a row. Integer sums do not depend on their order."""
    whole = z.detach().flatten(1).to(torch.float32).contiguous().view(torch.int32).to(torch.int64)
    factors = 2 * Rng(0).fork("fingerprint").integers(torch.arange(whole.shape[1]), 2**31) + 1
    return (whole * factors.to(whole.device)).sum(1)

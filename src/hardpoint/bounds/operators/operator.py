"""What every operator of a network's graph is, and the interval that passes through it.

Rounding. Bounds are computed in floating point. An interval that is ``outward`` widens at every operator by more than
what its arithmetic can have rounded away, so that it holds for the network in exact arithmetic: a sum of ``n``
products errs by at most ``γ_n Σ|a||b|`` with ``γ_n = n u / (1 - n u)``, whatever the order of summation (Higham,
"Accuracy and stability of numerical algorithms", section 3.1). That is so for products that are summed as such, as
torch's float64 convolutions on processors are, and not for Winograd's or Fourier's. Training needs no such care and
skips it. What a network computes from its weights alone is taken as it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from hardpoint.core.errors import ModelError

Live = Callable[[], Tensor]
"""Reads a tensor of the network as it is now; gradients flow to it."""


class UnknownOperator(ModelError):
    """The network does something that no bound is known for."""


@dataclass(frozen=True)
class Rounding:
    """What an arithmetic can lose in one operation.

    Attributes:
        unit: the unit roundoff: at most this share of a result.
        least: at most this much, where a result is too small for it.
    """

    unit: float
    least: float

    def gamma(self, terms: int) -> float:
        """More than the relative error of a sum of ``terms`` products, and of the sums that bound it."""
        share = (2 * terms + 16) * self.unit
        if share >= 0.5:
            raise ModelError(f"sums of {terms} terms are too long for bounds", "certify a smaller network")
        return share / (1 - share)

    @classmethod
    def of(cls, dtype: torch.dtype) -> Rounding:
        """Of a floating-point type."""
        limits = torch.finfo(dtype)
        return cls(limits.eps / 2, limits.tiny)


DOUBLE = Rounding.of(torch.float64)
SINGLE = Rounding.of(torch.float32)


class Interval:
    """Every value lies between ``low`` and ``high``, elementwise.

    Args:
        low, high: ``[n, ...]``.
        outward: the arithmetic whose rounding errors widen it, see above; None for none.
    """

    def __init__(self, low: Tensor, high: Tensor, outward: Rounding | None = None) -> None:
        self.low, self.high, self.outward = low, high, outward

    @classmethod
    def around(cls, middle: Tensor, radius: Tensor, outward: Rounding | None = None) -> Interval:
        """The interval from ``middle - radius`` to ``middle + radius``; ends that nobody asks for cost nothing."""
        made = cls.__new__(cls)
        made.middle, made.radius, made.outward = middle, radius, outward
        return made

    @cached_property
    def low(self) -> Tensor:
        return self.middle - self.radius

    @cached_property
    def high(self) -> Tensor:
        return self.middle + self.radius

    @cached_property
    def middle(self) -> Tensor:
        return (self.low + self.high) / 2

    @cached_property
    def radius(self) -> Tensor:
        return (self.high - self.low) / 2

    @property
    def is_centred(self) -> bool:
        """Whether middle and radius are known already."""
        return "middle" in self.__dict__ and "radius" in self.__dict__

    @property
    def size(self) -> Tensor:
        """The largest absolute value."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def of(self, index: Tensor) -> Interval:
        """The inputs ``index``, int64 ``[k]`` or bool ``[n]``."""
        return Interval(self.low[index], self.high[index], self.outward)

    def cut(self, low: Tensor, high: Tensor) -> Interval:
        """A part of it."""
        return Interval(low, high, self.outward)

    def roughly(self, dtype: torch.dtype) -> Interval:
        """The same interval in ``dtype``, for a search whose result is computed again."""
        return Interval(self.low.to(dtype), self.high.to(dtype))

    def widened(self, error: Tensor) -> Interval:
        """By ``error`` both ways."""
        return Interval(self.low - error, self.high + error, self.outward)

    def rounded(self, roundings: int = 2) -> Interval:
        """Outward intervals widened by so many roundings of each end; others as they are."""
        if self.outward is None:
            return self
        return self.widened(self.size * self.outward.gamma(roundings) + self.outward.least)


def coarsest(*spans: Interval) -> Rounding | None:
    """The arithmetic that loses most of those that widen ``spans``."""
    found = [span.outward for span in spans if span.outward is not None]
    return max(found, key=lambda each: each.unit, default=None)


@runtime_checkable
class Operator(Protocol):
    """One step of a network. A frozen dataclass; the weights in it are read anew each time."""

    def value(self, *x: Tensor) -> Tensor:
        """What the network computes, from the values of the steps before."""
        ...

    def interval(self, *x: Interval) -> Interval:
        """An interval that holds every ``value`` of points in the intervals ``x``."""
        ...


@runtime_checkable
class Affine(Operator, Protocol):
    """An operator that is affine in all its inputs together. Its linear part is had by differentiating ``value``."""

    @property
    def is_affine(self) -> bool: ...


@runtime_checkable
class Transposes(Affine, Protocol):
    """An affine operator of one input whose transposed linear part is cheaper than its derivative."""

    def transposed(self, rows: Tensor, shape: torch.Size) -> Tensor:
        """``rows`` ``[m, ...]`` over the values, as rows over inputs of ``shape``."""
        ...


@dataclass(frozen=True)
class Slopes:
    """Of two lines per element.

    Attributes:
        low, high: of the line below and of the one above, ``[n, ...]``, or ``[n, S, ...]`` for lines of each row.
    """

    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class Lines:
    """Two lines per element between which a function runs over an interval: ``slope * z + shift``.

    Attributes:
        low_slope, high_slope, low_shift, high_shift: ``[n, ...]``, or ``[n, S, ...]`` for lines of each row; a
            ``low_shift`` of None is 0.
    """

    low_slope: Tensor
    low_shift: Tensor | None
    high_slope: Tensor
    high_shift: Tensor


@runtime_checkable
class Curved(Operator, Protocol):
    """An elementwise function of one value that is known between two lines."""

    @property
    def freedom(self) -> tuple[bool, bool]:
        """Whether the lower and the upper slope are worth choosing."""
        ...

    def slopes(self, x: Interval) -> Slopes:
        """A good choice over ``x``."""
        ...

    def within(self, x: Interval, slopes: Slopes) -> Slopes:
        """The nearest slopes that ``between`` takes."""
        ...

    def between(self, x: Interval, slopes: Slopes) -> Lines:
        """The tightest lines with these slopes that enclose the function over ``x``."""
        ...

    def steepness(self, x: Interval) -> tuple[Tensor, Tensor]:
        """Elementwise: slopes between which every difference quotient over ``x`` lies."""
        ...


@runtime_checkable
class Relaxable(Operator, Protocol):
    """Any other operator that is known between linear functions of its inputs. Without it, and without lines, an
    operator is known by its interval."""

    def relaxed(self, rows: Tensor, *x: Interval) -> tuple[Sequence[Tensor], Tensor]:
        """Rows ``[n, S, ...]`` over the value as rows over each input, and a number ``[n, S]``, whose sum lies
        nowhere above the rows' over ``x``."""
        ...


_FORMS: dict[tuple[type, type], bool] = {}


def _is_a(operator: object, protocol: type) -> bool:
    """As ``isinstance``, which looks every method up each time; what an operator is follows from its class."""
    key = (type(operator), protocol)
    if key not in _FORMS:
        _FORMS[key] = isinstance(operator, protocol)
    return _FORMS[key]


def is_affine(operator: Operator) -> TypeGuard[Affine]:
    """Whether it is ``Affine``."""
    return _is_a(operator, Affine)


def is_curved(operator: Operator) -> TypeGuard[Curved]:
    """Whether it is ``Curved``."""
    return _is_a(operator, Curved)


def is_relaxable(operator: Operator) -> TypeGuard[Relaxable]:
    """Whether it is ``Relaxable``."""
    return _is_a(operator, Relaxable)


def transposes(operator: Operator) -> TypeGuard[Transposes]:
    """Whether it ``Transposes``."""
    return _is_a(operator, Transposes)


@runtime_checkable
class Settles(Operator, Protocol):
    """An operator whose function depends on the batch that the network learns from, such as a batch norm."""

    def settled(self, x: Tensor) -> tuple[Operator, Tensor]:
        """The function that it is for the batch ``x``, and its value there; the operator learns from the batch."""
        ...


class Rising:
    """Mixed into operators without weights that rise with every element of their input: ends are carried to ends.

    ``roundings`` says how many each element of the value goes through; 0 where it is exact.
    """

    roundings = 0

    def value(self, *x: Tensor) -> Tensor:
        raise NotImplementedError

    def interval(self, *x: Interval) -> Interval:
        low, high = self.value(*(part.low for part in x)), self.value(*(part.high for part in x))
        out = Interval(low, high, coarsest(*x))
        return out.rounded(self.roundings) if self.roundings else out

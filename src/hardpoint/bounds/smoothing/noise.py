"""What a noise must know so that a classifier can be smoothed with it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from hardpoint.core.errors import ConfigError
from hardpoint.threats.l0 import L0
from hardpoint.threats.l1 import L1
from hardpoint.threats.l2 import L2
from hardpoint.threats.linf import Linf

Norm = type[L0] | type[L1] | type[L2] | type[Linf]

DOWN = 1 - 1e-12
"""What a radius is shortened by: more than its computation rounds, so that its end belongs to it."""
UP = 1e-14
"""What a probability that must be beaten is raised by, for the same reason."""


@dataclass(frozen=True)
class Draws:
    """Noise that was drawn, to be shared by all inputs.

    Attributes:
        values: ``[k, ...]``.
        sure: bool ``[k]``: False where rounding leaves open what the draw is; such a one is never counted as a hit.
            None: all are sure.
    """

    values: Tensor
    sure: Tensor | None = None

    def split(self, size: int) -> Iterator[Draws]:
        """In parts of at most ``size``."""
        for at in range(0, len(self.values), size):
            yield self.first(at + size, at)

    def first(self, stop: int, start: int = 0) -> Draws:
        """The draws from ``start`` to before ``stop``."""
        return Draws(self.values[start:stop], None if self.sure is None else self.sure[start:stop])

    @classmethod
    def joined(cls, parts: Sequence[Draws]) -> Draws:
        """All of the parts in a row."""
        if len(parts) == 1:
            return parts[0]
        sure = [part.sure for part in parts if part.sure is not None]
        return cls(torch.cat([part.values for part in parts]), torch.cat(sure) if sure else None)


@runtime_checkable
class Noise(Protocol):
    """A distribution of changed inputs, and what probabilities under it prove.

    Everything is in the units of the model's input: for images in [0, 1], ``Gaussian(0.25)`` has a standard deviation
    of a quarter of the range, and a radius of 0.25 means the same.
    """

    @property
    def norm(self) -> Norm:
        """The kind of threat that it protects from; radii are in this norm."""
        ...

    def check(self, x: Tensor) -> None:
        """Raises ``DataError`` for inputs ``[n, ...]`` that this noise cannot be put on."""
        ...

    def draw(self, count: int, shape: tuple[int, ...], source: torch.Generator, dtype: torch.dtype) -> Draws:
        """``count`` draws for inputs of ``shape`` and ``dtype``, on the CPU."""
        ...

    def put(self, x: Tensor, values: Tensor) -> Tensor:
        """Every input ``[m, ...]`` with every draw ``[k, ...]``: ``[m * k, ...]``, an input's own in a row."""
        ...

    def radius(self, p: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        """The radius that is proven where a class has probability ``p`` or more; 0 for one half or less.

        Args:
            p: float64, any shape.
            shape: of one input, for noises whose radius depends on how many numbers it has.
        """
        ...

    def probability(self, radius: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        """What the probability must be above to prove ``radius``; 1 or more where nothing can. The inverse."""
        ...


def added(x: Tensor, values: Tensor) -> Tensor:
    """``x`` ``[m, ...]`` plus ``values`` ``[k, ...]``, each with each, ``[m * k, ...]`` of the type of ``x``."""
    return (x.unsqueeze(1) + values.unsqueeze(0)).flatten(0, 1).to(x.dtype)


def drawn_as(dtype: torch.dtype) -> torch.dtype:
    """The type in which noise for inputs of type ``dtype`` is drawn: never less than float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def positive(value: float, name: str) -> None:
    """Raises ``ConfigError`` unless ``value`` is a finite number above 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} is {value!r}", "give a number above 0, in the units of the model's input")


def one_of(norm: Norm, allowed: tuple[Norm, ...], noise: str) -> None:
    """Raises ``ConfigError`` unless ``norm`` is ``allowed``."""
    if norm not in allowed:
        given = norm.__name__ if isinstance(norm, type) else repr(norm)
        names = " or ".join(kind.__name__ for kind in allowed)
        raise ConfigError(f"{noise} proves nothing under {given}", f"give norm={names}")


def dimensions(shape: tuple[int, ...]) -> int:
    """How many numbers an input has.

    Raises:
        ConfigError: where the shape was not given.
    """
    if not shape:
        raise ConfigError(
            "this radius depends on how many numbers an input has", "give shape, that of one input"
        )
    return math.prod(shape)

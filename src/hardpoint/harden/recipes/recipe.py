"""What every recipe is: examples to learn from, and the loss on them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from hardpoint.core.errors import ConfigError
from hardpoint.harden.learner import Batch, Learner


@dataclass(frozen=True)
class Attacked:
    """A batch after the attack.

    Attributes:
        x: ``[b, ...]``, the examples.
        slope: ``[b, ...]``, the gradient along which a single step was taken; None for longer searches. Where the
            gradient at the example no longer points that way, single steps have stopped working.
    """

    x: Tensor
    slope: Tensor | None = None


@dataclass(frozen=True)
class Taught:
    """What one update is made from.

    Attributes:
        loss: the mean over the batch, to go down.
        scores: ``[b, K]``, of the attacked examples, for counting.
    """

    loss: Tensor
    scores: Tensor


@runtime_checkable
class Recipe(Protocol):
    """A way of robust training. A frozen dataclass of hyper-parameters."""

    @property
    def name(self) -> str:
        """Shown in tables."""
        ...

    @property
    def gradients(self) -> int:
        """Input gradients that one update costs."""
        ...

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        """Examples to learn from."""
        ...

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        """The loss of the network in training on them."""
        ...


@runtime_checkable
class ShiftsWeights(Protocol):
    """A recipe that takes the loss at other weights than the network's own."""

    def shifted(self, learner: Learner, batch: Batch, attacked: Attacked) -> AbstractContextManager[None]:
        """The network has the other weights inside."""
        ...


@runtime_checkable
class Replays(Protocol):
    """A recipe that learns several times from one batch and moves the examples along each update's own gradient."""

    @property
    def replays(self) -> int:
        """Updates per batch."""
        ...

    def moved(self, learner: Learner, batch: Batch, attacked: Attacked, slope: Tensor) -> Tensor:
        """Where the next update begins, as an offset from the inputs, given the gradient at the examples."""
        ...


@runtime_checkable
class Carries(Protocol):
    """A recipe that goes on, in each epoch, from the examples that the last one ended with."""

    @property
    def renew(self) -> int | None:
        """Epochs after which they begin anew; None for never."""
        ...


def alone(inner: Recipe, name: str) -> None:
    """Raise ``ConfigError`` for a recipe that cannot be inside ``name``, which would leave out what it does besides."""
    if isinstance(inner, ShiftsWeights | Replays | Carries):
        raise ConfigError(
            f"{name} around {inner.name} would leave out a part of it", "put any other recipe inside"
        )

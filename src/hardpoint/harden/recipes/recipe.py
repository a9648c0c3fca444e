"""What every recipe is: examples to learn from, and the loss on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from hardpoint.core.errors import ConfigError
from hardpoint.core.rng import Rng
from hardpoint.harden.learner import Batch, Learner
from hardpoint.models.torch import TorchModel
from hardpoint.threats.threat import Threat


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
    """A recipe that takes the loss at other weights than the network's own.

    Gradients that it takes to find them go through ``learner.averaged``, so that several devices find the same.
    """

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


@runtime_checkable
class Prepares(Protocol):
    """A recipe that begins with other weights than the network has, or with more of them."""

    def prepared(self, module: nn.Module, rng: Rng, like: Tensor) -> nn.Module:
        """What training begins with: a changed copy of ``module``, or ``module`` itself, which is its own to change.

        Args:
            module: the network.
            rng: of all draws.
            like: some of the training inputs, ``[n, ...]``.
        """
        ...


@runtime_checkable
class KeepsNetwork(Protocol):
    """A recipe that leaves the network as it is and trains something else beside it."""

    def check_network(self, module: nn.Module, shape: tuple[int, ...]) -> None:
        """Raise ``ConfigError`` for a network, ``DataError`` for inputs of a ``shape``, with which it cannot."""
        ...


@runtime_checkable
class Proves(Protocol):
    """A recipe whose networks are to be proven safe: its epochs are told apart by that, not by an attack."""

    def proven(self, model: TorchModel, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        """Bool ``[n]``: which of the inputs ``x`` ``[n, ...]`` are proven to stay in their class ``y``."""
        ...


@runtime_checkable
class ChecksData(Protocol):
    """A recipe that can tell before it begins whether it fits the data."""

    def check_data(self, x: Tensor, classes: int) -> None:
        """Raise ``ModelError`` where it cannot learn from inputs such as ``x`` ``[n, ...]`` of so many ``classes``."""
        ...


@runtime_checkable
class Wraps(Protocol):
    """A recipe around another, which changes what is learned and leaves all else that the other does."""

    @property
    def inner(self) -> Recipe:
        """The other."""
        ...

    def around(self, inner: Recipe) -> Recipe:
        """The same around another."""
        ...


def layers(recipe: Recipe) -> Iterator[Recipe]:
    """The recipe, the one that it is around, the one that this is around, and so on."""
    yield recipe
    while isinstance(recipe, Wraps):
        recipe = recipe.inner
        yield recipe


def shifting(recipe: Recipe) -> ShiftsWeights | None:
    """The part of ``recipe`` that takes the loss at other weights."""
    return next((part for part in layers(recipe) if isinstance(part, ShiftsWeights)), None)


def replaying(recipe: Recipe) -> Replays | None:
    """The part of ``recipe`` that learns several times from a batch."""
    return next((part for part in layers(recipe) if isinstance(part, Replays)), None)


def carrying(recipe: Recipe) -> Carries | None:
    """The part of ``recipe`` that goes on from the last epoch's examples."""
    return next((part for part in layers(recipe) if isinstance(part, Carries)), None)


def preparing(recipe: Recipe) -> Prepares | None:
    """The part of ``recipe`` that begins from other weights."""
    return next((part for part in layers(recipe) if isinstance(part, Prepares)), None)


def keeping(recipe: Recipe) -> KeepsNetwork | None:
    """The part of ``recipe`` that leaves the network as it is."""
    return next((part for part in layers(recipe) if isinstance(part, KeepsNetwork)), None)


def proving(recipe: Recipe) -> Proves | None:
    """The part of ``recipe`` whose networks are to be proven safe."""
    return next((part for part in layers(recipe) if isinstance(part, Proves)), None)


def check_data(recipe: Recipe | str, x: Tensor, classes: int) -> None:
    """Raise ``ModelError`` where a part of ``recipe`` cannot learn from inputs such as ``x``; the default fits any."""
    for part in () if isinstance(recipe, str) else layers(recipe):
        if isinstance(part, ChecksData):
            part.check_data(x, classes)


def check_recipe(value: object) -> None:
    """Raise ``ConfigError`` for anything but a recipe."""
    if isinstance(value, type) or not isinstance(value, Recipe):
        raise ConfigError(f"{value!r} is no recipe", 'give one, or a name such as "trades"')


def alone(inner: Recipe, name: str) -> None:
    """Raise ``ConfigError`` for a recipe that cannot be inside ``name``, which would leave out what it does besides."""
    check_recipe(inner)
    if any(part(inner) is not None for part in (shifting, replaying, carrying, preparing, proving)):
        raise ConfigError(
            f"{name} around {inner.name} would leave out a part of it", "put any other recipe inside"
        )

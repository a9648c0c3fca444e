"""What changes an input before the model sees it, and how an attacker's gradient crosses it."""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


class GradientPath(Enum):
    """How a gradient crosses a stage.

    ``DIFFERENTIABLE``: as autograd follows the stage. ``STRAIGHT_THROUGH``: as if the stage were the identity, which it
    stays close to (Athalye, Carlini and Wagner, ICML 2018, section 4.1). ``OWN``: by the stage's own ``backward``.
    ``PROBED``: the stage says nothing, and the checks before an assessment find out.
    """

    DIFFERENTIABLE = "differentiable"
    STRAIGHT_THROUGH = "straight-through"
    OWN = "own"
    PROBED = "probed"


@runtime_checkable
class InputStage(Protocol):
    """A defence in front of a model. Implementations are frozen dataclasses whose fields hold what was fitted."""

    @property
    def gradient(self) -> GradientPath:
        """How gradients cross it."""
        ...

    @property
    def is_random(self) -> bool:
        """Whether it draws, from torch's own generator as dropout does, each time it is applied."""
        ...

    def apply(self, x: Tensor) -> Tensor:
        """What the model is shown instead of ``x`` ``[n, ...]``, each row by itself, of the same device and dtype."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-ready: ``kind`` and the parameters."""
        ...


@runtime_checkable
class OwnBackward(InputStage, Protocol):
    """A stage whose ``gradient`` is ``OWN``."""

    def backward(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient with respect to ``x``, given the one with respect to ``apply(x)``."""
        ...

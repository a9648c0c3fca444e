"""What the attacker wants the model to answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


def margin_over(scores: Tensor, label: Tensor) -> Tensor:
    """Best other score minus the score of ``label``, ``[n]``: positive when another class wins.

    >>> margin_over(torch.tensor([[1.0, 3.0]]), torch.tensor([0]))
    tensor([2.])
    """
    own = scores.gather(1, label.unsqueeze(1)).squeeze(1)
    others = scores.scatter(1, label.unsqueeze(1), -torch.inf)
    return others.amax(1) - own


@runtime_checkable
class Goal(Protocol):
    """When an attack has succeeded."""

    def reached(self, predicted: Tensor, y: Tensor) -> Tensor:
        """Bool ``[n]``: whether the predicted labels are what the attacker wants."""
        ...

    def margin(self, scores: Tensor, y: Tensor) -> Tensor:
        """``[n]``: how far beyond the decision boundary, positive where reached."""
        ...

    def attackable(self, y: Tensor) -> Tensor:
        """Bool ``[n]``: whether the goal can be reached at all from inputs with the right labels ``y``."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-ready description."""
        ...


@dataclass(frozen=True)
class Untargeted:
    """Any answer but the right one."""

    def reached(self, predicted: Tensor, y: Tensor) -> Tensor:
        return predicted != y

    def margin(self, scores: Tensor, y: Tensor) -> Tensor:
        return margin_over(scores, y)

    def attackable(self, y: Tensor) -> Tensor:
        return torch.ones_like(y, dtype=torch.bool)

    def describe(self) -> dict[str, Any]:
        return {"kind": "untargeted"}


@dataclass(frozen=True)
class Targeted:
    """The answer ``label``; inputs whose right answer it is already cannot be attacked."""

    label: int

    def reached(self, predicted: Tensor, y: Tensor) -> Tensor:
        return (predicted == self.label) & (y != self.label)

    def margin(self, scores: Tensor, y: Tensor) -> Tensor:
        target = torch.full_like(y, self.label)
        beyond = -margin_over(scores, target)
        return torch.where(y == self.label, -beyond.abs(), beyond)

    def attackable(self, y: Tensor) -> Tensor:
        return y != self.label

    def describe(self) -> dict[str, Any]:
        return {"kind": "targeted", "label": self.label}

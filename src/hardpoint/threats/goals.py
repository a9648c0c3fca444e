"""What the attacker wants the model to answer."""

from __future__ import annotations

from dataclasses import dataclass, field
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


def unrefused(scores: Tensor, goal: Goal) -> Tensor:
    """The scores of the classes alone, for a search that leaves it to chance or to others not to be refused."""
    return scores[:, : getattr(goal, "refusal", None)]


@runtime_checkable
class Goal(Protocol):
    """When an attack has succeeded."""

    def reached(self, predicted: Tensor, y: Tensor) -> Tensor:
        """Bool ``[n]``: whether the predicted labels are what the attacker wants."""
        ...

    def margin(self, scores: Tensor, y: Tensor) -> Tensor:
        """``[n]``: how far beyond the decision boundary, positive where reached."""
        ...

    def judged(self, scores: Tensor, y: Tensor) -> Tensor:
        """The scores as the goal counts them, with one column per class that it knows; differentiable, and the same
        when given back to it."""
        ...

    def attackable(self, y: Tensor) -> Tensor:
        """Bool ``[n]``: whether the goal can be reached at all from inputs with the right labels ``y``."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-ready description."""
        ...


@dataclass(frozen=True)
class Untargeted:
    """Any answer but the right one.

    To be refused is no success either: of a model that can refuse, ``refusal`` is the answer that says so, behind all
    classes. The margin is then that of the best wrong class over the right one *and* over the refusal.

    >>> scores = torch.tensor([[1.0, 3.0, 4.0]])
    >>> float(Untargeted().margin(scores, torch.tensor([0])))
    3.0
    >>> float(Untargeted(refusal=2).margin(scores, torch.tensor([0])))
    -1.0
    """

    refusal: int | None = field(default=None, compare=False)

    def reached(self, predicted: Tensor, y: Tensor) -> Tensor:
        wrong = predicted != y
        return wrong if self.refusal is None else wrong & (predicted != self.refusal)

    def margin(self, scores: Tensor, y: Tensor) -> Tensor:
        return margin_over(self.judged(scores, y), y)

    def judged(self, scores: Tensor, y: Tensor) -> Tensor:
        if self.refusal is None or scores.shape[1] <= self.refusal:
            return scores
        kept, label = scores[:, : self.refusal], y.unsqueeze(1)
        defended = torch.maximum(kept.gather(1, label), scores[:, self.refusal :].amax(1, keepdim=True))
        return kept.scatter(1, label, defended)

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

    def judged(self, scores: Tensor, y: Tensor) -> Tensor:
        return scores

    def attackable(self, y: Tensor) -> Tensor:
        return y != self.label

    def describe(self) -> dict[str, Any]:
        return {"kind": "targeted", "label": self.label}

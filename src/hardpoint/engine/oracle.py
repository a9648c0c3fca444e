"""The only door to a model during an attack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from hardpoint.core.access import Access
from hardpoint.core.errors import AccessDenied, NonFiniteOutput
from hardpoint.core.rows import all_finite, chunks
from hardpoint.engine.attack import Reply
from hardpoint.engine.batching import padded

Objective = Callable[[Tensor], Tensor]


class Searchable(Protocol):
    """What an oracle asks: the model itself or its fast twin.

    ``raw_scores`` is differentiable where the model is; it may be None for models that only answer.
    """

    @property
    def raw_scores(self) -> Callable[[Tensor], Tensor] | None: ...

    def scores(self, x: Tensor) -> Tensor: ...

    def predict(self, x: Tensor) -> Tensor: ...


class Oracle:
    """Answers an attack's questions, and nothing more than the threat allows.

    Args:
        target: the model or its twin.
        access: the highest rung the attacker may see.
        chunk: the largest batch sent to the model at once.
        samples: passes that are averaged per question, for models that are random (expectation over
            transformation, Athalye et al. 2018: gradients of the loss are averaged, not logits).

    The oracle keeps no gradient graph, never touches parameters' ``grad``, and raises ``NonFiniteOutput``
    rather than let NaN pass for an answer.
    """

    def __init__(self, target: Searchable, access: Access, *, chunk: int = 256, samples: int = 1) -> None:
        self.target = target
        self.access = access
        self.chunk = chunk
        self.samples = samples

    def ask(self, query: Tensor) -> Reply:
        """Labels, and scores where the threat shows them, for ``[m, ...]`` points."""
        parts = [self._answer(part) for part in chunks(query, self.chunk)]
        labels = torch.cat([p.labels for p in parts])
        if self.access < Access.SCORES:
            return Reply(labels)
        return Reply(labels, torch.cat([p.seen_scores() for p in parts]))

    def _answer(self, x: Tensor) -> Reply:
        n, x = len(x), self._sent(x)
        if self.access < Access.SCORES:
            votes = [self.target.predict(x)[:n] for _ in range(self.samples)]
            return Reply(torch.stack(votes).mode(0).values)
        scores = self.target.scores(x)[:n]
        for _ in range(self.samples - 1):
            scores = scores + self.target.scores(x)[:n]
        self._refuse_nan(scores)
        return Reply(scores.argmax(1), scores / self.samples)

    def ask_gradient(self, query: Tensor, objective: Objective) -> Reply:
        """As ``ask``, with the value of ``objective(scores) -> [m]`` and its gradient at each point.

        Raises:
            AccessDenied: when the threat does not show gradients or the model has none.
        """
        if self.access < Access.GRADIENTS:
            raise AccessDenied(
                f"the threat shows {self.access.word}, not gradients", "use an attack that needs no gradients"
            )
        raw = self.target.raw_scores
        if raw is None:
            raise AccessDenied("the model offers no gradients", 'use a threat with access="scores"')
        n, query = len(query), self._sent(query)
        total: tuple[Tensor, Tensor, Tensor] | None = None
        for _ in range(self.samples):
            with torch.enable_grad():
                x = query.detach().requires_grad_(True)
                scores = raw(x)[:n]
                value = objective(scores)
                gradient = (
                    torch.autograd.grad(value.sum(), x, allow_unused=True)[0] if value.requires_grad else None
                )
            if gradient is None:
                gradient = torch.zeros_like(query)
            part = (scores.detach(), value.detach(), gradient[:n])
            total = part if total is None else (total[0] + part[0], total[1] + part[1], total[2] + part[2])
        assert total is not None
        scores, value, gradient = (t / self.samples if self.samples > 1 else t for t in total)
        self._refuse_nan(scores)
        if not all_finite(gradient):
            finite = torch.isfinite(gradient).flatten(1).all(1)
            gradient = torch.where(finite.view(-1, *([1] * (gradient.dim() - 1))), gradient, 0.0)
        return Reply(scores.argmax(1), scores, value, gradient)

    def _sent(self, x: Tensor) -> Tensor:
        """What goes to the model: nobody pays for the questions that fill up a batch of a network of our own."""
        return x if self.target.raw_scores is None else padded(x, self.chunk)

    @staticmethod
    def _refuse_nan(scores: Tensor) -> None:
        if not all_finite(scores):
            row = int((~torch.isfinite(scores)).any(1).nonzero()[0])
            raise NonFiniteOutput(
                f"the model returned NaN or infinity (row {row} of a batch under attack)",
                "find the layer that overflows; hardpoint doctor names it",
            )

"""What every penalty is, and slopes that can be learned from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hardpoint.engine.shadow import resting_norms
from hardpoint.harden.learner import Batch, Learner, soft_cross_entropy
from hardpoint.harden.recipes.recipe import Attacked


@runtime_checkable
class Penalty(Protocol):
    """Something that makes a network more robust when it is small. A frozen dataclass of hyper-parameters."""

    @property
    def name(self) -> str:
        """Shown in tables."""
        ...

    @property
    def gradients(self) -> int:
        """Input gradients that one update costs."""
        ...

    def penalty(self, learner: Learner, batch: Batch, attacked: Attacked) -> Tensor:
        """What is added to the loss: the mean over the batch, weighted, differentiable down to the weights.

        ``attacked`` are the recipe's examples; what is computed from them must not reach them by its gradient.
        """
        ...


@contextmanager
def answering(learner: Learner) -> Iterator[Callable[[Tensor], Tensor]]:
    """Scores ``[b, K]`` of the network as it learns, differentiable twice; running statistics learn nothing.

    Attention is computed step by step: the fused kernels have no second derivative.
    """
    with resting_norms(learner.module), sdpa_kernel(SDPBackend.MATH):
        yield learner.scores


def loss_and_slope(learner: Learner, batch: Batch, at: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy ``[b]`` at the points ``at`` ``[b, ...]`` and its gradient ``[b, ...]`` there, both differentiable
    down to the weights."""
    point = at.detach().requires_grad_(True)
    with answering(learner) as scores:
        loss = soft_cross_entropy(scores(point), batch.targets)
    return loss, gradient_of(loss.sum(), point)


def gradient_of(value: Tensor, point: Tensor) -> Tensor:
    """The gradient of ``value`` at ``point``, to be differentiated again; 0 where it does not depend on it."""
    if not value.requires_grad:
        return torch.zeros_like(point)
    found = torch.autograd.grad(value, point, create_graph=True, allow_unused=True)[0]
    return torch.zeros_like(point) if found is None else found

"""What a recipe is given: the network in training, a batch, and a way to search for examples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

from torch import Tensor, nn
from torch.nn import functional

from hardpoint.bounds.graph import Graph
from hardpoint.bounds.tracing import traced
from hardpoint.core.errors import ConfigError
from hardpoint.core.rng import Rng
from hardpoint.engine.guard import frozen_parameters
from hardpoint.engine.shadow import Shadow, resting_norms
from hardpoint.engine.twin import TwinPlan
from hardpoint.harden.ranks import ALONE, Ranks, Share
from hardpoint.models.base import Differentiable
from hardpoint.threats.perturbation import NearlyAround, Perturbation, Region


class CraftMode(Enum):
    """In which mode the network is searched for examples to learn from.

    ``EVAL``: as it will answer once trained, with its running statistics, on a fast copy. ``TRAIN``: as it answers
    while it learns, batch norms by the batch and dropout drawn; slower, as the network itself is searched.
    """

    EVAL = "eval"
    TRAIN = "train"

    @classmethod
    def parse(cls, value: CraftMode | str) -> CraftMode:
        """The mode, or the one named; raises ``ConfigError`` for any other."""
        try:
            return value if isinstance(value, cls) else cls(value)
        except ValueError:
            raise ConfigError(f"craft_mode {value!r} is unknown", 'use "eval" or "train"') from None


@dataclass(frozen=True)
class Batch:
    """Inputs to learn from in one update.

    Attributes:
        x: ``[b, ...]``, augmented.
        y: int64 ``[b]``.
        targets: ``[b, K]``, the shares of each class to be learned: one-hot but for smoothing and mixing.
        index: int64 ``[b]``, the inputs' positions in the data, which draws belong to.
        rng: of this update.
        offset: ``[b, ...]``, where recipes that go on from the last update's examples begin, or None.
        share: what these inputs count, where other processes learn from the rest of the batch.
    """

    x: Tensor
    y: Tensor
    targets: Tensor
    index: Tensor
    rng: Rng
    offset: Tensor | None = None
    share: Share = field(default_factory=Share)

    def __len__(self) -> int:
        return len(self.x)


class Learner:
    """The network in training, and its fast copy.

    Args:
        model: its module is in training mode.
        perturbation: what the attacker may change.
        craft_mode: how examples are searched for.
        plan: how the fast copy is made.
    """

    def __init__(
        self, model: Differentiable, perturbation: Perturbation, craft_mode: CraftMode, plan: TwinPlan
    ) -> None:
        self.model, self.perturbation, self.craft_mode, self.plan = model, perturbation, craft_mode, plan
        self.strength = 1.0
        """The share of the budget that the attacker has at this point of the training."""
        self.temperature = 1.0
        """What scores are divided by, those of the network and of its copy."""
        self.ranks: Ranks = ALONE
        """The processes that learn together."""
        self._shadow = Shadow(model, plan) if craft_mode is CraftMode.EVAL else None
        self._is_fresh = False
        self._bound: tuple[Tensor, tuple[Perturbation, float], Region] | None = None
        self._graph: Graph | None = None

    @property
    def module(self) -> nn.Module:
        return self.model.module

    def scores(self, x: Tensor) -> Tensor:
        """``[b, K]``: what the network answers while it learns, differentiably down to its weights."""
        return self._cooled(self.model.module_scores(self.module(x)))

    def _cooled(self, scores: Tensor) -> Tensor:
        return scores if self.temperature == 1 else scores / self.temperature

    def graph(self, x: Tensor) -> Graph:
        """The network as bounds know it, in the mode that it was in when first asked; ``x`` are inputs it takes."""
        if self._graph is None:
            self._graph = traced(self.module, x)
        return self._graph

    def weights_changed(self) -> None:
        """The copy is old from now on."""
        self._is_fresh = False

    def averaged(
        self, gradients: Sequence[Tensor | None], weights: Sequence[Tensor], batch: Batch
    ) -> list[Tensor | None]:
        """The gradients to ``weights`` of a loss over the whole batch, from those over this process's part of it; all
        processes must ask."""
        return self.ranks.mean(gradients, weights, batch.share.weight)

    @contextmanager
    def searched(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Class scores ``[b, K]`` of points, differentiable down to the points; nothing is learned from them."""
        if self._shadow is not None:
            if not self._is_fresh:
                self._shadow.follow()
                self._is_fresh = True
            ask = self._shadow.raw_scores
            yield ask if self.temperature == 1 else lambda x: self._cooled(ask(x))
            return
        with frozen_parameters(self.module), resting_norms(self.module):
            yield self.scores

    def region(self, batch: Batch, perturbation: Perturbation | None = None) -> Region:
        """The allowed inputs around those of the batch, by the threat's or another ``perturbation``."""
        wanted = perturbation or self.perturbation
        asked = wanted, self.strength
        if self._bound is None or self._bound[0] is not batch.x or self._bound[1] != asked:
            reduced = wanted if self.strength == 1 else wanted.scaled(self.strength)
            around = reduced.nearly_around if isinstance(reduced, NearlyAround) else reduced.around
            self._bound = batch.x, asked, around(batch.x, self.model.box)
        return self._bound[2]

    def under(self, perturbation: Perturbation) -> Learner:
        """The same network and copy under another threat."""
        other = copy.copy(self)
        other.perturbation = perturbation
        return other

    def cooled(self, temperature: float) -> Learner:
        """The same network and copy with scores divided by ``temperature``, beside what they were divided by."""
        other = copy.copy(self)
        other.temperature = self.temperature * temperature
        return other


def soft_cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """``[b]``: cross-entropy against the shares ``targets`` ``[b, K]``."""
    return -(targets * functional.log_softmax(scores, dim=1)).sum(1)


def divergence(scores: Tensor, reference: Tensor) -> Tensor:
    """``[b]``: the Kullback-Leibler divergence from the classes' shares in ``reference`` to those in ``scores``."""
    log_p = functional.log_softmax(reference, dim=1)
    return (log_p.exp() * (log_p - functional.log_softmax(scores, dim=1))).sum(1)


def one_hot(y: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """``[b, K]``: one for the class ``y``, with the share ``smoothing`` spread over all.

    >>> import torch
    >>> one_hot(torch.tensor([1]), 2, smoothing=0.2)
    tensor([[0.1000, 0.9000]])
    """
    return functional.one_hot(y, classes).float() * (1 - smoothing) + smoothing / classes

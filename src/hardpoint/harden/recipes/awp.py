"""Adversarial weight perturbation, on top of any recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from hardpoint.engine.shadow import resting_norms
from hardpoint.harden.learner import Batch, Learner
from hardpoint.harden.recipes._checks import positive
from hardpoint.harden.recipes.recipe import Attacked, Recipe, Taught, alone


@dataclass(frozen=True)
class Awp:
    """The loss is taken where the weights are worst nearby (Wu, Xia and Wang, "Adversarial weight perturbation helps
    robust generalization", NeurIPS 2020, algorithm 1): each weight matrix moves by the share ``gamma`` of its own
    length up the gradient of the loss, the update is computed there, and the move is taken back.

    Args:
        inner: the recipe.
        gamma: how far weights move.
    """

    inner: Recipe
    gamma: float = 0.005

    def __post_init__(self) -> None:
        positive(self.gamma, "gamma")
        alone(self.inner, "Awp")

    @property
    def name(self) -> str:
        return f"awp({self.inner.name})"

    @property
    def gradients(self) -> int:
        return self.inner.gradients

    def around(self, inner: Recipe) -> Recipe:
        return replace(self, inner=inner)

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        return self.inner.attacked(learner, batch)

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        return self.inner.taught(learner, batch, attacked)

    @contextmanager
    def shifted(self, learner: Learner, batch: Batch, attacked: Attacked) -> Iterator[None]:
        weights = [p for p in learner.module.parameters() if p.requires_grad and p.dim() > 1]
        with resting_norms(learner.module):
            loss = self.inner.taught(learner, batch, attacked).loss
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        gradients = learner.averaged(found, weights, batch)
        moves = [
            None if g is None else self.gamma * g * (w.detach().norm() / g.norm().clamp_min(1e-12))
            for w, g in zip(weights, gradients, strict=True)
        ]
        kept = [w.detach().clone() for w in weights]  # taking a move back would round
        try:
            with torch.no_grad():
                for weight, move in zip(weights, moves, strict=True):
                    if move is not None:
                        weight.add_(move)
            yield
        finally:
            with torch.no_grad():
                for weight, was in zip(weights, kept, strict=True):
                    weight.copy_(was)

"""Learning from clean and attacked inputs, from several threats, or from noise."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from hardpoint.core.errors import ConfigError
from hardpoint.harden.learner import Batch, Learner, soft_cross_entropy
from hardpoint.harden.recipes._checks import positive, share
from hardpoint.harden.recipes.pgd import Pgd
from hardpoint.harden.recipes.recipe import Attacked, Recipe, Taught, alone
from hardpoint.harden.recipes.single_step import cross_entropy_on
from hardpoint.threats.perturbation import Perturbation


@dataclass(frozen=True)
class Plain:
    """Ordinary training, the measure of all costs."""

    @property
    def name(self) -> str:
        return "plain"

    @property
    def gradients(self) -> int:
        return 0

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        return Attacked(batch.x)

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        return cross_entropy_on(learner, batch, attacked)


@dataclass(frozen=True)
class Mixed:
    """The loss of clean inputs and that of a recipe, weighed (Goodfellow, Shlens and Szegedy, "Explaining and
    harnessing adversarial examples", ICLR 2015, section 6).

    Args:
        inner: the recipe.
        clean: the weight of clean inputs.
    """

    inner: Recipe
    clean: float = 0.5

    def __post_init__(self) -> None:
        share(self.clean, "clean")
        alone(self.inner, "Mixed")

    @property
    def name(self) -> str:
        return f"mixed({self.inner.name})"

    @property
    def gradients(self) -> int:
        return self.inner.gradients

    def around(self, inner: Recipe) -> Recipe:
        return replace(self, inner=inner)

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        return self.inner.attacked(learner, batch)

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        hard = self.inner.taught(learner, batch, attacked)
        easy = soft_cross_entropy(learner.scores(batch.x), batch.targets).mean()
        return Taught(self.clean * easy + (1 - self.clean) * hard.loss, hard.scores)


@dataclass(frozen=True)
class WorstOf:
    """Each input is attacked in every way, and learned from where its loss is highest (the "max" strategy of Tramèr
    and Boneh, "Adversarial training and robustness for multiple perturbations", NeurIPS 2019).

    Args:
        threats: what the attacker may do instead of the threat that is hardened against, or with it among them.
        search: how examples are found under each.
    """

    threats: tuple[Perturbation, ...]
    search: Pgd = field(default_factory=lambda: Pgd(steps=5))

    def __post_init__(self) -> None:
        if not isinstance(self.threats, tuple) or len(self.threats) < 2:
            raise ConfigError("there are no two threats", "give a tuple of two or more")

    @property
    def name(self) -> str:
        return f"worst of {len(self.threats)} threats ({self.search.name})"

    @property
    def gradients(self) -> int:
        return self.search.gradients * len(self.threats)

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        worst, highest = batch.x, torch.full((len(batch),), -torch.inf, device=batch.x.device)
        for number, perturbation in enumerate(self.threats):
            part = replace(batch, rng=batch.rng.fork(number))
            x = self.search.attacked(learner.under(perturbation), part).x
            with learner.searched() as scores, torch.no_grad():
                loss = soft_cross_entropy(scores(x), batch.targets)
            higher = loss > highest
            worst = torch.where(higher.view(-1, *([1] * (x.dim() - 1))), x, worst)
            highest = torch.where(higher, loss, highest)
        return Attacked(worst)

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        return cross_entropy_on(learner, batch, attacked)


@dataclass(frozen=True)
class Noise:
    """Gaussian noise on every input, for certificates by randomised smoothing (Cohen, Rosenfeld and Kolter,
    "Certified adversarial robustness via randomized smoothing", ICML 2019, section 3.3).

    Args:
        sigma: its standard deviation, in the inputs' unit.
    """

    sigma: float

    def __post_init__(self) -> None:
        positive(self.sigma, "sigma")

    @property
    def name(self) -> str:
        return f"noise-{self.sigma:g}"

    @property
    def gradients(self) -> int:
        return 0

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        noise = batch.rng.fork("noise").normal(batch.index, tuple(batch.x.shape[1:]), dtype=batch.x.dtype)
        return Attacked(batch.x + self.sigma * noise)

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        return cross_entropy_on(learner, batch, attacked)

"""What a recipe costs, in units of ordinary training, measured on the machine at hand."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hardpoint.core.rng import Rng
from hardpoint.engine.guard import full_precision, preserved_random_state
from hardpoint.harden.learner import Batch, Learner, one_hot
from hardpoint.harden.recipes import Atta, Attacked, NFgsm, Pgd, Plain, Recipe
from hardpoint.harden.recipes.recipe import replaying, shifting
from hardpoint.harden.settings import Optimiser, Training

_TURNS = 5
BUDGET = 2.0
"""The price of the default recipe, in units of ordinary training."""


@dataclass(frozen=True)
class Cost:
    """Seconds per update.

    Attributes:
        plain: of ordinary training.
        recipe: of the recipe.
        updates: how many will be made.
    """

    plain: float
    recipe: float
    updates: int

    @property
    def units(self) -> float:
        """The price of the recipe, ordinary training being 1."""
        return self.recipe / self.plain

    @property
    def seconds(self) -> float:
        """The whole training, without validation."""
        return self.recipe * self.updates

    def __str__(self) -> str:
        return f"{self.units:.1f}× ordinary training, about {_told(self.seconds)}"


def measured_seconds(
    learner: Learner, recipes: list[Recipe], training: Training, x: Tensor, y: Tensor, classes: int
) -> list[float]:
    """Seconds of one update by each recipe on the batch ``x``, ``y``, taken in turn on a copy; the least of a few."""
    with full_precision(), preserved_random_state(seed=0):
        own = _copied(learner)
        assert isinstance(training.optimiser, Optimiser)
        optimiser = training.optimiser.over(own.module.parameters(), replace(training, lr=1e-12))
        batch = Batch(x, y, one_hot(y, classes).to(x.dtype), torch.arange(len(x), device=x.device), Rng(0))

        def update(recipe: Recipe) -> None:
            attacked = recipe.attacked(own, batch)
            if replaying(recipe) is not None:
                attacked = Attacked(attacked.x.detach().requires_grad_(True))
            optimiser.zero_grad(set_to_none=True)
            shifts = shifting(recipe)
            if shifts is not None:
                with shifts.shifted(own, batch, attacked):
                    recipe.taught(own, batch, attacked).loss.backward()  # type: ignore[no-untyped-call]
            else:
                recipe.taught(own, batch, attacked).loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            own.weights_changed()

        return _least([lambda recipe=recipe: update(recipe) for recipe in recipes], x)  # type: ignore[misc]


def within_budget(
    learner: Learner,
    training: Training,
    x: Tensor,
    y: Tensor,
    classes: int,
    *,
    remembers: bool,
    budget: float = BUDGET,
) -> tuple[Recipe, float]:
    """As many gradient steps per update as ``budget`` units of ordinary training buy here, one at least; and the
    seconds of such a unit.

    Args:
        learner, training, x, y, classes: as for ``measured_seconds``.
        remembers: whether examples may be kept from epoch to epoch; a step then is worth several.
        budget: in units of ordinary training.
    """
    plain, one, three = measured_seconds(learner, [Plain(), Pgd(1), Pgd(3)], training, x, y, classes)
    step = max(1e-9, (three - one) / 2)
    steps = max(1, min(10, int(1 + (budget * plain - one) / step)))
    return default_recipe(steps, remembers=remembers), plain


def default_recipe(steps: int, *, remembers: bool) -> Recipe:
    """The default recipe with so many gradient steps.

    >>> default_recipe(2, remembers=True).name, default_recipe(1, remembers=False).name
    ('atta-2', 'n_fgsm')
    """
    if remembers:
        return Atta(steps=min(3, steps), length=0.5 if steps == 1 else 0.3)
    return NFgsm() if steps == 1 else Pgd(steps=steps)


def _copied(learner: Learner) -> Learner:
    model = copy.copy(learner.model)
    object.__setattr__(model, "module", copy.deepcopy(learner.module).train())
    return Learner(model, learner.perturbation, learner.craft_mode, learner.plan)


def _least(jobs: list[Callable[[], None]], x: Tensor) -> list[float]:
    best = [float("inf")] * len(jobs)
    for turn in range(_TURNS + 1):
        for place, job in enumerate(jobs):
            began = time.perf_counter()
            job()
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            if turn:  # the first pass also prepares kernels
                best[place] = min(best[place], time.perf_counter() - began)
    return best


def _told(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

"""Where a teacher stands in a recipe."""

from __future__ import annotations

from hardpoint.harden.recipes.awp import Awp
from hardpoint.harden.recipes.denoiser import Denoiser
from hardpoint.harden.recipes.distilled import Distilled
from hardpoint.harden.recipes.mixed import Mixed
from hardpoint.harden.recipes.pgd import Pgd
from hardpoint.harden.recipes.recipe import Recipe
from hardpoint.harden.teacher import Teacher

STUDENT = Mixed(Pgd(), clean=1 / 6)
"""The recipe that ``Distilled`` makes RSLAD of: what a teacher is learned from where no recipe is named."""


def taught_by(
    teacher: Teacher, recipe: Recipe = STUDENT, *, temperature: float = 1.0, share: float = 1.0
) -> Recipe:
    """``Distilled`` around the recipe, but inside of those that must stand around it.

    >>> from torch import nn
    >>> taught_by(Teacher(nn.Linear(2, 2).eval()), Awp(Pgd(3))).name
    'awp(distilled(pgd-3))'
    """
    if isinstance(recipe, Awp | Denoiser):
        return recipe.around(taught_by(teacher, recipe.inner, temperature=temperature, share=share))
    return Distilled(recipe, teacher, temperature, share)

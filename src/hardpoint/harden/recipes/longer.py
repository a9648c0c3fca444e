"""What takes the place of a search that has stopped working."""

from __future__ import annotations

from dataclasses import replace

from hardpoint.harden.recipes.atta import Atta
from hardpoint.harden.recipes.pgd import Pgd
from hardpoint.harden.recipes.recipe import Recipe, Wraps


def longer(recipe: Recipe) -> Recipe:
    """``Atta`` and ``Pgd`` with twice the gradient steps; in the place of any other search, such as a single step that
    has failed, six steps by ``Pgd``: after four less was robust in the end.

    >>> from hardpoint.harden.recipes import Awp, NFgsm
    >>> longer(NFgsm()).name, longer(Atta()).name, longer(Awp(NFgsm())).name
    ('pgd-6', 'atta-2', 'awp(pgd-6)')
    """
    if isinstance(recipe, Atta | Pgd):
        return replace(recipe, steps=2 * recipe.steps)
    if isinstance(recipe, Wraps):
        return recipe.around(longer(recipe.inner))
    return Pgd(steps=6)

"""The recipe that the settings name, and the teacher that it learns from."""

from __future__ import annotations

from typing import Any

from hardpoint.cli.build import importable
from hardpoint.cli.layers import Resolved
from hardpoint.cli.training_made import made_recipe
from hardpoint.core.errors import ConfigError, ModelError
from hardpoint.harden.recipes import Awp, Denoiser, Distilled, Mixed, Pgd, Recipe
from hardpoint.harden.teacher import Teacher
from hardpoint.models.loading import load_model

RSLAD = Mixed(Pgd(), clean=1 / 6)
"""What a teacher is learned from by default; see ``Distilled``."""


def build_recipe(resolved: Resolved) -> Recipe | str:
    """The recipe, around which a teacher's answers take the place of labels where one is named; or ``"default"``.

    Raises:
        ConfigError: for a recipe that learns no answers, and for settings of a teacher where none is named.
        ModelError: for a teacher that cannot be loaded, or offers labels only.
    """
    said = resolved.settings.harden
    recipe = made_recipe(said.recipe)
    if said.teacher is None:
        for key in ("teacher_weights", "teacher_temperature", "teacher_share"):
            if getattr(said, key) is not None:
                raise ConfigError(
                    f"{key} is given, but no teacher", "give --teacher, or set teacher in [harden]"
                )
        return recipe
    importable(resolved.base)
    try:
        model = load_model(said.teacher, weights=said.teacher_weights)
    except ModelError as error:
        raise type(error)(f"the teacher: {error.what}", error.cure) from error
    given = {"temperature": said.teacher_temperature, "share": said.teacher_share}
    how = {word: value for word, value in given.items() if value is not None}
    return _taught(RSLAD if isinstance(recipe, str) else recipe, Teacher(model), how)


def _taught(recipe: Recipe, teacher: Teacher, how: dict[str, Any]) -> Recipe:
    """``Distilled`` around the recipe, but inside of those that must stand around it."""
    if isinstance(recipe, Awp | Denoiser):
        return recipe.around(_taught(recipe.inner, teacher, how))
    return Distilled(recipe, teacher, **how)

"""The recipe that the settings name, and the teacher that it learns from."""

from __future__ import annotations

from hardpoint.cli.build import importable
from hardpoint.cli.layers import Resolved
from hardpoint.cli.training_made import made_recipe
from hardpoint.core.errors import ConfigError, ModelError
from hardpoint.harden.recipes import Recipe
from hardpoint.harden.recipes.taught import STUDENT, taught_by
from hardpoint.harden.teacher import Teacher
from hardpoint.models.loading import load_model


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
    how = {"temperature": said.teacher_temperature, "share": said.teacher_share}
    given = {word: value for word, value in how.items() if value is not None}
    student = STUDENT if isinstance(recipe, str) else recipe
    return taught_by(Teacher(model), student, **given)

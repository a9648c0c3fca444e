"""Any recipe with penalties added to its loss."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hardpoint.core.errors import ConfigError
from hardpoint.harden.learner import Batch, Learner
from hardpoint.harden.penalties.penalty import Penalty
from hardpoint.harden.recipes.recipe import Attacked, Recipe, Taught, check_recipe


@dataclass(frozen=True)
class Regularised:
    """The loss of a recipe, and penalties. What else the recipe does it does as before.

    Args:
        inner: the recipe.
        penalties: one or more, see ``hardpoint.harden.penalties``.

    >>> from hardpoint.harden.penalties import GradAlign
    >>> from hardpoint.harden.recipes import FgsmRs
    >>> Regularised(FgsmRs(), (GradAlign(0.2),)).name
    'fgsm_rs + grad_align'
    """

    inner: Recipe
    penalties: tuple[Penalty, ...]

    def __post_init__(self) -> None:
        check_recipe(self.inner)
        given = self.penalties
        if not isinstance(given, tuple | list) or not given or not all(map(_is_penalty, given)):
            raise ConfigError(f"penalties are {given!r}", "give a tuple such as (GradAlign(0.2),)")
        object.__setattr__(self, "penalties", tuple(given))

    @property
    def name(self) -> str:
        return " + ".join([self.inner.name, *(penalty.name for penalty in self.penalties)])

    @property
    def gradients(self) -> int:
        return self.inner.gradients + sum(penalty.gradients for penalty in self.penalties)

    def around(self, inner: Recipe) -> Recipe:
        return replace(self, inner=inner)

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        return self.inner.attacked(learner, batch)

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        taught = self.inner.taught(learner, batch, attacked)
        # the examples' own gradient is watched, and moves them in Free: it is that of the recipe's loss alone
        apart, loss = replace(attacked, x=attacked.x.detach()), taught.loss
        for penalty in self.penalties:
            loss = loss + penalty.penalty(learner, batch, apart)
        return replace(taught, loss=loss)


def _is_penalty(value: object) -> bool:
    return isinstance(value, Penalty) and not isinstance(value, type)

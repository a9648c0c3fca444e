"""What is trained against: one threat, or the worst of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hardpoint.attacks.base import usable_threat
from hardpoint.core.access import Access
from hardpoint.core.errors import ConfigError, ThreatError
from hardpoint.harden.recipes import Awp, Denoiser, Distilled, Mixed, Noise, Pgd, Plain, Recipe, WorstOf
from hardpoint.harden.recipes.recipe import check_recipe
from hardpoint.models.torch import TorchModel
from hardpoint.threats.goals import Untargeted
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat


def trainable_threat(threat: Threat | Perturbation, model: TorchModel, recipe: Recipe | str) -> Threat:
    """The threat as the model allows it; raises ``ThreatError`` where nothing can be trained against it."""
    if not isinstance(recipe, str):
        check_recipe(recipe)
    wanted = usable_threat(threat, model, Access.LABELS)
    if not isinstance(wanted.goal, Untargeted):
        raise ThreatError(
            "the threat has a target", "harden against the untargeted threat, which includes it"
        )
    if not isinstance(recipe, Plain | Noise) and not 0 < wanted.perturbation.eps < math.inf:
        raise ThreatError(f"eps is {wanted.perturbation.eps}", "give a finite budget above 0")
    return wanted


def trainable_threats(threat: Any, model: TorchModel, recipe: Recipe | str) -> tuple[Threat, ...]:
    """One threat or a sequence of them, each as ``trainable_threat`` gives it; raises ``ConfigError`` for none and for
    two that are the same."""
    given = tuple(threat) if isinstance(threat, list | tuple) else (threat,)
    if not given:
        raise ConfigError("no threat is given", "give one, for example hp.Linf(8/255)")
    wanted = tuple(trainable_threat(one, model, recipe) for one in given)
    names = [one.name for one in wanted]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"the threat {name} is given twice", "give each threat once")
    return wanted


def recipe_against(recipe: Recipe | str, threats: Sequence[Threat]) -> Recipe | str:
    """The recipe as it is for one threat; for several, one that learns from the worst of them.

    Projected gradient descent becomes the search of ``WorstOf``, on its own and inside of recipes that leave the
    search to it; the default is ``WorstOf`` with its usual search. ``WorstOf`` itself and recipes that look at no
    threat stay as they are.

    Raises:
        ConfigError: for any other recipe with several threats.

    >>> from hardpoint.threats import L2, Linf
    >>> recipe_against(Mixed(Pgd(7)), [Threat(Linf(0.1)), Threat(L2(1.0))]).name
    'mixed(worst of 2 threats (pgd-7))'
    """
    if len(threats) == 1:
        return recipe
    perturbations = tuple(_distinct([threat.perturbation for threat in threats]))
    if len(perturbations) == 1:  # attackers who see more or less of the model, but may change the same
        return recipe
    return WorstOf(perturbations) if isinstance(recipe, str) else _worst_of(recipe, perturbations)


def _distinct(perturbations: Sequence[Perturbation]) -> list[Perturbation]:
    found: list[Perturbation] = []
    for one in perturbations:
        if all(one.describe() != other.describe() for other in found):
            found.append(one)
    return found


def _worst_of(recipe: Recipe, perturbations: tuple[Perturbation, ...]) -> Recipe:
    if isinstance(recipe, Pgd):
        return WorstOf(perturbations, recipe)
    if isinstance(recipe, WorstOf | Plain | Noise):
        return recipe
    if isinstance(recipe, Mixed | Awp | Distilled | Denoiser):  # penalties look at one threat themselves
        return recipe.around(_worst_of(recipe.inner, perturbations))
    raise ConfigError(
        f"{recipe.name} learns from one threat, and {len(perturbations)} are given",
        'use "default", "pgd" (alone or inside "mixed", "awp", "denoiser" or a teacher), or give one threat',
    )


def gates_for(gate: Any, threats: Sequence[Threat]) -> tuple[float | None, ...]:
    """The robust accuracy asked for under each threat: one number for all, or one (or None) for each.

    >>> from hardpoint.threats import L2, Linf
    >>> both = [Threat(Linf(0.1)), Threat(L2(1.0))]
    >>> gates_for(0.4, both), gates_for([0.4, None], both)
    ((0.4, 0.4), (0.4, None))
    """
    if not isinstance(gate, list | tuple):
        gate = (gate,) * len(threats)
    if len(gate) != len(threats):
        raise ConfigError(
            f"{len(gate)} gates are given for {len(threats)} threats", "give one for each, or one for all"
        )
    for one in gate:
        is_share = isinstance(one, int | float) and not isinstance(one, bool) and 0 <= one <= 1
        if one is not None and not is_share:
            raise ConfigError(f"a gate is {one!r}", "give a share from 0 to 1, or None")
    return tuple(gate)

"""Recipes by name, as the command line and ``recipe="trades"`` say them: the one place where they are listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, get_args, get_type_hints

from hardpoint.core.errors import ConfigError
from hardpoint.core.suggest import did_you_mean
from hardpoint.harden.penalties import GradAlign, InputGradient, Jacobian, LocalLinearity
from hardpoint.harden.recipes import (
    Atta,
    Awp,
    CrownIbp,
    Denoiser,
    FgsmRs,
    Free,
    Ibp,
    LipschitzMargin,
    Mart,
    Mixed,
    MtlIbp,
    NFgsm,
    Noise,
    Pgd,
    Plain,
    Recipe,
    Regularised,
    Sabr,
    Trades,
)

DEFAULT = "default"
"""Not a recipe but a choice: as many gradient steps as twice the price of ordinary training buys on this machine."""

_TOLD = (int, float, bool)
"""What an option can be."""


@dataclass(frozen=True)
class Named:
    """What a name stands for.

    Attributes:
        kind: the class of the recipe, or of a penalty; its plain settings are the name's options.
        inner: the name of the recipe that it is around, unless another is asked for; None for those around none.
    """

    kind: type
    inner: str | None = None

    def options(self) -> dict[str, type]:
        """The settings that can be told in a word, and of which type each is."""
        hints = get_type_hints(self.kind)
        found: dict[str, type] = {} if self.inner is None else {"inner": str}
        for field in fields(self.kind):
            known = [kind for kind in get_args(hints[field.name]) or (hints[field.name],) if kind in _TOLD]
            if known:
                found[field.name] = known[0]
        return found

    def made(self, options: Mapping[str, Any]) -> Recipe:
        """The recipe with these settings."""
        given = dict(options)
        around = None if self.inner is None else _simple(given.pop("inner", self.inner))
        if around is not None and "inner" in {field.name for field in fields(self.kind)}:
            given["inner"] = around
        made = self.kind(**given)
        return made if around is None or "inner" in given else Regularised(around, (made,))


NAMED: dict[str, Named] = {
    "plain": Named(Plain),
    "fgsm_rs": Named(FgsmRs),
    "n_fgsm": Named(NFgsm),
    "free": Named(Free),
    "atta": Named(Atta),
    "pgd": Named(Pgd),
    "trades": Named(Trades),
    "mart": Named(Mart),
    "awp": Named(Awp, inner="pgd"),
    "awp_trades": Named(Awp, inner="trades"),
    "mixed": Named(Mixed, inner="pgd"),
    "denoiser": Named(Denoiser, inner="pgd"),
    "noise": Named(Noise),
    "grad_align": Named(GradAlign, inner="fgsm_rs"),
    "input_gradient": Named(InputGradient, inner="plain"),
    "jacobian": Named(Jacobian, inner="plain"),
    "local_linearity": Named(LocalLinearity, inner="plain"),
    "lipschitz": Named(LipschitzMargin),
    "ibp": Named(Ibp),
    "crown_ibp": Named(CrownIbp),
    "sabr": Named(Sabr),
    "mtl_ibp": Named(MtlIbp),
}


def recipe_named(name: str, options: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe; raises ``ConfigError`` for a name that is none, and where a setting is missing or makes no sense.

    >>> recipe_named("trades").name, recipe_named("awp", {"inner": "trades"}).name
    ('trades-10', 'awp(trades-10)')
    """
    if name == "search":
        raise ConfigError(
            "searching for another architecture is no recipe", "use hp.search, or hardpoint search"
        )
    if name not in NAMED:
        raise ConfigError(f"recipe {name!r} is unknown", did_you_mean(name, [DEFAULT, *NAMED]))
    named, given = NAMED[name], dict(options or {})
    for field in fields(named.kind):
        needed = field.default is MISSING and field.default_factory is MISSING
        if needed and field.name in named.options() and field.name not in given and field.name != "inner":
            raise ConfigError(
                f"recipe {name!r} does not say how much {field.name}", f"write {name}:{field.name}=0.25"
            )
    return named.made(given)


def _simple(name: object) -> Recipe:
    """A recipe inside another, by its name alone."""
    simple = [key for key, named in NAMED.items() if named.inner is None and named.kind is not Noise]
    if name not in simple:
        raise ConfigError(f"recipe {name!r} cannot stand inside another", did_you_mean(str(name), simple))
    return recipe_named(str(name))

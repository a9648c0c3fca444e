"""Recipes by name, as the command line and ``recipe="trades"`` say them."""

from __future__ import annotations

from collections.abc import Callable

from hardpoint.core.errors import ConfigError
from hardpoint.core.suggest import did_you_mean
from hardpoint.harden.recipes import (
    Atta,
    Awp,
    CrownIbp,
    FgsmRs,
    Free,
    Ibp,
    Mart,
    Mixed,
    MtlIbp,
    NFgsm,
    Pgd,
    Plain,
    Recipe,
    Sabr,
    Trades,
)

DEFAULT = "default"
"""Not a recipe but a choice: as many gradient steps as twice the price of ordinary training buys on this machine."""

NAMED: dict[str, Callable[[], Recipe]] = {
    "plain": Plain,
    "fgsm_rs": FgsmRs,
    "n_fgsm": NFgsm,
    "free": Free,
    "atta": Atta,
    "pgd": Pgd,
    "trades": Trades,
    "mart": Mart,
    "awp": lambda: Awp(Pgd()),
    "awp_trades": lambda: Awp(Trades()),
    "mixed": lambda: Mixed(Pgd()),
    "ibp": Ibp,
    "crown_ibp": CrownIbp,
    "sabr": Sabr,
    "mtl_ibp": MtlIbp,
}


def recipe_named(name: str) -> Recipe:
    """The recipe; raises ``ConfigError`` for a name that is none.

    >>> recipe_named("trades").name
    'trades-10'
    """
    if name == "search":
        raise ConfigError(
            "searching for another architecture is no recipe", "use hp.search, or hardpoint search"
        )
    if name not in NAMED:
        raise ConfigError(f"recipe {name!r} is unknown", did_you_mean(name, [DEFAULT, *NAMED]))
    return NAMED[name]()

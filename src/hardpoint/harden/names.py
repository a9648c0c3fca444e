"""Recipes by name, as the command line and ``recipe="trades"`` say them."""

from __future__ import annotations

from collections.abc import Callable

from hardpoint.core.errors import ConfigError
from hardpoint.core.suggest import did_you_mean
from hardpoint.harden.recipes import Atta, Awp, FgsmRs, Free, Mart, Mixed, NFgsm, Pgd, Plain, Recipe, Trades

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
}


def recipe_named(name: str) -> Recipe:
    """The recipe; raises ``ConfigError`` for a name that is none.

    >>> recipe_named("trades").name
    'trades-10'
    """
    if name not in NAMED:
        raise ConfigError(f"recipe {name!r} is unknown", did_you_mean(name, [DEFAULT, *NAMED]))
    return NAMED[name]()

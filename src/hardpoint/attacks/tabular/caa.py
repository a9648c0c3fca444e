"""The constrained adaptive attack: gradients first, evolution on what still stands."""

from __future__ import annotations

from hardpoint.attacks.tabular.capgd import CAPGD
from hardpoint.attacks.tabular.moeva import MOEVA
from hardpoint.attacks.tabular.search import TableSearch
from hardpoint.core.access import Access
from hardpoint.engine.attack import Attack

_OFFSPRING = 32


def caa(access: Access | str, *, steps: int = 20, queries: int = 2000) -> tuple[Attack, ...]:
    """The stages of an attack on a table, each for the inputs that the one before left standing.

    Args:
        access: what the attacker sees. Gradients: ``CAPGD`` from the original and from a random row, then ``MOEVA``;
            scores: ``MOEVA`` alone; labels: ``TableSearch``, which needs no more.
        steps: gradient steps per start.
        queries: of the search, per input.

    Simonetto, Ghamizi and Cordy, "Constrained adaptive attack" (NeurIPS 2024), section 4.3.

    >>> [attack.name for attack in caa("gradients")]
    ['CAPGD-ce 20', 'CAPGD-ce 20 from random rows', 'MOEVA 62×32']
    """
    access = Access.parse(access)
    if access is Access.LABELS:
        return (TableSearch(queries=queries, needs=Access.LABELS),)
    offspring = max(2, min(_OFFSPRING, queries))
    search = MOEVA(generations=max(1, queries // offspring), offspring=offspring)
    if access is Access.SCORES:
        return (search,)
    return (CAPGD(steps=steps), CAPGD(steps=steps, random_start=True), search)

"""Rows of a table that obey constraints."""

from __future__ import annotations

from dataclasses import dataclass

from hardpoint.assess.arsenal.balls import longer, probes, targeted
from hardpoint.assess.stage import Stage, everyone
from hardpoint.attacks import APGD, CAPGD, MOEVA, PGD, TableSearch
from hardpoint.core.access import Access
from hardpoint.engine.attack import Attack


@dataclass(frozen=True)
class Tables:
    """Constrained adaptive attack and evolutionary search (Simonetto et al., 2024) beside those for balls."""

    targets: int

    @property
    def quick(self) -> Attack:
        return PGD(steps=20, loss="margin", decay=True)

    def fast(self) -> tuple[Stage, ...]:
        near, far = probes(self.targets)
        return (
            Stage(PGD(steps=10, loss="margin", decay=True)),
            Stage(APGD(loss="ce", steps=30)),
            Stage(CAPGD(steps=20)),
            Stage(CAPGD(steps=20, random_start=True)),
            Stage(near, left=0.5),
            Stage(far, left=0.25),
            Stage(TableSearch(queries=2000), left=0.1, sampled=False, rugged=True),
        )

    def further(self) -> tuple[Stage, ...]:
        return everyone(
            APGD(loss="ce", steps=100),
            *targeted(self.targets),
            CAPGD(steps=100),
            CAPGD(steps=100, random_start=True),
            MOEVA(generations=100, offspring=32),
            TableSearch(queries=5000),
        )

    def extra(self) -> tuple[Attack, ...]:
        return (*longer(self.targets), CAPGD(steps=300, random_start=True))

    def evasions(self) -> tuple[Attack, ...]:
        return CAPGD(loss="selective", steps=50), CAPGD(loss="bare", steps=50)

    def by_scores(self, queries: int, *, thorough: bool = False) -> tuple[Attack, ...]:
        return (TableSearch(queries=queries),)

    def by_labels(self, queries: int, *, thorough: bool = False) -> tuple[Attack, ...]:
        return (TableSearch(queries=queries, needs=Access.LABELS),)

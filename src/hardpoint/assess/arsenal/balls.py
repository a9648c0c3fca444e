"""Norm balls, and every set that knows its steepest direction and its projection."""

from __future__ import annotations

from dataclasses import dataclass

from hardpoint.assess.stage import Stage
from hardpoint.attacks import (
    APGD,
    DDN,
    FAB,
    FMN,
    NES,
    PGD,
    GeoDA,
    HopSkipJump,
    Memetic,
    MultiTargeted,
    RayS,
    SigmaZero,
    SimBA,
    Square,
    SuperDeepFool,
    SurFree,
)
from hardpoint.engine.attack import Attack
from hardpoint.threats import L0, L1, L2, Linf, Perturbation


@dataclass(frozen=True)
class Balls:
    """Orders, lengths and limits come from the experiment in docs/cascade.md. After ``fast`` come AutoAttack's attacks
    with its budgets (Croce and Hein, ICML 2020), and other starts for what lies nearest. In L0, which FAB does not
    know, sigma-zero stands for it."""

    perturbation: Perturbation
    targets: int

    @property
    def quick(self) -> Attack:
        return PGD(steps=20, loss="margin", decay=True)

    def fast(self) -> tuple[Stage, ...]:
        own = (Stage(SigmaZero(steps=100)),) if isinstance(self.perturbation, L0) else ()
        near, far = probes(self.targets)
        return (
            Stage(PGD(steps=10, loss="margin", decay=True)),
            Stage(APGD(loss="ce", steps=30)),
            *own,
            Stage(near, left=0.5),
            Stage(far, left=0.25),
            Stage(Memetic(), left=0.1, sampled=False, rugged=True),
            Stage(Memetic(), left=0.3, pays=0.03),
        )

    def further(self) -> tuple[Stage, ...]:
        best, *others = targeted(self.targets)
        return (
            Stage(APGD(loss="ce", steps=100)),
            Stage(best),
            *(Stage(attack, left=0.75) for attack in others),
            *(Stage(attack, left=0.3) for attack in self._nearest()),
            Stage(Square(queries=5000, rescale=False), left=0.3, rugged=True),
            Stage(restarted(self.targets), left=0.1),
        )

    def extra(self) -> tuple[Attack, ...]:
        return (*longer(self.targets), *self._minimal())

    def evasions(self) -> tuple[Attack, ...]:
        return APGD(loss="selective", steps=100), APGD(loss="bare", steps=50)

    def by_scores(self, queries: int, *, thorough: bool = False) -> tuple[Attack, ...]:
        if not thorough or queries < 8:
            return (Square(queries=queries),)
        eighth = queries // 8
        return Square(queries=queries - 2 * eighth), SimBA(queries=eighth), NES(queries=eighth)

    def by_labels(self, queries: int, *, thorough: bool = False) -> tuple[Attack, ...]:
        """RayS is made for Linf; at 1,000 queries it breaks twice what HopSkipJump does."""
        by_rays = isinstance(self.perturbation, Linf)
        if not thorough or queries < 8:
            return (RayS(queries=queries) if by_rays else HopSkipJump(queries=queries),)
        quarter = queries // 4
        if by_rays:
            return RayS(queries=queries - quarter), HopSkipJump(queries=quarter)
        return HopSkipJump(queries=queries - 2 * quarter), GeoDA(queries=quarter), SurFree(queries=quarter)

    def _nearest(self) -> tuple[Attack, ...]:
        if isinstance(self.perturbation, L0):
            return (SigmaZero(steps=300),)
        known = isinstance(self.perturbation, Linf | L2 | L1)
        return (FAB(steps=100, targets=self.targets),) if known else ()

    def _minimal(self) -> tuple[Attack, ...]:
        match self.perturbation:
            case Linf():
                return FMN(steps=500), RayS(queries=2000)
            case L2():
                return (
                    FMN(steps=500),
                    DDN(steps=500),
                    SuperDeepFool(),
                    SurFree(queries=2000),
                    HopSkipJump(queries=2000),
                )
            case L1():
                return (FMN(steps=500),)
            case L0():
                return FMN(steps=500), SigmaZero(steps=300)
        return ()


def targeted(targets: int) -> tuple[Attack, ...]:
    """APGD towards each of the likeliest wrong classes."""
    return tuple(APGD(loss="dlr", steps=100, target_rank=rank) for rank in range(1, targets + 1))


def probes(targets: int) -> tuple[Attack, Attack]:
    """A short look at every target and a longer one at the best; with one target only, plain searches as long."""
    if targets == 1:
        return APGD(loss="margin", steps=75), APGD(loss="margin", steps=400)
    return (
        MultiTargeted(targets=targets, probe_steps=5, top=min(3, targets), steps=25),
        MultiTargeted(targets=targets, probe_steps=10, top=min(4, targets), steps=100),
    )


def restarted(targets: int) -> Attack:
    """Other starts: what lies nearest falls from some of them only."""
    if targets == 1:
        return PGD(steps=100, loss="margin", restarts=12)
    return MultiTargeted(targets=targets, probe_steps=10, top=min(4, targets), steps=100, restarts=3)


def longer(targets: int) -> tuple[Attack, ...]:
    """Restarts, more steps, and every target to the end."""
    return (
        PGD(steps=200, loss="margin", restarts=3),
        APGD(loss="margin", steps=200),
        MultiTargeted(targets=targets, probe_steps=10, top=targets, steps=100),
    )

"""Changes of images that are no balls: patches, turns and shifts, colours and displacements."""

from __future__ import annotations

from dataclasses import dataclass

from hardpoint.assess.stage import Stage, everyone
from hardpoint.attacks import ParameterAscent, ParameterSearch, PatchAttack, PatchSearch, SpatialGrid
from hardpoint.core.access import Access
from hardpoint.engine.attack import Attack
from hardpoint.threats import Spatial


@dataclass(frozen=True)
class Patches:
    """A patch of one's own for every input: content by gradient at many places, then random search."""

    @property
    def quick(self) -> Attack:
        return PatchAttack(locations=4, steps=10)

    def fast(self) -> tuple[Stage, ...]:
        return (
            Stage(PatchAttack(locations=4, steps=10)),
            Stage(PatchAttack(locations=8, steps=25)),
            Stage(PatchAttack(locations=24, steps=50), left=0.5),
            Stage(PatchSearch(queries=1000), left=0.1, sampled=False, rugged=True),
        )

    def further(self) -> tuple[Stage, ...]:
        return everyone(
            PatchAttack(locations=16, steps=50),
            PatchAttack(locations=16, steps=50, loss="ce"),
            PatchSearch(queries=5000),
        )

    def extra(self) -> tuple[Attack, ...]:
        return (PatchAttack(locations=64, steps=100),)

    def evasions(self) -> tuple[Attack, ...]:
        return PatchAttack(locations=8, steps=50, loss="selective"), PatchAttack(
            locations=8, steps=25, loss="bare"
        )

    def by_scores(self, queries: int, *, thorough: bool = False) -> tuple[Attack, ...]:
        return (PatchSearch(queries=queries),)

    def by_labels(self, queries: int, *, thorough: bool = False) -> tuple[Attack, ...]:
        return (PatchSearch(queries=queries, needs=Access.LABELS),)


@dataclass(frozen=True)
class Turns:
    """All poses of the grid: complete in every mode, and without gradients, which mislead here (Engstrom et al., 2019).
    A limit on queries tries the largest first."""

    perturbation: Spatial

    @property
    def _all(self) -> SpatialGrid:
        return SpatialGrid(poses=len(self.perturbation.grid()[0]))

    @property
    def quick(self) -> Attack:
        return SpatialGrid(poses=64)

    def fast(self) -> tuple[Stage, ...]:
        return (Stage(self._all),)

    def further(self) -> tuple[Stage, ...]:
        return ()

    def extra(self) -> tuple[Attack, ...]:
        return ()

    def evasions(self) -> tuple[Attack, ...]:
        return ()

    def by_scores(self, queries: int, *, thorough: bool = False) -> tuple[Attack, ...]:
        return (self._all,)

    def by_labels(self, queries: int, *, thorough: bool = False) -> tuple[Attack, ...]:
        return (self._all,)


@dataclass(frozen=True)
class Parameters:
    """Colours and displacements: few numbers describe them, so random search is strong beside the gradient."""

    @property
    def quick(self) -> Attack:
        return ParameterAscent(steps=20, restarts=1)

    def fast(self) -> tuple[Stage, ...]:
        return (
            Stage(ParameterAscent(steps=10, restarts=1)),
            Stage(ParameterAscent(steps=25, restarts=3)),
            Stage(ParameterAscent(steps=100, restarts=4), left=0.5),
            Stage(ParameterSearch(queries=1000), left=0.5, rugged=True),
        )

    def further(self) -> tuple[Stage, ...]:
        return everyone(
            ParameterAscent(steps=100, restarts=5),
            ParameterAscent(steps=100, restarts=2, loss="ce"),
            ParameterSearch(queries=5000),
        )

    def extra(self) -> tuple[Attack, ...]:
        return (ParameterAscent(steps=200, restarts=20, step_size=0.25),)

    def evasions(self) -> tuple[Attack, ...]:
        return tuple(ParameterAscent(steps=50, restarts=3, loss=loss) for loss in ("selective", "bare"))

    def by_scores(self, queries: int, *, thorough: bool = False) -> tuple[Attack, ...]:
        return (ParameterSearch(queries=queries),)

    def by_labels(self, queries: int, *, thorough: bool = False) -> tuple[Attack, ...]:
        return (ParameterSearch(queries=queries, needs=Access.LABELS),)

"""All checks of one assessment."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hardpoint.assess.panel import budgets, noise, others, residual
from hardpoint.assess.panel.binarisation import binarisation
from hardpoint.assess.panel.claims import claims
from hardpoint.assess.panel.pilot import Pilot
from hardpoint.assess.panel.strength import Strength
from hardpoint.assess.work import Session, Table
from hardpoint.attacks import PGD
from hardpoint.core.rng import Rng
from hardpoint.engine.executors import Pool
from hardpoint.engine.guard import preserved_random_state
from hardpoint.evidence.assessment import Check, CurvePoint, StageRecord
from hardpoint.threats import Spatial

_ABOUT_THE_SEARCH = ("HP305", "HP306", "HP314", "HP317")
"""Checks that read what the search itself did."""


@dataclass(frozen=True)
class Checked:
    """What one piece of the panel found: its checks, and robust accuracy against eps where it measured that."""

    checks: tuple[Check, ...]
    curve: tuple[CurvePoint, ...] = ()


@dataclass(frozen=True)
class CheckPiece:
    """Checks for a worker to run together; the result does not depend on who runs them.

    Attributes:
        ids: of the checks.
        table, stages: what was assessed, and how far it got.
    """

    ids: tuple[str, ...]
    table: Table
    stages: tuple[StageRecord, ...]

    def do(self, session: Session) -> Checked:
        """Run them."""
        seed = Rng(session.seed).fork("panel").fork(self.ids[0]).stream % 2**63
        with preserved_random_state(seed=seed):
            pilot = Pilot.of(session, self.table)
            if set(self.ids) & set(_ALONG_BUDGETS):
                curve = budgets.curve_of(pilot)
                return Checked((budgets.monotone(curve), budgets.plateau(curve)), curve.points)
            return Checked(tuple(_CHECKS[id](pilot, self.table, self.stages) for id in self.ids))


_CHECKS: dict[str, Callable[[Pilot, Table, tuple[StageRecord, ...]], Check]] = {
    "HP301": lambda pilot, *_: noise.noise(pilot),
    "HP303": lambda pilot, *_: budgets.unbounded(pilot),
    "HP304": lambda pilot, *_: others.by_scores(pilot),
    "HP305": lambda pilot, _, stages: residual.residual(stages, pilot.session.is_exhaustive),
    "HP306": lambda _, table, __: claims(table),
    "HP308": lambda pilot, *_: others.one_step(pilot),
    "HP309": lambda pilot, *_: others.step_sizes(pilot),
    "HP310": lambda pilot, *_: others.starts_and_targets(pilot),
    "HP311": lambda pilot, *_: others.by_labels(pilot),
    "HP312": lambda pilot, *_: residual.convergence(pilot),
    "HP313": lambda pilot, *_: noise.trembling(pilot),
    "HP315": lambda pilot, *_: others.by_transfer(pilot),
    "HP316": lambda pilot, *_: binarisation(pilot),
    "HP317": lambda pilot, table, stages: others.by_scores_only(pilot, stages, table),
}
_ALONG_BUDGETS = ("HP302", "HP314")  # one curve serves both
_LONG_FIRST = ("HP316", "HP317", *_ALONG_BUDGETS, "HP304", "HP311", "HP310")
"""What takes long begins first, so that workers end together."""


def measure_strength(
    session: Session,
    table: Table,
    stages: tuple[StageRecord, ...],
    again: Strength | None = None,
    pool: Pool | None = None,
) -> Strength:
    """Run the checks that apply to the threat on inputs spread over the data.

    White-box threats get all of them. For black-box threats only noise and convergence are checked: the others
    would spend queries that the threat does not allow.

    Args:
        session, table, stages: what was assessed, and how far it got.
        again: what was measured before the search was widened: of the dear checks only those that did not pass are run
            again.
        pool: workers to share the checks; None for this process.
    """
    pilot = Pilot.of(session, table)
    if not pilot.white_box:
        return Strength.of((residual.late_successes(table), noise.noise(pilot)))
    passed = {} if again is None else {c.id: c for c in again.checks if c.id not in again.misleading}
    for id in _ABOUT_THE_SEARCH:
        passed.pop(id, None)
    pieces = [CheckPiece(ids, table, stages) for ids in _due(pilot) if not set(ids) <= set(passed)]
    done = pool.run(pieces) if pool is not None else ((piece, piece.do(session)) for piece in pieces)
    found = [checked for _, checked in done]
    checks = passed | {check.id: check for checked in found for check in checked.checks}
    curve = next((checked.curve for checked in found if checked.curve), ())
    return Strength.of((check for _, check in sorted(checks.items())), curve)


def _due(pilot: Pilot) -> list[tuple[str, ...]]:
    """Ids of the checks that apply, those that share work together."""
    ball = pilot.session.threat.perturbation
    ids = ["HP301", "HP305", "HP306", "HP313"]
    if 0 < ball.eps < math.inf:
        if not isinstance(ball, Spatial):  # grids of other limits hold other poses
            ids += _ALONG_BUDGETS
        ids += ["HP303", "HP304", "HP311", "HP317"]
        if isinstance(pilot.arsenal.quick, PGD):  # these are about steps along gradients
            ids += ["HP308", "HP309", "HP310", "HP312", "HP315", "HP316"]
    ordered = sorted(ids, key=lambda id: _LONG_FIRST.index(id) if id in _LONG_FIRST else len(_LONG_FIRST))
    together = [tuple(id for id in ordered if id in _ALONG_BUDGETS)]
    return [group for id in ordered if id != "HP314" for group in (together if id == "HP302" else [(id,)])]

"""All checks of one assessment."""

from __future__ import annotations

import math
from collections.abc import Callable

from hardpoint.assess.panel import budgets, noise, others, residual
from hardpoint.assess.panel.binarisation import binarisation
from hardpoint.assess.panel.claims import claims
from hardpoint.assess.panel.pilot import Pilot
from hardpoint.assess.panel.strength import Strength
from hardpoint.assess.work import Session, Table
from hardpoint.attacks import PGD
from hardpoint.evidence.assessment import Check, StageRecord
from hardpoint.threats import Spatial

_ABOUT_THE_SEARCH = ("HP305", "HP306", "HP314", "HP317")
"""Checks that read what the search itself did."""


def measure_strength(
    session: Session, table: Table, stages: tuple[StageRecord, ...], again: Strength | None = None
) -> Strength:
    """Run the checks that apply to the threat on inputs spread over the data.

    White-box threats get all of them. For black-box threats only noise and convergence are checked: the others
    would spend queries that the threat does not allow.

    Args:
        session, table, stages: what was assessed, and how far it got.
        again: what was measured before the search was widened: of the dear checks only those that did not pass are run
            again.
    """
    pilot = Pilot.of(session, table)
    if not pilot.white_box:
        return Strength.of((residual.late_successes(table), noise.noise(pilot)))
    to_do: dict[str, Callable[[], Check]] = {
        "HP301": lambda: noise.noise(pilot),
        "HP305": lambda: residual.residual(stages, session.is_exhaustive),
        "HP306": lambda: claims(table),
        "HP313": lambda: noise.trembling(pilot),
    }
    curve = budgets.Curve()
    if 0 < session.threat.perturbation.eps < math.inf:
        nested = not isinstance(
            session.threat.perturbation, Spatial
        )  # grids of other limits hold other poses
        if nested:
            curve = budgets.curve_of(pilot)
            to_do |= {"HP302": lambda: budgets.monotone(curve), "HP314": lambda: budgets.plateau(curve)}
        to_do |= {
            "HP303": lambda: budgets.unbounded(pilot),
            "HP304": lambda: others.by_scores(pilot),
            "HP311": lambda: others.by_labels(pilot),
            "HP317": lambda: others.by_scores_only(pilot, stages, table),
        }
        if isinstance(pilot.arsenal.quick, PGD):  # these are about steps along gradients
            to_do |= {
                "HP308": lambda: others.one_step(pilot),
                "HP309": lambda: others.step_sizes(pilot),
                "HP310": lambda: others.starts_and_targets(pilot),
                "HP312": lambda: residual.convergence(pilot),
                "HP315": lambda: others.by_transfer(pilot),
                "HP316": lambda: binarisation(pilot),
            }
    passed = {} if again is None else {c.id: c for c in again.checks if c.id not in again.misleading}
    for id in _ABOUT_THE_SEARCH:
        passed.pop(id, None)
    return Strength.of([passed.get(id) or check() for id, check in sorted(to_do.items())], curve.points)

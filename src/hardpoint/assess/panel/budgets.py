"""C3, C4, C13: what becomes of the success rate when the budget grows."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardpoint.assess.panel.pilot import Pilot, not_run
from hardpoint.attacks import PGD
from hardpoint.evidence.assessment import Check, CurvePoint, Verdict
from hardpoint.evidence.rate import Rate
from hardpoint.threats import SNR, Colour, Flow, Spatial

_FACTORS = (0.25, 0.5, 0.75, 1.5, 2.0)
_FLAT = 4.0  # a plateau reaches over budgets this many times apart


@dataclass(frozen=True)
class Curve:
    """Success of short attacks by eps (``raw``), and robust accuracy with all that is known joined in."""

    raw: tuple[tuple[float, float], ...] = ()
    points: tuple[CurvePoint, ...] = ()


def curve_of(pilot: Pilot) -> Curve:
    """Short attacks at several budgets. An example found at one is allowed at every larger one, so accuracies are
    joined downwards."""
    threat = pilot.session.threat
    eps = threat.perturbation.eps
    seen: dict[float, NDArray[np.bool_]] = {0.0: np.zeros(len(pilot.right), dtype=bool)}
    raw = [(0.0, 0.0)]
    for factor in _FACTORS:
        scaled = threat.scaled(factor)
        at = scaled.perturbation.eps
        if at in seen or at <= 0:
            continue
        seen[at] = pilot.broken_by(pilot.arsenal.quick, scaled, pilot.right)
        raw.append((at, float(seen[at].mean())))
    seen[eps] = pilot.broken
    points, union = [], np.zeros(len(pilot.right), dtype=bool)
    for at in sorted(seen):
        union = union | seen[at]
        points.append(CurvePoint(at, Rate.of(int((pilot.right & ~union).sum()), len(pilot.right))))
    return Curve(tuple(sorted(raw)), tuple(points))


def monotone(curve: Curve) -> Check:
    """C3: more budget must not break less."""
    drops = [before - after for (_, before), (_, after) in itertools.pairwise(curve.raw)]
    worst = max(0.0, *drops) if drops else 0.0
    return Check(
        "HP302",
        "Success grows with the budget",
        worst,
        0.05,
        Verdict.PASS if worst <= 0.05 else Verdict.FAIL,
        f"the largest fall of the success rate along the eps grid is {100 * worst:.1f} points",
    )


def plateau(curve: Curve) -> Check:
    """C13: where some fall and some stand, a budget several times as large must break more."""
    name = "Success does not level off"
    worst, clean = 1.0, max((p.rate.value for p in curve.points), default=0.0)
    for first, later in itertools.combinations([p for p in curve.points if p.x > 0], 2):
        fell, stand = clean - first.rate.value, later.rate.value
        if later.x >= _FLAT * first.x * (1 - 1e-9) and fell >= 0.1 and stand >= 0.1 and first.rate.value > 0:
            worst = min(worst, (first.rate.value - stand) / first.rate.value)
    words = f"budgets {_FLAT:g} times apart break at least {100 * worst:.0f} % of what stood, where that can be told"
    return Check("HP314", name, worst, 0.02, Verdict.PASS if worst > 0.02 else Verdict.WARN, words)


def unbounded(pilot: Pilot) -> Check:
    """C4, I6: with the whole input range allowed, accuracy must fall to chance. Constraints on tables may hold even
    then, so for them this only warns."""
    name, limit, threat = "The whole input range as budget", 0.1, pilot.session.threat
    if isinstance(threat.perturbation, Spatial | Colour | Flow | SNR):
        return not_run("HP303", name, limit, "this kind of change does not reach every input however large")
    if not pilot.session.target.model.box.is_bounded and not pilot.is_table:
        return not_run("HP303", name, limit, "the input range has no ends")
    attackable = pilot.right & pilot.attackable
    if not attackable.any():
        return not_run("HP303", name, limit, "no pilot input can be attacked")
    left = attackable.copy()
    ball = isinstance(pilot.arsenal.quick, PGD)
    several = (PGD(steps=40, loss="margin", decay=True), PGD(steps=40, loss="ce", restarts=2))
    for attack in several if ball else (pilot.arsenal.quick,):
        left &= ~pilot.broken_by(attack, threat.scaled(math.inf), left)
    accuracy = float(left.sum() / max(1, attackable.sum()))
    verdict = Verdict.PASS if accuracy <= limit else Verdict.FAIL
    if verdict is Verdict.FAIL and (accuracy <= 0.3 or pilot.is_table):
        verdict = Verdict.WARN
    words = f"with any change allowed {100 * accuracy:.0f} % of the pilot inputs stand"
    return Check("HP303", name, accuracy, limit, verdict, words)

"""How strong was the attack? Checks on a pilot of inputs, and the accuracy-against-eps curve they share.

Names C2 … C8 are those of Carlini et al., "On evaluating adversarial robustness" (2019), appendix.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardpoint.assess.cascade import QUOTA
from hardpoint.assess.work import Session, Table
from hardpoint.attacks import PGD, Square, TableSearch
from hardpoint.core.access import Access
from hardpoint.core.rng import Rng
from hardpoint.core.rows import chunks, take_rows
from hardpoint.engine.attack import Attack
from hardpoint.engine.clean import ranked_classes
from hardpoint.engine.search import search
from hardpoint.engine.verify import verify
from hardpoint.evidence.assessment import Check, CurvePoint, StageRecord, Status, Verdict
from hardpoint.evidence.finding import Finding, Severity, finding
from hardpoint.evidence.rate import Rate
from hardpoint.threats.features import FeatureEdits
from hardpoint.threats.threat import Threat

PILOT = 64
_FACTORS = (0.25, 0.5, 0.75, 1.5, 2.0)
_NOISE_DRAWS = 64


@dataclass(frozen=True)
class Strength:
    """The checks, the findings of those that did not pass, and robust accuracy against eps."""

    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    eps_curve: tuple[CurvePoint, ...]

    @property
    def misleading(self) -> tuple[str, ...]:
        """Ids of the checks that say a stronger search would find more."""
        return tuple(c.id for c in self.checks if c.verdict in (Verdict.FAIL, Verdict.WARN))

    def after(self, first: Strength, reasons: tuple[str, ...], stages: tuple[StageRecord, ...]) -> Strength:
        """These checks of a widened search joined with those of the ``first``, and a finding that says why it was
        widened. A check that passes now but did not at first warns: gradients mislead here, whatever else was found."""
        known = {c.id: c for c in first.checks}
        checks = tuple(_joined(known[c.id], c) if c.id in known else c for c in self.checks)
        more, because = sum(s.broken for s in stages), ", ".join(dict.fromkeys(reasons))
        said = finding("HP307", f"because of {because}; that broke {more} more inputs", measured=float(more))
        return Strength(checks, (*_findings(checks), said), self.eps_curve)


def _joined(before: Check, now: Check) -> Check:
    if now.verdict is not Verdict.PASS or before.verdict not in (Verdict.FAIL, Verdict.WARN):
        return now
    words = f"{before.explanation}; after the search was widened: {now.explanation}"
    return replace(before, verdict=Verdict.WARN, explanation=words)


def _findings(checks: Iterable[Check]) -> tuple[Finding, ...]:
    return tuple(
        finding(
            c.id,
            c.explanation,
            severity=Severity.FAIL if c.verdict is Verdict.FAIL else Severity.WARNING,
            measured=c.measured,
            threshold=c.threshold,
        )
        for c in checks
        if c.verdict in (Verdict.FAIL, Verdict.WARN)
    )


def measure_strength(session: Session, table: Table, stages: tuple[StageRecord, ...]) -> Strength:
    """Run the checks that apply to the threat on ``PILOT`` inputs spread over the data.

    White-box threats get all of them. For black-box threats only noise and convergence are checked: the others
    would spend queries that the threat does not allow.
    """
    pilot = _Pilot.of(session, table)
    white_box = session.threat.access is Access.GRADIENTS
    curve: tuple[CurvePoint, ...] = ()
    checks = [_residual(stages) if white_box else _late_successes(table), _noise(session, pilot, white_box)]
    eps = session.threat.perturbation.eps
    if white_box and 0 < eps < math.inf:
        raw, curve = _eps_curve(session, pilot, eps)
        checks.append(_monotone(raw))
        checks.append(_unbounded(session, pilot))
        checks.append(_black_box(session, pilot))
    return Strength(tuple(checks), _findings(checks), curve)


@dataclass(frozen=True)
class _Pilot:
    """Some inputs: which were right to begin with, which of them still stand, which the goal lets be attacked."""

    x: Tensor
    y: Tensor
    index: NDArray[np.int64]
    right: NDArray[np.bool_]
    standing: NDArray[np.bool_]
    attackable: NDArray[np.bool_]

    @classmethod
    def of(cls, session: Session, table: Table) -> _Pilot:
        index = spread(len(table.status), PILOT)
        x, y = session.rows(index)
        status, attackable = table.status[index], session.threat.goal.attackable(y).cpu().numpy()
        return cls(x, y, index, status != Status.CLEAN_ERROR, status == Status.STANDING, attackable)


def spread(n: int, count: int) -> NDArray[np.int64]:
    """Positions of ``count`` of ``n`` inputs at equal distances, all if there are fewer: data is often sorted by
    class, so the first inputs would be a poor sample.

    >>> spread(10, 4)
    array([0, 3, 6, 9])
    """
    return np.linspace(0, n - 1, min(n, count)).astype(np.int64)


def _broken_by(
    session: Session, pilot: _Pilot, attack: Attack, threat: Threat, rows: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which of the pilot's ``rows`` the attack breaks under ``threat`` (verified)."""
    at = torch.from_numpy(np.flatnonzero(rows)).to(pilot.x.device)
    broken = np.zeros(len(rows), dtype=bool)
    if not len(at):
        return broken
    x = pilot.x[at]
    ranked = torch.empty(len(x), 0, dtype=torch.int64, device=x.device)
    if threat.access >= Access.SCORES:
        ranked = ranked_classes(session.target.model.scores(x))
    result = search(
        attack,
        session.target,
        session.twin,
        threat,
        x,
        pilot.y[at],
        torch.from_numpy(pilot.index).to(x.device)[at],
        ranked,
        rng=Rng(session.seed).fork("strength").fork(f"{attack.name} {threat.name}"),
        deadline=session.deadline,
    )
    broken[at.cpu().numpy()] = result.broken.cpu().numpy()
    return broken


def _residual(stages: tuple[StageRecord, ...]) -> Check:
    """C2: what more of the same could still find.

    Two parts: what the last stage found, as one more like it would find at most about as much; and, where stages spare
    inputs that stand too far from falling, those that fell of the few that were drawn from them, each of which
    stands for twenty.
    """
    name, limit = "What a longer search would still find", 0.02
    first, last = stages[0], stages[-1]
    if first.inputs == 0 or last.inputs + last.spared == 0:
        return Check("HP305", name, 0.0, limit, Verdict.PASS, "no input stood any more")
    rate = Rate.of(last.broken, first.inputs)
    fell, drawn = sum(s.sampled_broken for s in stages), max(s.sampled for s in stages)
    spared = max(s.spared for s in stages)
    missed = fell * (1 / QUOTA - 1) / first.inputs
    words = f"{last.name} broke {last.broken} of the {last.inputs} inputs that it met"
    if spared:
        most = Rate.of(fell, drawn).high * spared / first.inputs if drawn else 1.0
        words += (
            f"; {spared} stood too far from falling for some stage, and of {drawn} drawn from such {fell} fell: "
            f"at most {100 * min(1.0, most):.1f} % of all inputs were missed that way"
        )
    passed = fell == 0 and (last.broken == 0 or rate.low <= limit)
    return Check("HP305", name, rate.value + missed, limit, Verdict.PASS if passed else Verdict.WARN, words)


def _late_successes(table: Table) -> Check:
    """C2 for black-box attacks: had the success rate levelled off when the queries ran out?"""
    spent = table.forward[table.status != Status.CLEAN_ERROR]
    half = int(spent.max(initial=0)) // 2
    late = int(((table.status == Status.BROKEN) & (table.forward > half)).sum())
    stood = late + int((table.status == Status.STANDING).sum())
    rate = late / max(1, stood)
    return Check(
        "HP305",
        "Yield of the second half of the queries",
        rate,
        0.05,
        Verdict.PASS if rate <= 0.05 else Verdict.WARN,
        f"queries {half + 1} and later broke {late} of the {stood} inputs that had stood until then",
    )


def _noise(session: Session, pilot: _Pilot, white_box: bool) -> Check:
    """C8: random allowed inputs. They must break nothing that a gradient attack left standing; a black-box
    attack, which must stop at its query budget, may leave some, but must break more than they do."""
    at = np.flatnonzero(pilot.standing if white_box else pilot.right)
    name, wins, draws = "Random noise", 0, _NOISE_DRAWS if white_box else 16
    allowed = 0.0 if white_box else float((pilot.right & ~pilot.standing).sum() / max(1, pilot.right.sum()))
    if len(at):
        rows = torch.from_numpy(at).to(pilot.x.device)
        region = session.threat.perturbation.around(pilot.x[rows], session.target.model.box)
        index = torch.from_numpy(pilot.index[at]).to(pilot.x.device)
        fell = torch.zeros(len(at), dtype=torch.bool, device=pilot.x.device)
        for draw in range(draws):
            point = region.sample(Rng(session.seed).fork("noise"), index, draw)
            labels = torch.cat(
                [session.target.model.predict(p) for p in chunks(point, session.target.capacity)]
            )
            claims = (session.threat.goal.reached(labels, pilot.y[rows]) & ~fell).nonzero().squeeze(1)
            if len(claims):
                fell[claims] = verify(
                    session.target.model,
                    take_rows(region, claims),
                    point[claims],
                    pilot.y[rows][claims],
                    session.threat.goal,
                    is_random=session.target.is_random,
                ).stands
        wins = int(fell.sum())
    share = wins / max(1, len(at))
    return Check(
        "HP301",
        name,
        share,
        allowed,
        Verdict.PASS if share <= allowed else Verdict.FAIL,
        f"{draws} random allowed inputs each broke {wins} of {len(at)} pilot inputs"
        + (" that stand" if white_box else f"; the attack broke {100 * allowed:.0f} %"),
    )


def _eps_curve(
    session: Session, pilot: _Pilot, eps: float
) -> tuple[list[tuple[float, float]], tuple[CurvePoint, ...]]:
    """Short attacks at several budgets: raw success by eps, and robust accuracy with what is known joined in.

    An example found at one budget is allowed at every larger one, so accuracies are joined downwards.
    """
    attack = PGD(steps=20, loss="margin", decay=True)
    at_one = pilot.right & ~pilot.standing
    seen: dict[float, NDArray[np.bool_]] = {0.0: np.zeros(len(pilot.right), dtype=bool)}
    raw = [(0.0, 0.0)]
    for factor in _FACTORS:
        threat = session.threat.scaled(factor)
        if threat.perturbation.eps in seen or threat.perturbation.eps <= 0:
            continue
        seen[threat.perturbation.eps] = _broken_by(session, pilot, attack, threat, pilot.right)
        raw.append((threat.perturbation.eps, float(seen[threat.perturbation.eps].mean())))
    seen[eps] = at_one
    points, union = [], np.zeros(len(pilot.right), dtype=bool)
    for at in sorted(seen):
        union = union | seen[at]
        points.append(CurvePoint(at, Rate.of(int((pilot.right & ~union).sum()), len(pilot.right))))
    return sorted(raw), tuple(points)


def _monotone(raw: list[tuple[float, float]]) -> Check:
    """C3: more budget must not break less."""
    drops = [before - after for (_, before), (_, after) in itertools.pairwise(raw)]
    worst = max(0.0, *drops) if drops else 0.0
    return Check(
        "HP302",
        "Success grows with the budget",
        worst,
        0.05,
        Verdict.PASS if worst <= 0.05 else Verdict.FAIL,
        f"the largest fall of the success rate along the eps grid is {100 * worst:.1f} points",
    )


def _unbounded(session: Session, pilot: _Pilot) -> Check:
    """C4: with the whole input range allowed, accuracy must fall to chance. Constraints on tables may hold even
    then, so for them this only warns."""
    name, limit = "The whole input range as budget", 0.1
    if not session.target.model.box.is_bounded and not _is_table(session.threat):
        why = "the input range has no ends"
        return Check("HP303", name, None, limit, Verdict.NOT_RUN, why)
    threat = session.threat.scaled(math.inf)
    at_first = pilot.right & pilot.attackable
    left = at_first.copy()
    for attack in (PGD(steps=40, loss="margin", decay=True), PGD(steps=40, loss="ce", restarts=2)):
        left &= ~_broken_by(session, pilot, attack, threat, left)
    accuracy = float(left.sum() / max(1, at_first.sum()))
    verdict = Verdict.PASS if accuracy <= limit else Verdict.FAIL
    if verdict is Verdict.FAIL and (accuracy <= 0.3 or _is_table(session.threat)):
        verdict = Verdict.WARN
    return Check(
        "HP303",
        name,
        accuracy,
        limit,
        verdict,
        f"with any change allowed {100 * accuracy:.0f} % of the pilot inputs stand",
    )


def _is_table(threat: Threat) -> bool:
    return isinstance(threat.perturbation, FeatureEdits)


def _black_box(session: Session, pilot: _Pilot) -> Check:
    """C5: an attacker who sees less must not do better."""
    threat = session.threat.with_access(Access.SCORES)
    attack: Attack = TableSearch(queries=300) if _is_table(threat) else Square(queries=300)
    extra = int(_broken_by(session, pilot, attack, threat, pilot.standing).sum())
    share = extra / max(1, len(pilot.right))
    return Check(
        "HP304",
        "A black-box attack on what stands",
        share,
        0.0,
        Verdict.PASS if extra == 0 else Verdict.WARN,
        f"{attack.name} broke {extra} of the {int(pilot.standing.sum())} pilot inputs that stand",
    )


def query_curve(session: Session, table: Table, budget: int) -> tuple[CurvePoint, ...]:
    """Robust accuracy against queries per input, for black-box threats, from what each success cost."""
    right = table.status != Status.CLEAN_ERROR
    cost = np.where(table.status == Status.BROKEN, table.forward, np.iinfo(np.int64).max)
    grid = sorted({1, budget, *(int(10**e) for e in np.linspace(0, math.log10(max(budget, 2)), 25))})
    n = len(table.status)
    return tuple(
        CurvePoint(float(q), Rate.of(int((right & (cost > q)).sum()), n)) for q in grid if q <= budget
    )

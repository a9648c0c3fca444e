"""C2: what more of the same could still find."""

from __future__ import annotations

import itertools

import numpy as np

from hardpoint.assess.cascade import QUOTA
from hardpoint.assess.panel.pilot import Pilot, not_run
from hardpoint.assess.work import Table
from hardpoint.attacks import APGD
from hardpoint.evidence.assessment import Check, StageRecord, Status, Verdict
from hardpoint.evidence.rate import Rate


def residual(stages: tuple[StageRecord, ...], exhaustive: bool = False) -> Check:
    """Two parts: what the last stage found, as one more like it would find at most about as much; and, where stages
    spare inputs that stand too far from falling, those that fell of the few that were drawn from them, each of which
    stands for twenty."""
    name, limit = "What a longer search would still find", 0.02
    first, last = stages[0], [s for s in stages if s.inputs or not s.spared][-1]
    if first.inputs == 0 or last.inputs + last.spared == 0:
        return Check("HP305", name, 0.0, limit, Verdict.PASS, "no input stood any more")
    if exhaustive:
        return Check("HP305", name, 0.0, limit, Verdict.PASS, f"{last.name} tried everything that is allowed")
    rate = Rate.of(last.broken, first.inputs)
    fell = drawn = spared = 0
    if last.spared:  # else the last stage met everyone, and whom earlier ones spared is no longer a question
        latest = max((i for i, s in enumerate(stages) if not s.spared), default=0)
        # one that met everyone settles what was spared before
        since = [s for s in stages[latest:] if s.inputs]
        before = list(itertools.accumulate((s.sampled_broken for s in since), initial=0))
        fell, spared = before[-1], max(s.spared for s in since)
        drawn = max(seen + s.sampled for seen, s in zip(before, since, strict=False))
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


def late_successes(table: Table) -> Check:
    """For black-box attacks: had the success rate levelled off when the queries ran out?"""
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


def convergence(pilot: Pilot) -> Check:
    """I4: how far a fresh search of 100 steps moves the nearest miss, as a share of the clean lead.

    Pintor et al. look at the slope of one attack's loss; the nearest miss over all attacks is what a verdict rests on.
    """
    name, limit = "A longer search comes no nearer", 0.1
    rows = pilot.standing & np.isfinite(pilot.nearest) & (pilot.lead < 0)
    if not rows.any():
        return not_run("HP312", name, limit, "no pilot input stands")
    found = pilot.searched(APGD(loss="margin", steps=100), pilot.session.threat, rows)
    gained = (found.closest.cpu().numpy() - pilot.nearest[rows]) / -pilot.lead[rows]
    gain = float(np.clip(gained, 0.0, 1.0).mean())
    verdict = Verdict.PASS if gain <= limit else Verdict.WARN
    words = f"100 more steps moved the nearest miss by {100 * gain:.1f} % of the clean lead, on average"
    return Check("HP312", name, gain, limit, verdict, words)

"""C1, C5, C7, C9, C10: attacks of other kinds must not find what the search left."""

from __future__ import annotations

import numpy as np

from hardpoint.assess.panel.pilot import Pilot, not_run, spread
from hardpoint.assess.panel.smoothed import smoothed_surrogate
from hardpoint.assess.work import Table
from hardpoint.attacks import FGSM, PGD, MultiTargeted
from hardpoint.attacks.transfer import Momentum, Transfer
from hardpoint.core.access import Access
from hardpoint.engine.attack import Attack, SparingAttack
from hardpoint.evidence.assessment import Check, StageRecord, Status, Verdict
from hardpoint.evidence.rate import Rate
from hardpoint.threats import L1, L2, Linf

_QUERIES = 200
_STEPS = 20
_LOOKED_AT = 16
_ALLOWED = 0.002
_CONTROL = 10


def one_step(pilot: Pilot) -> Check:
    """C1: one step must not do better than many."""
    return pilot.extra("HP308", "One step finds no more", (FGSM(),))


def step_sizes(pilot: Pilot) -> Check:
    """C10: steps of a quarter of, and four times, the usual length."""
    name, ball = "Other step sizes find no more", pilot.session.threat.perturbation
    if not isinstance(ball, Linf | L2 | L1):
        return not_run("HP309", name, 0.0, "steps have no length of their own under this threat")
    usual = 2.5 * ball.eps / _STEPS
    attacks = tuple(PGD(steps=_STEPS, loss="margin", step_size=usual * by) for by in (0.25, 4.0))
    return pilot.extra("HP309", name, attacks)


def starts_and_targets(pilot: Pilot) -> Check:
    """C9: other random starts, another loss, and every wrong class aimed at, must agree."""
    targets = min(9, max(1, (pilot.session.classes or 10) - 1))
    aimed = (
        (MultiTargeted(targets=targets, probe_steps=5, top=min(3, targets), steps=_STEPS),)
        if targets > 1
        else ()
    )
    again = PGD(steps=_STEPS, loss="ce", restarts=2)
    return pilot.extra("HP310", "Other starts and targets find no more", (again, *aimed))


def by_scores(pilot: Pilot) -> Check:
    """C5: an attacker who sees less must not do better."""
    threat = pilot.session.threat.with_access(Access.SCORES)
    return pilot.extra(
        "HP304", "A black-box attack on what stands", pilot.arsenal.by_scores(_QUERIES), threat
    )


def by_scores_only(pilot: Pilot, stages: tuple[StageRecord, ...], table: Table) -> Check:
    """C5 on all inputs: what random search broke after gradient attacks is given to the gradient attacks that
    ``thorough`` adds, the longest there are.

    Where these break it too the gradients were sound and the search short; two inputs that none breaks show that
    gradients mislead there. It fails where they are surely more than the 0.2 % that AutoAttack's own check allows,
    unless inputs drawn from those that the random search spared, all of which stood, show that it went far enough.
    """
    id, name = "HP317", "What random search breaks, gradients break too"
    attacks = [stage.attack for stage in pilot.session.every_stage[: len(stages)]]
    blind = [i for i, attack in enumerate(attacks) if not _only_climbs(attack)]
    if not blind or len(blind) == len(attacks):
        return not_run(id, name, 0.0, "the search had not both kinds of attack")
    last = [stages[i] for i in blind if stages[i].inputs or not stages[i].spared][-1:]
    went_far = any(not s.spared or (s.sampled >= _CONTROL and not s.sampled_broken) for s in last)
    every = np.flatnonzero((table.status == Status.BROKEN) & np.isin(table.stage, blind))
    fell = every[spread(len(every), _LOOKED_AT)] if len(every) else every
    left = np.ones(len(fell), dtype=bool)
    if len(fell):
        again = Pilot.at(pilot.session, table, fell)
        for attack in pilot.arsenal.extra():
            if _only_climbs(attack):
                left &= ~again.broken_by(attack, pilot.session.threat, left)
    missed, n = int(left.sum()), stages[0].inputs
    verdict = Verdict.PASS if missed < 2 else Verdict.WARN
    in_all = round(missed * len(every) / max(1, len(fell)))
    if missed > 1 and Rate.of(in_all, n).low > _ALLOWED and not went_far:
        verdict = Verdict.FAIL
    words = (
        f"of {len(fell)} inputs that random search broke, {missed} fall to no gradient attack however long"
    )
    return Check(id, name, in_all / max(1, n), 0.0, verdict, words)


def _only_climbs(attack: Attack) -> bool:
    return attack.needs is Access.GRADIENTS and not isinstance(attack, SparingAttack)


def by_labels(pilot: Pilot) -> Check:
    """C7: nor one who sees labels only."""
    threat = pilot.session.threat.with_access(Access.LABELS)
    return pilot.extra("HP311", "Labels alone break no more", pilot.arsenal.by_labels(_QUERIES), threat)


def by_transfer(pilot: Pilot) -> Check:
    """C5, I5: nor one who attacks another model: those given, else a smooth copy of this one."""
    name, session = "Transfer breaks no more", pilot.session
    models = session.surrogates or smoothed_surrogate(session.target.model, pilot.x[:1])
    if not models:
        return not_run("HP315", name, 0.0, "no surrogate was given, and the model has nothing to smooth")
    attack = Transfer(models, processors=(Momentum(1.0),), steps=_STEPS, ask_every=5)
    return pilot.extra("HP315", name, (attack,))

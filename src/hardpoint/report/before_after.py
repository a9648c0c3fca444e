"""What a training changed, threat by threat: the first thing that its page says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from hardpoint.evidence import Assessment, Rate
from hardpoint.evidence.training import AFTER, BEFORE, moment_of
from hardpoint.report import words
from hardpoint.report.compare import Difference, compare, paired_difference
from hardpoint.report.reading import threat_name


@dataclass(frozen=True)
class Change:
    """Robust accuracy before and after a training, under one threat or under all of them."""

    threat: str
    before: Rate
    after: Rate
    difference: Difference


def standing_under_all(assessments: Sequence[Assessment]) -> Rate:
    """The share of inputs that stand in every one of the ``assessments``, which are of the same inputs."""
    standing = _standing(assessments)
    return Rate.of(int(standing.sum()), len(standing))


def changes(assessments: Sequence[Assessment]) -> tuple[Change, ...]:
    """What changed under each threat that was assessed before and after on the same inputs, and under all of them;
    nothing for fewer than two such threats, whose verdicts say it all."""
    moments = {moment: _by_threat(assessments, moment) for moment in (BEFORE, AFTER)}
    shared = [name for name in moments[BEFORE] if name in moments[AFTER]]
    if len(shared) < 2:
        return ()
    if len({moments[moment][name].outcomes.index.tobytes() for moment in moments for name in shared}) > 1:
        return ()
    before, after = ([found[name] for name in shared] for found in moments.values())
    each = tuple(
        Change(_told(t.a, before), t.a.robust_accuracy, t.b.robust_accuracy, t.robust)
        for t in compare(before, after).threats
    )
    together = paired_difference(_standing(before), _standing(after))
    return (*each, Change("all of them", standing_under_all(before), standing_under_all(after), together))


def _told(one: Assessment, others: Sequence[Assessment]) -> str:
    """The threat in words, with what the attacker sees where others may change the same."""
    text = words.perturbation_text(one.threat)
    alike = sum(words.perturbation_text(other.threat) == text for other in others)
    return text if alike == 1 else f"{text}, {one.threat.get('access')} access"


def _by_threat(assessments: Sequence[Assessment], moment: str) -> dict[str, Assessment]:
    return {threat_name(a): a for a in assessments if moment_of(a.name) == moment}


def _standing(assessments: Sequence[Assessment]) -> NDArray[np.bool_]:
    return ~reduce(np.logical_or, (a.outcomes.broken for a in assessments))

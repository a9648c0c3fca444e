"""I3, I5: successes that the search saw and the model did not confirm."""

from __future__ import annotations

from hardpoint.assess.work import Table
from hardpoint.evidence.assessment import Check, Verdict


def claims(table: Table) -> Check:
    """A success on the copy that does not hold on the model is a transfer that failed. The examples that the search
    returns are verified when they are found, so none is lost on the way (Pintor et al.'s silent success)."""
    claimed, rejected, _ = (int(v) for v in table.checks)
    share, limit = rejected / max(1, claimed), 0.1
    verdict = Verdict.PASS if share <= limit or rejected <= 3 else Verdict.WARN
    words = f"{rejected} of {claimed} successes on the copy did not hold on the model"
    return Check("HP306", "Successes on the copy hold on the model", share, limit, verdict, words)

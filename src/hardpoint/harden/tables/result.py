"""What hardening an estimator returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hardpoint.evidence.rate import Rate
from hardpoint.harden.tables.measure import Measured


@dataclass(frozen=True)
class Round:
    """One fit, judged on the rows held back.

    Attributes:
        number: 0 for the fit without examples.
        examples: constrained examples learned from, all of them checked.
        refused: examples that the checker of constraints refused, and that were left out.
        fallen: the share of the training rows on which the search before this fit misled the model.
        clean: accuracy on the rows held back.
        robust: accuracy under attack, on those of them that were attacked.
        seconds: that it took.
    """

    number: int
    examples: int
    refused: int
    fallen: float
    clean: Rate
    robust: Rate
    seconds: float


@dataclass(frozen=True, eq=False)
class TableHardenResult:
    """An estimator after hardening.

    Attributes:
        model: fitted; the one given is unchanged.
        history: every fit, in order.
        kept: the fit that ``model`` is; with a gate, the one that was put behind it.
        before, after: on the same test rows, each under what is strongest against it, which may differ where an
            estimator of another kind answers (``attacks`` tells); None without any.
        certified: the share of the test rows that are proven to be answered right whatever the attacker does; None
            without a gate or without test rows.
    """

    model: Any
    history: tuple[Round, ...]
    kept: Round
    before: Measured | None
    after: Measured | None
    certified: Rate | None = None

    def __repr__(self) -> str:
        head = f"<{type(self.model).__name__}, round {self.kept.number} of {len(self.history) - 1}"
        if self.before is None or self.after is None:
            return f"{head}: on rows held back, robust accuracy {self.kept.robust}, clean {self.kept.clean}>"
        return (
            f"{head}: robust accuracy {self.before.robust_accuracy} → {self.after.robust_accuracy}, "
            f"clean {self.before.clean_accuracy} → {self.after.clean_accuracy}>"
        )


def best_round(history: tuple[Round, ...], most_lost: float) -> Round:
    """The most robust among the fits that lose at most ``most_lost`` of the first one's clean accuracy; the more
    accurate, then the earlier, of equals."""
    enough = history[0].clean.value - most_lost - 1e-12
    able = [known for known in history if known.clean.value >= enough]
    return max(able, key=lambda known: (known.robust.value, known.clean.value, -known.number))

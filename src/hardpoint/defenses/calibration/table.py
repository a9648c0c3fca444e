"""What a detector's thresholds do: benign inputs flagged, attacks caught of those who ignore it and who know it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardpoint.defenses.calibration._checks import checked_scores
from hardpoint.defenses.calibration.exact import exact_rate
from hardpoint.defenses.calibration.thresholds import Threshold
from hardpoint.evidence.defence import ThresholdRecord
from hardpoint.evidence.rate import Rate

NOT_MEASURED = "not measured"


def threshold_table(
    detector: str,
    thresholds: Sequence[Threshold],
    holdout: Tensor,
    naive: Tensor,
    adaptive: Tensor | None = None,
    *,
    added_ms: float | None = None,
) -> tuple[ThresholdRecord, ...]:
    """A row per threshold.

    Args:
        detector: its name.
        thresholds: those to be compared.
        holdout: ``[n]``, scores of benign inputs that neither fitted nor calibrated anything.
        naive: ``[a]``, scores of inputs attacked by someone who ignores the detector.
        adaptive: ``[b]``, of inputs attacked by someone who attacks the detector too.
        added_ms: milliseconds that the detector adds per input.

    >>> from hardpoint.defenses.calibration.thresholds import marginal_threshold
    >>> row = threshold_table("energy", [marginal_threshold(torch.arange(99.0), 0.1)], torch.arange(50.0) * 2,
    ...     torch.arange(80.0, 120.0))[0]
    >>> print(row.false_positives, "|", row.caught_adaptive)
    10.0 % [3.3, 21.8] of 50 | None
    """
    return tuple(
        ThresholdRecord(
            detector,
            threshold.alpha,
            threshold.value,
            threshold.guarantee,
            flagged(threshold, holdout, "holdout scores"),
            flagged(threshold, naive, "scores of attacked inputs"),
            None
            if adaptive is None
            else flagged(threshold, adaptive, "scores of adaptively attacked inputs"),
            added_ms,
        )
        for threshold in thresholds
    )


def flagged(threshold: Threshold, scores: Tensor, what: str = "scores") -> Rate:
    """The share of ``scores`` ``[n]`` above the threshold, with its exact 95 % interval."""
    values = checked_scores(scores, what)
    return exact_rate(int(threshold.flags(values).sum()), len(values))


@dataclass(frozen=True)
class Auroc:
    """How well scores rank attacked inputs above benign ones; never without the attacker who knows the detector.

    Attributes:
        naive: against inputs attacked by someone who ignores the detector.
        adaptive: against someone who attacks it too; None where that was not measured.
        n_benign, n_naive, n_adaptive: how many inputs of each.
    """

    naive: float
    adaptive: float | None
    n_benign: int
    n_naive: int
    n_adaptive: int

    def __str__(self) -> str:
        adaptive = NOT_MEASURED if self.adaptive is None else f"{self.adaptive:.3f}"
        return f"{self.naive:.3f} (adaptive: {adaptive})"

    def describe(self) -> dict[str, Any]:
        """JSON-ready; what was not measured says so."""
        return {
            "naive": self.naive,
            "adaptive": NOT_MEASURED if self.adaptive is None else self.adaptive,
            "n_benign": self.n_benign,
            "n_naive": self.n_naive,
            "n_adaptive": self.n_adaptive,
        }


def auroc(benign: Tensor, attacked: Tensor, adaptive: Tensor | None = None) -> Auroc:
    """The area under the ROC curve, exactly: the chance that an attacked input scores above a benign one, ties half.

    >>> print(auroc(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])))
    0.875 (adaptive: not measured)
    """
    order = checked_scores(benign, "benign scores").sort().values
    naive = _chance_above(order, checked_scores(attacked, "scores of attacked inputs"))
    if adaptive is None:
        return Auroc(naive, None, len(order), len(attacked), 0)
    known = checked_scores(adaptive, "scores of adaptively attacked inputs")
    return Auroc(naive, _chance_above(order, known), len(order), len(attacked), len(known))


def _chance_above(order: Tensor, scores: Tensor) -> float:
    below = torch.searchsorted(order, scores)
    not_above = torch.searchsorted(order, scores, right=True)
    return int((below + not_above).sum()) / (2 * len(order) * len(scores))

"""Further rates for tables, where classes are rarely balanced and accuracy alone misleads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hardpoint.evidence.assessment import Outcomes


def matthews(label: NDArray[np.int64], prediction: NDArray[np.int64]) -> float:
    """Matthews correlation, for any number of classes (Gorodkin 2004); 0 where it is undefined.

    >>> matthews(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]))
    1.0
    """
    classes = np.union1d(label, prediction)
    true = (label[:, None] == classes).astype(float)
    said = (prediction[:, None] == classes).astype(float)
    cov = _covariance(true, said)
    spread = np.sqrt(_covariance(true, true) * _covariance(said, said))
    return float(cov / spread) if spread > 0 else 0.0


def _covariance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(((a - a.mean(0)) * (b - b.mean(0))).sum())


def table_metrics(outcomes: Outcomes, shape: tuple[int, ...]) -> dict[str, float]:
    """``mcc_clean`` and ``mcc_robust`` for inputs that are rows of a table; nothing for others."""
    if len(shape) != 1:
        return {}
    return {
        "mcc_clean": matthews(outcomes.label, outcomes.clean_prediction),
        "mcc_robust": matthews(outcomes.label, outcomes.final_prediction),
    }

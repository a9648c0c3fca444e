"""Thresholds of each predicted class, where there are enough calibration inputs of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hardpoint.core.errors import DataError
from hardpoint.defenses.calibration._checks import check_share, checked_scores
from hardpoint.defenses.calibration.thresholds import Threshold, marginal_threshold, pac_threshold, smallest_n


@dataclass(frozen=True)
class ClassThresholds:
    """A threshold per predicted class, and one for the classes too rare to have their own.

    Attributes:
        by_class: the threshold of each class that has one.
        otherwise: the threshold of all calibration inputs together, used for the other classes.
        notes: which classes that concerns, and what is not promised for them; empty where there are none.
    """

    by_class: Mapping[int, Threshold]
    otherwise: Threshold
    notes: tuple[str, ...] = ()

    def flags(self, scores: Tensor, predicted: Tensor) -> Tensor:
        """bool ``[n]``: which inputs are flagged, given the classes predicted for them, int64 ``[n]``."""
        values = checked_scores(scores, "scores", least=0)
        labels = _checked_classes(values, predicted)
        limits = [self.by_class.get(c, self.otherwise).value for c in labels.tolist()]
        return (values > torch.tensor(limits, dtype=torch.float64)).to(scores.device)

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "kind": "per class",
            "by_class": {str(c): threshold.describe() for c, threshold in self.by_class.items()},
            "otherwise": self.otherwise.describe(),
            "notes": list(self.notes),
        }


def per_class(
    scores: Tensor,
    predicted: Tensor,
    alpha: float,
    delta: float | None = None,
    *,
    classes: int | None = None,
) -> ClassThresholds:
    """A threshold per predicted class (Mondrian conformal prediction: Vovk, Gammerman and Shafer, 2005, section 4.5).

    A class gets its own where at least ``2 / alpha`` calibration inputs, and as many as ``delta`` needs, are predicted
    to be of it; the others share the threshold of all inputs, and the result says so.

    Args:
        scores: ``[n]``, of benign inputs that nothing was fitted on.
        predicted: int64 ``[n]``, the classes that the model predicts for them (not their labels, which are not known
            when it serves).
        alpha: the false-positive rate within each class.
        delta: thresholds are PAC where it is given.
        classes: how many classes there are, so that those never predicted are named too.

    Raises:
        Uncalibrated: where all the inputs together are too few.

    >>> both = per_class(torch.arange(100.0), torch.arange(100) % 2, 0.1, classes=3)
    >>> both.notes[0]
    'class 2 is predicted for 0 of the calibration inputs and needs 20: ...'
    """
    check_share(alpha, "alpha")
    values = checked_scores(scores, "calibration scores")
    labels = _checked_classes(values, predicted)

    def threshold(part: Tensor) -> Threshold:
        return marginal_threshold(part, alpha) if delta is None else pac_threshold(part, alpha, delta)

    everyone = replace(threshold(values), covers="all benign inputs together")
    needed = max(math.ceil(2.0 / alpha), smallest_n(alpha, delta))
    by_class, notes = {}, []
    for c in range(max(int(labels.max()) + 1, classes or 0)):
        part = values[labels == c]
        if len(part) >= needed:
            by_class[c] = replace(threshold(part), covers=f"benign inputs predicted as class {c}")
        else:
            notes.append(
                f"class {c} is predicted for {len(part)} of the calibration inputs and needs {needed}: it is held to "
                "the threshold of all classes together, so more of its benign inputs may be flagged; over all benign "
                f"inputs, at most {100 * min(1.0, 2 * alpha):g} % are"
            )
    return ClassThresholds(by_class, everyone, tuple(notes))


def _checked_classes(values: Tensor, predicted: Tensor) -> Tensor:
    if predicted.shape != values.shape or predicted.is_floating_point():
        raise DataError(
            f"the predicted classes have shape {tuple(predicted.shape)} for {len(values)} scores",
            "give one whole number per score, logits.argmax(1)",
        )
    return predicted.cpu()

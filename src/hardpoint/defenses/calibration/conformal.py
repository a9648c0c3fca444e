"""Conformal p-values: how unusual a score is among those of benign inputs, without assuming a distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from hardpoint.core.rng import Rng
from hardpoint.defenses.calibration._checks import checked_scores


def p_values(
    calibration_scores: Tensor, scores: Tensor, rng: Rng | None = None, *, index: Tensor | None = None
) -> Tensor:
    """float64 ``[m]``: ``(1 + #{s_i >= s}) / (n + 1)`` for each score ``s`` among the ``n`` of benign inputs.

    Where an input is exchangeable with the calibration inputs, P(p <= alpha) <= alpha at every alpha, whatever the
    distribution (Vovk, Gammerman and Shafer, 2005, chapter 2). With ``rng``, ties are broken at random and p is exactly
    uniform; without, tied scores, as of detectors that count, only make it larger.

    Args:
        calibration_scores: ``[n]``, of benign inputs that nothing was fitted on.
        scores: ``[m]``, higher is more suspicious.
        rng: breaks ties; fork it by the detector's name.
        index: int64 ``[m]``, which inputs these are, so that a draw belongs to an input; their positions by default.

    Raises:
        DataError: for NaN, by row; ``NothingToTest`` without calibration scores.

    >>> p_values(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 2.0, 9.0])).tolist()
    [1.0, 0.75, 0.25]
    """
    benign = checked_scores(calibration_scores, "calibration scores").sort().values
    asked = checked_scores(scores, "scores", least=0)
    n = len(benign)
    at_least = n - torch.searchsorted(benign, asked)
    if rng is None:
        p = (1 + at_least).double() / (n + 1)
    else:
        above = n - torch.searchsorted(benign, asked, right=True)
        places = torch.arange(len(asked)) if index is None else index.cpu()
        share = 1.0 - rng.uniform(places, dtype=torch.float64)  # in (0, 1]: a p-value is never 0
        p = (above.double() + share * (1 + at_least - above).double()) / (n + 1)
    return p.to(scores.device)

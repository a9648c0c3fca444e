"""Which of several points no other beats in everything: fronts of a multi-objective search, batched."""

from __future__ import annotations

import torch
from torch import Tensor


def fronts(objectives: Tensor) -> Tensor:
    """int64 ``[n, m]``: the front of each point of ``[n, m, objectives]``, all to be small; 0 is the best.

    A point is in the front after that of the last point which is nowhere larger and somewhere smaller
    (non-dominated sorting; Deb, Pratap, Agarwal and Meyarivan, "A fast and elitist multiobjective genetic algorithm:
    NSGA-II", IEEE Trans. Evolutionary Computation 2002).

    >>> fronts(torch.tensor([[[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [2.0, 2.0]]]))
    tensor([[0, 0, 1, 2]])
    """
    mine, other = objectives.unsqueeze(2), objectives.unsqueeze(1)
    beaten_by = (other <= mine).all(3) & (other < mine).any(3)  # [n, mine, other]
    front = torch.zeros(objectives.shape[:2], dtype=torch.int64, device=objectives.device)
    left = torch.ones_like(front, dtype=torch.bool)
    while bool(left.any()):
        beaten = (beaten_by & left.unsqueeze(1)).any(2)
        front += left & beaten
        left &= beaten
    return front

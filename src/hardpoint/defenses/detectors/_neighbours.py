"""The nearest rows of a bank, in memory that grows with the bank and not with the pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from hardpoint.defenses.detectors._parts import distances

BANK_ROWS = 4096  # compared at a time


def normalised(features: Tensor) -> Tensor:
    """Rows of length 1; a row of zeros stays one."""
    length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / length.clamp_min(torch.finfo(features.dtype).tiny)


@torch.no_grad()
def nearest(rows: Tensor, bank: Tensor, k: int) -> Tensor:
    """int64 ``[n, k]``: which rows of ``bank`` are nearest to each row, nearest first."""
    best = rows.new_empty(len(rows), 0)
    which = torch.empty(len(rows), 0, dtype=torch.int64, device=rows.device)
    for start in range(0, len(bank), BANK_ROWS):
        part = bank[start : start + BANK_ROWS].to(rows)
        here = torch.arange(start, start + len(part), device=rows.device).expand(len(rows), -1)
        best, which = torch.cat([best, distances(rows, part)], 1), torch.cat([which, here], 1)
        best, order = best.topk(min(k, best.shape[1]), dim=1, largest=False)
        which = which.gather(1, order)
    return which


def distances_to(rows: Tensor, bank: Tensor, which: Tensor) -> Tensor:
    """``[n, k]``: the distance of each row to the rows ``which`` of ``bank``, with a gradient."""
    found = bank[which.to(bank.device)].to(rows)
    apart: Tensor = torch.linalg.vector_norm(rows.unsqueeze(1) - found, dim=2)
    return apart

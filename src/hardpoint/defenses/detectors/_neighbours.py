"""The nearest rows of a bank, in memory that grows with the bank and not with the pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from hardpoint.core.rows import chunks

BANK_ROWS = 4096  # compared at a time
ROWS = 256  # looked for at a time
SPARE = 8  # candidates beyond those asked for, in case rounding swaps some


def normalised(features: Tensor) -> Tensor:
    """Rows of length 1; a row of zeros stays one."""
    length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / length.clamp_min(torch.finfo(features.dtype).tiny)


@torch.no_grad()
def nearest(rows: Tensor, bank: Tensor, k: int) -> Tensor:
    """int64 ``[n, k]``: which rows of ``bank`` are nearest to each row, nearest first."""
    return torch.cat([_nearest(part, bank, k) for part in chunks(rows, ROWS)] or [_none(rows, k)])


def _nearest(rows: Tensor, bank: Tensor, k: int) -> Tensor:
    """Screened by matrix products, many times as fast as differences but rounded, then ranked by differences."""
    best, which = rows.new_empty(len(rows), 0), _none(rows, 0)
    for start in range(0, len(bank), BANK_ROWS):
        part = bank[start : start + BANK_ROWS].to(rows)
        centre = part.mean(0)  # products of small numbers round less
        a, b = rows - centre, part - centre
        squares = a.square().sum(1, keepdim=True) - 2.0 * a @ b.T + b.square().sum(1)
        here = torch.arange(start, start + len(part), device=rows.device).expand(len(rows), -1)
        best, which = torch.cat([best, squares], 1), torch.cat([which, here], 1)
        best, order = best.topk(min(k + SPARE, best.shape[1]), dim=1, largest=False)
        which = which.gather(1, order)
    return which.gather(1, distances_to(rows, bank, which).topk(k, dim=1, largest=False).indices)


def _none(rows: Tensor, k: int) -> Tensor:
    return torch.empty(len(rows), k, dtype=torch.int64, device=rows.device)


def distances_to(rows: Tensor, bank: Tensor, which: Tensor) -> Tensor:
    """``[n, k]``: the distance of each row to the rows ``which`` of ``bank``, with a gradient."""
    found = bank[which.to(bank.device)].to(rows)
    apart: Tensor = torch.linalg.vector_norm(rows.unsqueeze(1) - found, dim=2)
    return apart

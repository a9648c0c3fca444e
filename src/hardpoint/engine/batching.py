"""Batches of few different sizes.

Kernels are prepared, and kept, for every batch size that a network meets. A search whose batch shrinks by an input
at a time would prepare, and hold in memory, some for each of them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def batch_size_for(n: int, most: int) -> int:
    """The size of batch in which ``n`` rows are sent, where ``most`` is the largest: a multiple of an eighth of it,
    or a power of two below that.

    >>> [batch_size_for(n, 128) for n in (1, 3, 9, 17, 100, 128, 200)]
    [1, 4, 16, 32, 112, 128, 200]
    """
    step = max(1, most // 8)
    if n >= most:
        return n
    if n > step:
        return min(most, -(-n // step) * step)
    return min(most, 1 << (n - 1).bit_length()) if n > 0 else 0


def padded(x: Tensor, most: int) -> Tensor:
    """``x`` with its last row repeated until it has the size of batch in which it is sent."""
    missing = batch_size_for(len(x), most) - len(x)
    return torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing > 0 else x

"""Batches of not too many different sizes.

Kernels are prepared, and kept, for every batch size that a network meets. A search whose batch shrinks by an input
at a time would prepare, and hold in memory, some for each of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

_PER_OCTAVE = 4


def batch_size_for(n: int, most: int) -> int:
    """The size of batch in which ``n`` rows are sent, where ``most`` is the largest.

    There are four sizes an octave, so that less than a quarter more is sent than asked.

    >>> [batch_size_for(n, 128) for n in (1, 3, 9, 17, 33, 100, 128, 200)]
    [1, 3, 10, 20, 40, 112, 128, 200]
    """
    if n >= most:
        return n
    step = max(1, (1 << (n - 1).bit_length()) // (2 * _PER_OCTAVE))
    return min(most, -(-n // step) * step)


def padded(x: Tensor, most: int) -> Tensor:
    """``x`` with its last row repeated until it has the size of batch in which it is sent."""
    missing = batch_size_for(len(x), most) - len(x)
    return torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing > 0 else x

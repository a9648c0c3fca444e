"""Where a training point belongs, by what it is: not by its place in the data, nor by its label."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def digests(x: Tensor) -> list[bytes]:
    """SHA-256 of each input ``[n, ...]``: of its numbers in the type they have.

    >>> one, other = digests(torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    >>> one != other, one == digests(torch.tensor([[1.0, 2.0]]))[0]
    (True, True)
    """
    held = x.detach().cpu().contiguous().flatten(1).view(torch.uint8).numpy()
    return [hashlib.sha256(row.tobytes()).digest() for row in held]


def buckets_of(hashes: list[bytes], buckets: int) -> Tensor:
    """int64 ``[n]``: the bucket of each input."""
    return torch.tensor([int.from_bytes(h[:16], "little") % buckets for h in hashes], dtype=torch.int64)


def order_of(hashes: list[bytes], y: Tensor) -> Tensor:
    """int64 ``[n]``: positions by rising hash, equal inputs by label: the order in which points came is forgotten."""
    labels = y.tolist()
    return torch.tensor(sorted(range(len(hashes)), key=lambda i: (hashes[i], labels[i])), dtype=torch.int64)

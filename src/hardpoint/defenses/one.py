"""One input without a graph, in plain numbers: calls on tensors of so few cost more than the sums they do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from hardpoint.defenses.seen import Seen

_TYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class One:
    """What detectors are shown of one input, as ``Seen`` is of a batch.

    A detector that is faster in plain numbers has a method ``score_one(one)``: what ``score`` says, but for rounding,
    or None where ``score`` had better be asked.

    Attributes:
        logits: ``[K]``.
        features: ``[d]`` by layer name.
    """

    logits: NDArray[Any]
    features: Mapping[str, NDArray[Any]]


def one_of(seen: Seen) -> One | None:
    """None where there are more, somebody asks for a gradient, or they are not where and what numpy computes in."""
    if len(seen) != 1:
        return None
    for part in (seen.logits, *seen.features.values()):
        if part.requires_grad or not part.is_cpu or part.dtype not in _TYPES:
            return None
    return One(seen.logits.numpy()[0], {name: part.numpy()[0] for name, part in seen.features.items()})

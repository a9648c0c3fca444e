"""Whether a graph computes what the network does that it was read from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hardpoint.bounds.graph import Graph
from hardpoint.core.errors import ModelError, NonFiniteOutput
from hardpoint.core.rows import all_finite

_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


def check(network: Callable[[Tensor], Tensor], graph: Graph, points: Tensor) -> None:
    """The graph must answer as the network does at ``points`` ``[n, ...]``.

    Raises:
        NonFiniteOutput: where the network answers NaN or infinity.
        ModelError: where they differ by more than rounding.
    """
    theirs, ours, again = network(points.clone()), graph(points), network(points.clone())
    if not all_finite(theirs):
        raise NonFiniteOutput("the network answers NaN or infinity", "look for weights that are not finite")
    if theirs.shape == ours.shape:
        near = _TOLERANCE.get(theirs.dtype, 0.05) * theirs.abs().amax().clamp_min(1)
        if bool(((theirs - ours).abs() <= near).all() & ((again - ours).abs() <= near).all()):
            return
    raise ModelError(
        "the graph of the network does not compute what the network computes",
        "look for random numbers, for values that are changed in place, and for forward() reading global state",
    )


def points_around(x: Tensor) -> Tensor:
    """Points to compare at: the first input, and others ever farther from it."""
    noise = torch.randn(6, *x.shape[1:], generator=torch.Generator().manual_seed(0)).to(x)
    scale = torch.tensor([0.0, 0.03, 0.1, 0.3, 1.0, 3.0]).to(x)
    return x[:1].detach() + scale.view(-1, *([1] * (x.dim() - 1))) * noise

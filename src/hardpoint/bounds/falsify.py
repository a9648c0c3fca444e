"""Looking for a point that breaks a claim, before and while it is proven."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hardpoint.bounds.claim import Claim
from hardpoint.bounds.graph import Graph
from hardpoint.bounds.operators.operator import Interval
from hardpoint.core.rng import Rng


def broken(
    graph: Graph,
    claim: Claim,
    box: Interval,
    *,
    restarts: int = 8,
    steps: int = 40,
    seed: int = 0,
    project: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The point of each box that came nearest to breaking the claim: ``[n, ...]``, and its margin ``[n]``.

    Projected gradient descent on the margin (Madry et al., ICLR 2018) with steps that shrink, from the middle and from
    drawn points and corners. At or below 0 the point breaks the claim for the graph; whether it does so for the network
    itself is for the caller to see.

    Args:
        graph: the network.
        claim: ``[n, S, K]``.
        box: ``[n, ...]``.
        restarts: how many starts for each input.
        steps: from each start.
        project: of points ``[n * restarts, ...]`` in the order of the inputs, where more than the box limits them.
    """
    n, shape = len(box.low), box.low.shape[1:]
    low, high = box.low.unsqueeze(1), box.high.unsqueeze(1)
    draws = Rng(seed).fork("falsify").uniform(torch.arange(n), (restarts, *shape)).to(box.low)
    draws[:, 0] = 0.5
    draws[:, restarts // 2 + 1 :] = draws[:, restarts // 2 + 1 :].round()
    x = (low + draws * (high - low)).flatten(0, 1)
    low, high = (end.expand(n, restarts, *shape).flatten(0, 1) for end in (low, high))
    every = claim.of(torch.arange(n).repeat_interleave(restarts))
    width, best, at = high - low, x.new_full((len(x),), torch.inf), x
    for step in range(steps):
        with torch.enable_grad():
            point = x.detach().requires_grad_(True)
            margins = every.margin(graph(point))
            (slope,) = torch.autograd.grad(margins.sum(), point)
        value = margins.detach()
        better = value < best
        best, at = torch.where(better, value, best), torch.where(_per_input(better, x), x, at)
        if bool((best.view(n, restarts).amin(1) <= 0).all()):
            break
        size = 0.25 * (0.9**step if steps > 20 else 0.8**step)
        x = torch.minimum(torch.maximum(x - size * width * slope.sign(), low), high)
        x = x if project is None else project(x)
    which = best.view(n, restarts).argmin(1)
    rows = torch.arange(n) * restarts + which
    return at[rows], best[rows]


def _per_input(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *([1] * (like.dim() - 1)))

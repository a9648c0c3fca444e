"""Fitting a few weights to all rows at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def minimise(loss: Callable[[], Tensor], weights: Sequence[Tensor], steps: int) -> None:
    """Move ``weights`` in place to where ``loss`` is least, by L-BFGS with a line search; nothing is drawn."""
    optimiser = torch.optim.LBFGS(
        list(weights), max_iter=steps, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        for weight in weights:
            weight.grad = None
        value = loss()
        gradients = torch.autograd.grad(value, list(weights))
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        return value.detach()

    with torch.enable_grad():
        optimiser.step(closure)  # type: ignore[no-untyped-call]

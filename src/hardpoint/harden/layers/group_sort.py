"""Sorting as an activation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hardpoint.core.errors import ConfigError, ModelError


class GroupSort(nn.Module):
    """Sorts the numbers of each group of neighbouring channels, the smallest first (Anil, Lucas and Grosse, "Sorting
    out Lipschitz function approximation", ICML 2019); with groups of two, MaxMin.

    Nothing is lost, so gradients keep their length, where ReLU would shorten them.

    Args:
        size: channels per group; the channels, axis 1, must be a multiple of it.

    >>> GroupSort()(torch.tensor([[3.0, 1.0, 2.0, 5.0]]))
    tensor([[1., 3., 2., 5.]])
    """

    lipschitz = 1.0
    """It never lengthens a difference."""

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        if not isinstance(size, int) or isinstance(size, bool) or size < 2:
            raise ConfigError(f"size is {size!r}", "give a whole number of 2 or more")
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or x.shape[1] % self.size:
            raise ModelError(
                f"GroupSort({self.size}) cannot sort {tuple(x.shape)}",
                f"let the layer before it have a multiple of {self.size} channels",
            )
        groups = x.reshape(len(x), -1, self.size, *x.shape[2:])
        if self.size == 2:
            low, high = groups.amin(2), groups.amax(2)
            return torch.stack([low, high], dim=2).flatten(1, 2)
        return groups.sort(2).values.flatten(1, 2)

    def extra_repr(self) -> str:
        return f"size={self.size}"

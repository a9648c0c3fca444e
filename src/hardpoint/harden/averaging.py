"""A moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of the floating-point state of ``module`` (Polyak and Juditsky 1992; as used in robust
    training by Gowal et al., 2020); what is no float is taken as it is.

    Args:
        module: what is averaged; the average begins at its weights.
        decay: the share of the average that is kept at each update; less at the beginning, so that the first weights
            do not linger.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module, self.decay, self.updates = module, decay, 0
        self.state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        self.updates += 1
        keep = min(self.decay, self.updates / (self.updates + 9))
        for name, tensor in self._module.state_dict().items():
            held = self.state[name]
            if held.is_floating_point():
                held.lerp_(tensor, 1 - keep)
            else:
                held.copy_(tensor)

    def load(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Go on from ``state``."""
        self.updates = updates
        for name, tensor in state.items():
            self.state[name].copy_(tensor)

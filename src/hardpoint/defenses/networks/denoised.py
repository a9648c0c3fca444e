"""A denoiser in front of a network that stays as it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hardpoint.defenses.transforms._shared import mean_and_deviation
from hardpoint.defenses.transforms.autoencoder import DenoisingAutoencoder
from hardpoint.defenses.transforms.denoising_network import denoising_network


class Denoised(nn.Module):
    """``network``, frozen and in evaluation mode, behind a denoiser that can learn and at first changes nothing but by
    rounding.

    Args:
        network: what is shown the denoised inputs; its weights no longer require gradients.
        like: inputs ``[n, ...]`` of the kind that will come, images or rows: of their shape and kind of number is the
            denoiser, and by their mean and deviation per feature or channel it standardises.
        hidden: channels, or for tables numbers, of the denoiser's hidden layers.

    >>> x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    >>> whole = Denoised(network, x, hidden=8)
    >>> torch.allclose(whole(x), network(x), atol=1e-5), sum(p.requires_grad for p in whole.parameters())
    (True, 6)
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, like: Tensor, hidden: int) -> None:
        super().__init__()
        self.shape, self.hidden = tuple(like.shape[1:]), hidden
        self.network = network.requires_grad_(False)
        self.denoiser = denoising_network(self.shape, hidden, residual=True).to(like.device, like.dtype)
        mean, scale = mean_and_deviation(like)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def train(self, mode: bool = True) -> Denoised:
        super().train(mode)
        self.network.eval()
        return self

    def standardised(self, x: Tensor) -> Tensor:
        """``x`` in units of the deviation."""
        return (x.to(self.mean) - self.mean) / self.scale

    def forward(self, x: Tensor) -> Tensor:
        shown = self.denoiser(self.standardised(x)) * self.scale + self.mean
        answered: Tensor = self.network(shown.to(x))
        return answered

    def stage(self) -> DenoisingAutoencoder:
        """A copy of the denoiser alone, for ``hp.Defended``."""
        with torch.device("meta"):  # nothing is drawn
            alone = denoising_network(self.shape, self.hidden, residual=True)
        weights = {name: held.detach().clone() for name, held in self.denoiser.state_dict().items()}
        alone.load_state_dict(weights, assign=True)
        return DenoisingAutoencoder(
            network=alone.eval().requires_grad_(False),
            mean=self.mean.clone(),
            scale=self.scale.clone(),
            shape=self.shape,
            hidden=self.hidden,
            residual=True,
        )

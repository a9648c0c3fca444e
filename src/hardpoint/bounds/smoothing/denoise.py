"""A diffusion model as a denoiser in one step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hardpoint.bounds.smoothing.noise import positive
from hardpoint.core.errors import ConfigError, ModelError


class OneShotDenoiser(nn.Module):
    """What a diffusion model takes a noisy image in [0, 1] for, in one step (Carlini, Tramèr, Dvijotham, Rice, Sun and
    Kolter, "(Certified!!) adversarial robustness for free!", ICLR 2023, algorithm 1).

    Diffusion models know images in [-1, 1] that are faded by √ᾱ and carry noise of deviation √(1 - ᾱ). An image with
    noise σ in [0, 1] is such a one at the step t where (1 - ᾱ_t) / ᾱ_t = (2 σ)², once it is scaled. The nearest step is
    taken; what is certified is the classifier behind whichever it is.

    Args:
        network: predicts the noise from images ``[n, channels, ...]`` and steps int64 ``[n]``; of further channels, as
            of learned variances, only the first are read.
        kept: ᾱ of each step ``[steps]``, falling: the share of the variance that is the image's.
        sigma: deviation of the noise, in units of [0, 1].

    Raises:
        ConfigError: for shares that do not fall within (0, 1), or noise that no step has by a factor of 1.5.
    """

    kept: Tensor

    def __init__(self, network: nn.Module, kept: Tensor, sigma: float) -> None:
        super().__init__()
        positive(sigma, "sigma")
        shares = torch.as_tensor(kept).double().flatten()
        if (
            not len(shares)
            or not bool(((shares > 0) & (shares < 1)).all())
            or bool((shares.diff() >= 0).any())
        ):
            raise ConfigError(
                "the shares of the image do not fall from 1 to 0", "give alphas_cumprod of the model"
            )
        deviations = ((1 - shares) / shares).sqrt()
        self.network = network
        self.step = int((deviations / (2 * sigma)).log().abs().argmin())
        found = float(deviations[self.step])
        if not 1 / 1.5 < found / (2 * sigma) < 1.5:
            raise ConfigError(
                f"no step has noise of {sigma:g}; the nearest has {found / 2:.3g}",
                "smooth with that, or another model",
            )
        self.register_buffer("kept", shares[self.step].float())
        self.train(network.training)

    def forward(self, x: Tensor) -> Tensor:
        """The image behind each of ``x`` ``[n, channels, ...]``, in [0, 1]."""
        faded, noise = self.kept.sqrt(), (1 - self.kept).sqrt()
        point = faded * (2 * x - 1)
        told = self.network(point, torch.full((len(x),), self.step, device=x.device))
        if not isinstance(told, Tensor) or told.dim() != x.dim() or told.shape[1] < x.shape[1]:
            raise ModelError(
                "the diffusion model did not return noise like its input", "return [n, channels, ...]"
            )
        clean = (point - noise * told[:, : x.shape[1]]) / faded
        return ((clean + 1) / 2).clamp(0.0, 1.0)

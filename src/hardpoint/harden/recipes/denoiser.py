"""A denoiser that learns to undo attacks, in front of a network that stays as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hardpoint.core.errors import ConfigError
from hardpoint.core.rng import Rng
from hardpoint.defenses.networks.denoised import Denoised
from hardpoint.defenses.transforms.denoising_network import denoising_network
from hardpoint.engine.guard import preserved_random_state
from hardpoint.harden.learner import Batch, Learner
from hardpoint.harden.recipes._checks import at_least, count
from hardpoint.harden.recipes.recipe import (
    Attacked,
    Recipe,
    Taught,
    check_recipe,
    preparing,
    proving,
    replaying,
    shifting,
)


@dataclass(frozen=True)
class Denoiser:
    """The network is frozen, and a denoising autoencoder before it learns what a recipe would teach the network, and to
    give back the clean input (after Liao et al., "Defense against adversarial attacks using high-level representation
    guided denoiser", CVPR 2018, with class labels as its guide). Examples are searched for through both, so that the
    denoiser meets an attacker who knows it.

    Args:
        inner: how examples are found, and the loss of the network's answers to what the denoiser makes of them.
        pixels: the weight of the mean squared difference between what it makes of them and the clean inputs, in units
            of the training data's deviation.
        hidden: channels, or for tables numbers, of the denoiser's hidden layers.

    >>> from hardpoint.harden.recipes import Trades
    >>> Denoiser(Trades()).name
    'denoiser(trades-10)'
    """

    inner: Recipe
    pixels: float = 1.0
    hidden: int = 32

    def __post_init__(self) -> None:
        check_recipe(self.inner)
        if any(part(self.inner) is not None for part in (shifting, replaying, preparing, proving)):
            raise ConfigError(
                f"Denoiser around {self.inner.name} would leave out a part of it", "put another recipe inside"
            )
        at_least(0.0, self.pixels, "pixels")
        count(self.hidden, "hidden")

    @property
    def name(self) -> str:
        return f"denoiser({self.inner.name})"

    @property
    def gradients(self) -> int:
        return self.inner.gradients

    def around(self, inner: Recipe) -> Recipe:
        return replace(self, inner=inner)

    def check_network(self, module: nn.Module, shape: tuple[int, ...]) -> None:
        if isinstance(module, Denoised):
            raise ConfigError(
                "the network has a denoiser already", "put its stage and the network in hp.Defended"
            )
        with torch.device("meta"):  # nothing is drawn or allocated
            denoising_network(shape, self.hidden)  # refuses shapes for which there is none

    def prepared(self, module: nn.Module, rng: Rng, like: Tensor) -> nn.Module:
        with preserved_random_state(seed=rng.torch_seed()):
            return Denoised(module, like, self.hidden)

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        return self.inner.attacked(learner, batch)

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        whole = learner.module
        assert isinstance(whole, Denoised)
        taught = self.inner.taught(learner, batch, attacked)
        missed = (
            (whole.denoiser(whole.standardised(attacked.x)) - whole.standardised(batch.x)).square().mean()
        )
        return replace(taught, loss=taught.loss + self.pixels * missed)

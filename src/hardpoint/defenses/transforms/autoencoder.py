"""A network that was taught to remove noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hardpoint.defenses.descent import Schedule, descend
from hardpoint.defenses.fingerprint import fingerprint
from hardpoint.defenses.stage import GradientPath
from hardpoint.defenses.transforms._shared import (
    as_images,
    fit_data,
    mean_and_deviation,
    of_shape,
    positive,
    whole_number,
)
from hardpoint.engine.guard import preserved_random_state

_BATCH = 64
_RATE = 3e-3


@dataclass(frozen=True, eq=False)
class DenoisingAutoencoder:
    """Each input as a network sees it that learned to tell training inputs from noisy copies of them.

    Vincent, Larochelle, Bengio, Manzagol, "Extracting and composing robust features with denoising autoencoders" (ICML
    2008); as a defence, the reformer of Meng and Chen, "MagNet: a two-pronged defense against adversarial examples"
    (CCS 2017), whose detector looks at ``error``. Three convolutions for images ``[n, (channels,) height, width]``, a
    perceptron with two hidden layers for tables ``[n, d]``. Values may leave the range of the inputs.

    Attributes:
        network: works on standardised inputs; frozen, in evaluation mode.
        mean: of the training data per feature or channel, broadcasts against one input.
        scale: likewise their standard deviation.
        shape: of one input.
        settings: what ``fit`` was told.

    >>> x = torch.rand(64, 1, 1, generator=torch.Generator().manual_seed(0)).expand(64, 6, 6)  # flat images
    >>> filter = DenoisingAutoencoder.fit(x, epochs=100)
    >>> noisy = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    >>> bool((filter.apply(noisy) - x).square().mean() < (noisy - x).square().mean() / 2)
    True
    """

    gradient: ClassVar[GradientPath] = GradientPath.DIFFERENTIABLE
    is_random: ClassVar[bool] = False

    network: nn.Module
    mean: Tensor
    scale: Tensor
    shape: tuple[int, ...]
    settings: dict[str, int | float]

    @classmethod
    def fit(
        cls, x: Tensor, *, epochs: int = 20, noise: float = 0.3, hidden: int = 0, seed: int = 0
    ) -> DenoisingAutoencoder:
        """Train it on ``x`` with Adam; the same ``seed`` gives the same network, and no random state is left changed.

        Args:
            x: training inputs, on the device to train on.
            epochs: passes over them.
            noise: standard deviation of the Gaussian noise, as a share of the data's own (per feature or channel).
            hidden: channels, or for tables numbers, of the hidden layers; 16 and half the features by default.
            seed: of the first weights, the noise and the order of inputs.

        Raises:
            ConfigError: for settings that make no sense.
            DataError: for inputs that are neither tables nor images, or not finite.
        """
        kind = "DenoisingAutoencoder"
        for word, count, least in (("epochs", epochs, 1), ("hidden", hidden, 0), ("seed", seed, 0)):
            whole_number(kind, word, count, least)
        noise = positive(kind, "noise", noise)
        fit_data(kind, x)
        if x.dim() != 2:
            as_images(kind, x)
        mean, scale = mean_and_deviation(x.detach())
        shape = tuple(x.shape[1:])
        with preserved_random_state(seed=seed):
            network = _image_network(shape, hidden or 16) if len(shape) > 1 else _table_network(shape, hidden)
        network = network.to(x.device, x.dtype)
        with torch.inference_mode(False):
            _train(network, (x.detach() - mean) / scale, epochs, noise, seed)
        settings: dict[str, int | float] = {"epochs": epochs, "noise": noise, "hidden": hidden, "seed": seed}
        return cls(network.eval().requires_grad_(False), mean, scale, shape, settings)

    def apply(self, x: Tensor) -> Tensor:
        of_shape("DenoisingAutoencoder", x, self.shape)
        mean, scale = self.mean.to(x), self.scale.to(x)
        weights = {name: value.to(x) for name, value in self.network.state_dict().items()}
        made: Tensor = torch.func.functional_call(self.network, weights, ((x - mean) / scale,))
        return made * scale + mean

    def error(self, x: Tensor) -> Tensor:
        """``[n]``: the mean squared change of an input's numbers, in units of the training data's variance."""
        return ((self.apply(x) - x) / self.scale.to(x)).square().flatten(1).mean(1)

    def describe(self) -> dict[str, Any]:
        weights = self.network.state_dict().values()
        return {
            "kind": "DenoisingAutoencoder",
            **self.settings,
            "fitted": fingerprint(self.mean, self.scale, *weights),
        }


def _image_network(shape: tuple[int, ...], hidden: int) -> nn.Module:
    channels = shape[0] if len(shape) == 3 else 1
    layers = nn.Sequential(
        nn.Conv2d(channels, hidden, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(hidden, hidden, 3, padding=2, dilation=2),
        nn.GELU(),
        nn.Conv2d(hidden, channels, 3, padding=1),
    )
    if len(shape) == 3:
        return layers
    return nn.Sequential(nn.Unflatten(1, (1, shape[0])), *layers, nn.Flatten(1, 2))


def _table_network(shape: tuple[int, ...], hidden: int) -> nn.Module:
    features = shape[0]
    middle = hidden or max(2, features // 2)
    return nn.Sequential(
        nn.Linear(features, 2 * middle),
        nn.GELU(),
        nn.Linear(2 * middle, middle),
        nn.GELU(),
        nn.Linear(middle, features),
    )


def _train(network: nn.Module, x: Tensor, epochs: int, noise: float, seed: int) -> None:
    # drawn on the CPU, so that every device sees the same noise
    source = torch.Generator().manual_seed(seed)

    def loss(rows: Tensor) -> Tensor:
        clean = x[rows.to(x.device)]
        drawn = torch.randn(clean.shape, generator=source, dtype=x.dtype).to(x.device)
        missed: Tensor = network(clean + noise * drawn) - clean
        return missed.square().mean()

    descend(network.parameters(), len(x), loss, Schedule(epochs, _RATE, _BATCH, decay=False), source)

"""A network that was taught to remove noise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hardpoint.core.errors import ConfigError, HardpointError, UnreadableModelFile
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
from hardpoint.defenses.transforms.denoising_network import denoising_network
from hardpoint.engine.guard import preserved_random_state
from hardpoint.evidence.store import write_atomically
from hardpoint.models.weights import check_fit, load_weights, weights_content, weights_metadata

_BATCH = 64
_RATE = 3e-3
_KIND = "DenoisingAutoencoder"
_ABOUT = "about"
"""The entry of a file that says what its tensors are."""
_NETWORK = "network."
_SETTINGS = ("epochs", "noise", "seed")
_DAMAGE = (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, RuntimeError)
"""What comes out of reading what somebody else wrote."""


@dataclass(frozen=True, eq=False)
class DenoisingAutoencoder:
    """Each input as a network sees it that learned to tell training inputs from noisy copies of them.

    Vincent, Larochelle, Bengio, Manzagol, "Extracting and composing robust features with denoising autoencoders" (ICML
    2008); as a defence, the reformer of Meng and Chen, "MagNet: a two-pronged defense against adversarial examples"
    (CCS 2017), whose detector looks at ``error``. Three convolutions for images ``[n, (channels,) height, width]``, a
    perceptron with two hidden layers for tables ``[n, d]``. Values may leave the range of the inputs.

    ``fit`` teaches it noise; ``hp.harden(..., recipe="denoiser")`` teaches it examples that mislead the network behind.

    Attributes:
        network: works on standardised inputs; frozen, in evaluation mode.
        mean: of the training data per feature or channel, broadcasts against one input.
        scale: likewise their standard deviation.
        shape: of one input.
        hidden: channels, or for tables numbers, of its hidden layers; 0 for the default.
        residual: whether the network says what to add to an input.
        settings: what ``fit`` was told besides.

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
    hidden: int = 0
    residual: bool = False
    settings: Mapping[str, int | float] = field(default_factory=dict)

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
        for word, count, least in (("epochs", epochs, 1), ("hidden", hidden, 0), ("seed", seed, 0)):
            whole_number(_KIND, word, count, least)
        noise = positive(_KIND, "noise", noise)
        fit_data(_KIND, x)
        if x.dim() != 2:
            as_images(_KIND, x)
        mean, scale = mean_and_deviation(x.detach())
        shape = tuple(x.shape[1:])
        with preserved_random_state(seed=seed):
            network = denoising_network(shape, hidden).to(x.device, x.dtype)
        with torch.inference_mode(False):
            _train(network, (x.detach() - mean) / scale, epochs, noise, seed)
        settings = {"epochs": epochs, "noise": noise, "seed": seed}
        return cls(network.eval().requires_grad_(False), mean, scale, shape, hidden, False, settings)

    def apply(self, x: Tensor) -> Tensor:
        of_shape(_KIND, x, self.shape)
        mean, scale = self.mean.to(x), self.scale.to(x)
        weights = {name: value.to(x) for name, value in self.network.state_dict().items()}
        made: Tensor = torch.func.functional_call(self.network, weights, ((x - mean) / scale,))
        return made * scale + mean

    def error(self, x: Tensor) -> Tensor:
        """``[n]``: the mean squared change of an input's numbers, in units of the training data's variance."""
        return ((self.apply(x) - x) / self.scale.to(x)).square().flatten(1).mean(1)

    def describe(self) -> dict[str, Any]:
        weights = self.network.state_dict().values()
        made = {**self.settings, "hidden": self.hidden, "residual": self.residual}
        return {**made, "kind": _KIND, "fitted": fingerprint(self.mean, self.scale, *weights)}

    def save(self, path: str | Path) -> Path:
        """Write it as safetensors; raises ``ConfigError`` for a file called otherwise."""
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ConfigError(f"{path} is no name for tensors", f"write {path.name}.safetensors")
        weights = {_NETWORK + name: held for name, held in self.network.state_dict().items()}
        made = {"shape": self.shape, "hidden": self.hidden, "residual": self.residual}
        about = {"kind": _KIND, **made, "settings": self.settings}
        tensors = {"mean": self.mean, "scale": self.scale, **weights}
        write_atomically(path, weights_content(tensors, {_ABOUT: json.dumps(about)}))
        return path

    @classmethod
    def load(cls, path: str | Path) -> DenoisingAutoencoder:
        """What ``save`` wrote; no code in the file is run.

        Raises:
            UnreadableModelFile: for a file that is missing or damaged, or holds something else.
        """
        tensors, told = load_weights(path), weights_metadata(path)
        try:
            about = json.loads(told[_ABOUT])
            if about["kind"] != _KIND:
                raise ValueError(about["kind"])
            shape, hidden = tuple(map(int, about["shape"])), int(about["hidden"])
            residual = bool(about["residual"])
            settings = {key: about["settings"][key] + 0 for key in _SETTINGS if key in about["settings"]}
            mean, scale = (_standard(tensors.pop(name), shape) for name in ("mean", "scale"))
            if not (scale > 0).all():
                raise ValueError("scale")
            if not all(name.startswith(_NETWORK) for name in tensors):
                raise ValueError("other tensors")
            weights = {name.removeprefix(_NETWORK): held for name, held in tensors.items()}
            if any(held.dtype != mean.dtype or not held.isfinite().all() for held in weights.values()):
                raise ValueError("weights")
            with torch.device("meta"):  # whatever sizes the file claims, nothing is allocated for them
                network = denoising_network(shape, hidden, residual=residual)
            check_fit(network, weights, str(path))
            network.load_state_dict(weights, assign=True)
        except (*_DAMAGE, HardpointError) as error:
            what = f"{path} holds no {_KIND} ({str(error).partition(chr(10))[0][:200]})"
            raise UnreadableModelFile(
                what, "give a file that its save, or training it, has written"
            ) from None
        return cls(network.eval().requires_grad_(False), mean, scale, shape, hidden, residual, settings)


def _standard(found: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``found``, where it can be a mean or a deviation of inputs of ``shape``."""
    if not found.is_floating_point() or not found.isfinite().all():
        raise ValueError("the mean or the scale is not finite")
    if found.expand(shape).shape != shape:
        raise ValueError("the mean or the scale is of another shape")
    return found


def _train(network: nn.Module, x: Tensor, epochs: int, noise: float, seed: int) -> None:
    # drawn on the CPU, so that every device sees the same noise
    source = torch.Generator().manual_seed(seed)

    def loss(rows: Tensor) -> Tensor:
        clean = x[rows.to(x.device)]
        drawn = torch.randn(clean.shape, generator=source, dtype=x.dtype).to(x.device)
        missed: Tensor = network(clean + noise * drawn) - clean
        return missed.square().mean()

    descend(network.parameters(), len(x), loss, Schedule(epochs, _RATE, _BATCH, decay=False), source)

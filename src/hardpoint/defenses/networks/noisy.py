"""Networks that draw at every pass, so that no two answers come from quite the same model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd

from hardpoint.core.errors import ModelError, ThreatError
from hardpoint.defenses.layer import as_layer
from hardpoint.defenses.transforms import AdditiveNoise

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_DROPOUTS: dict[type[nn.Module], Callable[[Tensor, float, bool, bool], Tensor]] = {
    nn.Dropout: functional.dropout,
    nn.Dropout1d: functional.dropout1d,
    nn.Dropout2d: functional.dropout2d,
    nn.Dropout3d: functional.dropout3d,
}
# these read their inner layers' weights instead of calling them, past anything put before
_SEALED = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


@runtime_checkable
class Randomness(Protocol):
    """Where a network draws. Implementations are frozen dataclasses."""

    def layer(self, inner: nn.Module, place: int) -> nn.Module | None:
        """What to put in the place of a layer, the ``place``-th of its kind; None to leave it as it is."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-ready: ``kind`` and the parameters."""
        ...


@dataclass(frozen=True)
class NoisyLayers:
    """Gaussian noise before every convolution (random self-ensemble; Liu, Cheng, Zhang, Hsieh, ECCV 2018).

    Args:
        std: of the noise before all but the first, in units of the activations.
        first: of the noise before the module's first, in units of the input; ``std`` by default. The paper has 0.1 for
            the others and 0.2 here.

    Raises:
        ThreatError: unless both are finite and above 0.
    """

    std: float = 0.1
    first: float | None = None

    def __post_init__(self) -> None:
        _above_zero(std=self.std, first=self.std if self.first is None else self.first)

    def layer(self, inner: nn.Module, place: int) -> nn.Module | None:
        if not isinstance(inner, _CONVOLUTIONS):
            return None
        std = self.std if place or self.first is None else self.first
        return nn.Sequential(as_layer(AdditiveNoise(std, low=-math.inf, high=math.inf)), inner)

    def describe(self) -> dict[str, Any]:
        return {"kind": "noisy-layers", **asdict(self)}


@dataclass(frozen=True)
class WeightNoise:
    """Gaussian noise on the weights of convolutions and linear layers, drawn at every pass for the whole batch.

    He, Rakin, Fan, "Parametric noise injection" (CVPR 2019), with a fixed share instead of a learned one.

    Args:
        std: as a share of the standard deviation of the layer's own weights.

    Raises:
        ThreatError: unless it is finite and above 0.
    """

    std: float = 0.1

    def __post_init__(self) -> None:
        _above_zero(std=self.std)

    def layer(self, inner: nn.Module, place: int) -> nn.Module | None:
        own = "weight" in inner._parameters  # and is not computed from others
        own = own and isinstance(inner, (*_CONVOLUTIONS, nn.Linear))
        return _NoisyWeights(inner, self.std) if own else None

    def describe(self) -> dict[str, Any]:
        return {"kind": "weight-noise", **asdict(self)}


@dataclass(frozen=True)
class DropoutAtTest:
    """Dropout layers that stay on (Gal and Ghahramani, ICML 2016), with the rates they were trained with."""

    def layer(self, inner: nn.Module, place: int) -> nn.Module | None:
        if isinstance(inner, _DropoutNd) and type(inner) in _DROPOUTS and inner.p > 0:
            return _AlwaysDropout(inner)
        return None

    def describe(self) -> dict[str, Any]:
        return {"kind": "dropout-at-test"}


class NoisyNetwork(nn.Module):
    """A network that draws at every pass; made by ``noisy``."""

    def __init__(self, network: nn.Module, randomness: Randomness, settings: Tensor) -> None:
        super().__init__()
        self.network = network
        self.randomness = randomness
        self.register_buffer("settings", settings)  # two amounts of noise are two models
        self.training = network.training

    def forward(self, x: Tensor) -> Any:
        return self.network(x)


def noisy(module: nn.Module, randomness: Randomness) -> NoisyNetwork:
    """A copy of ``module`` that draws, from torch's own generator as dropout does, at every pass.

    An assessment sees that it is random (HP105), averages as many passes as gradients need, and counts an example only
    where it wins most of the time. Train what this returns, not only what went in: a network that has not met the
    noise pays for it, and one that has is often smoother even without.

    Args:
        module: the network; left as it is.
        randomness: ``NoisyLayers(0.1)``, ``WeightNoise(0.1)``, ``DropoutAtTest()`` or your own.

    Raises:
        ModelError: where nothing in ``module`` can be made to draw.

    >>> net = noisy(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()).eval(), NoisyLayers(0.1))
    >>> x = torch.rand(1, 1, 4, 4)
    >>> torch.equal(net(x), net(x))
    False
    """
    made: dict[int, nn.Module] = {}
    network = _replaced(copy.deepcopy(module), randomness, made)
    if not made:
        raise ModelError(
            f"{type(module).__name__} has no layer that {type(randomness).__name__} acts on",
            "choose another kind of randomness, or put AdditiveNoise before the network",
        )
    numbers = [value for value in randomness.describe().values() if isinstance(value, int | float)]
    return NoisyNetwork(network, randomness, torch.tensor(numbers, dtype=torch.float64))


def _replaced(layer: nn.Module, randomness: Randomness, made: dict[int, nn.Module]) -> nn.Module:
    """``layer`` or what takes its place; a layer held under several names is replaced by one and the same."""
    if id(layer) in made:
        return made[id(layer)]
    if isinstance(layer, _SEALED):
        return layer
    new = randomness.layer(layer, len(made))
    if new is not None:
        new.training = layer.training
        made[id(layer)] = new
        return new
    for name, child in layer._modules.items():
        if child is not None:
            layer._modules[name] = _replaced(child, randomness, made)
    return layer


class _NoisyWeights(nn.Module):
    def __init__(self, inner: nn.Module, std: float) -> None:
        super().__init__()
        self.inner, self.std = inner, std

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, fx.Proxy):  # type: ignore[unreachable]  # a trace would keep one draw for ever
            raise ModelError("a random layer cannot be traced", "use the module as it is")
        weight = self.inner.get_parameter("weight")
        drawn = weight + self.std * weight.detach().std(correction=0) * torch.randn_like(weight)
        answer: Tensor = functional_call(self.inner, {"weight": drawn}, (x,))
        return answer


class _AlwaysDropout(nn.Module):
    def __init__(self, inner: _DropoutNd) -> None:
        super().__init__()
        self.p, self._drop = inner.p, _DROPOUTS[type(inner)]

    def forward(self, x: Tensor) -> Tensor:
        return self._drop(x, self.p, True, False)


def _above_zero(**stds: float) -> None:
    for word, value in stds.items():
        if not (isinstance(value, int | float) and 0 < value < math.inf):
            raise ThreatError(f"{word} is {value!r}", "give a finite number above 0")

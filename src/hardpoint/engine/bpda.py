"""Seeing through layers that stop gradients: find them, and cross them straight through.

Rounding, signs, compression, keeping the k largest, setting what lies near the mean to the mean: such a layer changes
its output by jumps, which no derivative shows, so attacks that follow gradients stand still or go astray. Backward
pass differentiable approximation (Athalye, Carlini and Wagner, "Obfuscated gradients give a false sense of
security", ICML 2018, section 4.1) computes the layer as it is, and its gradient as that of a smooth stand-in.

How such a layer is told from an honest one with many zero derivatives: for any function that gradients can follow, a
change along a path is the integral of the derivative along it. That holds for ReLU and max pooling, which are flat in
places but never jump; what a layer does by jumping is missing from the integral.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor, nn

from hardpoint.core.errors import ModelError
from hardpoint.core.rng import Rng
from hardpoint.engine.crossing import Crossing, StraightThrough, crossing_for
from hardpoint.engine.layer_calls import LayerCall, calls_of

_PILOT = 32
_SHARES = (0.1, 0.5, 1.0)  # of the way from one pilot input's activations to another's
_PLACES, _WEIGHTS = (part.tolist() for part in leggauss(8))  # Gauss and Legendre's rule on [-1, 1]
_UNEXPLAINED = (
    0.05  # honest layers: below 0.01, the rounding of the integral; MeanSparse: about the share it flattens
)
_ZERO = 0.01


@dataclass(frozen=True)
class MaskedLayer:
    """A layer whose output changes in a way that its gradients do not show.

    Attributes:
        name: its name in the module, ``""`` for the module itself.
        zero_share: the share of its input numbers whose derivative is zero or missing.
        change_share: the share of its output's change, on the way from one input to another, that the derivative
            along the way leaves out: 1 for rounding, about the share of numbers it flattens for MeanSparse.
        crossing: how ``with_straight_through`` would cross it; None where nothing can be put in its place, since it
            holds other layers: what masks is then written into its ``forward``.
    """

    name: str
    zero_share: float
    change_share: float
    crossing: Crossing | None

    @property
    def replaceable(self) -> bool:
        """Whether ``with_straight_through`` takes it."""
        return self.crossing is not None


def masked_layers(module: nn.Module, x: Tensor) -> tuple[MaskedLayer, ...]:
    """The layers of ``module`` that mask gradients, in the order in which they are called.

    Every layer is looked at in its first call, as a function from its first tensor argument to its first tensor
    output. A layer that holds masking layers is not named itself. Costs about ten forward and backward passes over
    at most 32 inputs per level of nesting. The module is left as it was.

    Args:
        module: in evaluation mode.
        x: at least two different pilot inputs ``[n, ...]``; the first 32 are used.

    >>> import torch
    >>> class Round(nn.Module):
    ...     def forward(self, x):
    ...         return torch.round(x * 8) / 8
    >>> body = nn.Sequential(Round(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> [(found.name, found.zero_share, found.change_share) for found in masked_layers(body, torch.rand(16, 4))]
    [('0', 1.0, 1.0)]
    """
    found: list[MaskedLayer] = []
    calls = calls_of(_own_copy(module), x[:_PILOT])
    for call in sorted(calls, key=lambda call: -call.depth):
        below = f"{call.name}." if call.name else ""
        if type(call.layer) is nn.Sequential or any(masked.name.startswith(below) for masked in found):
            continue
        shares = _masking(call)
        if shares is not None:
            crossing = None if call.name == "" or any(call.layer.children()) else crossing_for(call)
            found.append(MaskedLayer(call.name, *shares, crossing))
    order = {call.name: position for position, call in enumerate(calls)}
    return tuple(sorted(found, key=lambda masked: order[masked.name]))


def with_straight_through(module: nn.Module, names: tuple[str, ...], x: Tensor) -> nn.Module:
    """A copy of ``module`` with the same answers, bit for bit, whose gradients pass through the layers ``names``.

    Where a layer's output has the shape of its input and moves with it, the gradient crosses as through the identity.
    Elsewhere it is the gradient of the layer smoothed by Gaussian noise, from differences of the layer's own
    answers: noisy in many dimensions, but it points the right way on average.

    Args:
        module: in evaluation mode.
        names: of layers, such as ``masked_layers`` finds replaceable.
        x: pilot inputs ``[n, ...]``, to see what the layers are given.

    Raises:
        ModelError: for a name that the module does not have, does not call, or that is the module itself or holds
            other layers, whose gradients would be lost.

    >>> import torch
    >>> class Round(nn.Module):
    ...     def forward(self, x):
    ...         return torch.round(x * 8) / 8
    >>> twin = with_straight_through(nn.Sequential(Round(), nn.Linear(4, 2)), ("0",), torch.rand(16, 4))
    >>> x = torch.rand(1, 4, requires_grad=True)
    >>> bool((torch.autograd.grad(twin(x)[0, 0], x)[0] == twin[1].weight[0]).all())
    True
    """
    calls = {call.name: call for call in calls_of(_own_copy(module), x[:_PILOT])}
    return crossed(module, {name: _checked_crossing(name, module, calls) for name in names})


def crossed(module: nn.Module, crossings: Mapping[str, Crossing]) -> nn.Module:
    """A copy of ``module`` whose gradients cross the named layers as told, and which answers alike."""
    twin = copy.deepcopy(module)
    for name, crossing in crossings.items():
        inner = twin.get_submodule(name)
        _replace_everywhere(twin, inner, StraightThrough(inner, crossing))
    return twin


def _checked_crossing(name: str, module: nn.Module, calls: dict[str, LayerCall]) -> Crossing:
    if name not in calls:
        known = name in dict(module.named_modules())
        raise ModelError(
            f"layer {name!r} is not called with a tensor" if known else f"the model has no layer {name!r}",
            "name a layer that masked_layers finds",
        )
    if name == "" or any(calls[name].layer.children()):
        raise ModelError(
            f"{f'layer {name!r}' if name else 'the model itself'} masks gradients in its own forward()",
            "put the masking step into a module of its own, or assess with scores or labels access",
        )
    return crossing_for(calls[name])


def _own_copy(module: nn.Module) -> nn.Module:
    """A frozen copy to experiment on; the module itself where it cannot be copied."""
    try:
        return copy.deepcopy(module).requires_grad_(False)
    except Exception:  # locks, handles, non-leaf tensors: torch and Python raise many kinds
        return module


def _replace_everywhere(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """A module may be held under several names."""
    for parent in list(root.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def _masking(call: LayerCall) -> tuple[float, float] | None:
    """(zero share, change share) of a layer that masks; None for an honest one.

    A layer is honest if the derivative explains its change at any scale: a coarse one, where a straight-through layer
    follows its rounding on average, or a fine one, where a steep layer is smooth.
    """
    z = call.given
    if len(z) < 2:
        return None
    way = z.roll(1, 0) - z
    least: float | None = None
    zero_share = 0.0  # of the derivative along random signs, lest units that cancel or stay as they are count
    for share in _SHARES:
        change = call.answer(z + share * way) - call.answer(z)
        size = float(change.abs().sum())
        if not 0 < size < float("inf"):
            continue  # nothing happens on this scale, or an infinite number
        weight = change.sign()
        explained = 0.0
        for place, worth in zip(_PLACES, _WEIGHTS, strict=True):
            slope = call.slope(z + share * (place + 1) / 2 * way, weight)
            explained += float((slope * way).sum()) * share * worth / 2
        missing = abs(size - explained) / size
        if missing < _UNEXPLAINED:
            return None
        signs = Rng(0).fork("signs").sign(torch.arange(len(z)), tuple(weight.shape[1:]))
        zero_share = float((call.slope(z, signs.to(weight)) == 0).double().mean())
        least = missing if least is None else min(least, missing)
    if least is None or zero_share < _ZERO:
        return None
    return zero_share, min(least, 1.0)

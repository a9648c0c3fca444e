"""Layers that lengthen nothing, by scaling the columns of their weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hardpoint.bounds.gram import phases, shared, unphased
from hardpoint.core.errors import ModelError
from hardpoint.harden.layers.weighted import check_convolution, weighted_layers

_TINY = 1e-30


class ScaledColumns(nn.Module):
    """The weight of a linear layer ``[o, i]``, each column divided by the root of what it shares with all."""

    def forward(self, weight: Tensor) -> Tensor:
        common = (weight.T @ weight).abs().sum(1)
        return weight * common.clamp_min(_TINY).rsqrt()


class ScaledChannels(nn.Module):
    """The same for a convolution's kernel ``[o, i, h, w]``, with or without stride."""

    def __init__(self, stride: tuple[int, int]) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, kernel: Tensor) -> Tensor:
        common = shared(phases(kernel, self.stride)).sum(1)
        return kernel * unphased(common.clamp_min(_TINY).rsqrt(), kernel, self.stride)


def almost_orthogonal(network: nn.Module, *, seed: int | None = 0) -> nn.Module:
    """A copy of ``network`` whose linear layers and convolutions lengthen no difference of two inputs, whatever they
    learn (Prach and Lampert, "Almost-orthogonal layers for efficient general-purpose Lipschitz networks", ECCV 2022,
    theorems 1 and 2; convolutions with a stride as convolutions over blocks, which is tighter).

    With activations that lengthen nothing either, the network answers the same class within the radius that
    ``hardpoint.bounds.certified_radius`` tells; ``GroupSort`` loses least. Weights are held as they are learned,
    under ``parametrizations`` in the ``state_dict``: a network made anew in the same way takes them.

    Args:
        network: every ``Linear`` and ``Conv2d`` in it is changed; convolutions with groups, dilation or any padding but
            zeros are refused.
        seed: weights begin orthogonal, drawn by it, as those that networks usually begin with leave little of a signal
            after a few scaled layers; None leaves them.

    Raises:
        ModelError: for a network without such layers, or with one that cannot be scaled.

    >>> net = almost_orthogonal(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    >>> bool(torch.linalg.matrix_norm(net[0].weight, 2) <= 1 + 1e-6)
    True
    """
    changed = copy.deepcopy(network)
    source = None if seed is None else torch.Generator().manual_seed(seed)
    for name, layer in weighted_layers(changed):
        if isinstance(layer, nn.Conv2d):
            check_convolution(layer, name)
        if parametrize.is_parametrized(layer):
            raise ModelError(f"{name!r} is parametrised already", "give a network that is not")
        if source is not None and layer.weight.requires_grad:
            _begin(layer, source)
        stride = (layer.stride[0], layer.stride[1]) if isinstance(layer, nn.Conv2d) else None
        how = ScaledColumns() if stride is None else ScaledChannels(stride)
        parametrize.register_parametrization(layer, "weight", how)
    return changed


def _begin(layer: nn.Linear | nn.Conv2d, source: torch.Generator) -> None:
    """Orthogonal weights; of a convolution in the middle of the kernel alone (Xiao et al., ICML 2018), over as much of
    it as it strides."""
    with torch.no_grad():
        start = torch.zeros(layer.weight.shape)
        if isinstance(layer, nn.Conv2d):
            _begin_middle(start, (layer.stride[0], layer.stride[1]), source)
        else:
            nn.init.orthogonal_(start, generator=source)
        layer.weight.copy_(start)
        if layer.bias is not None and layer.bias.requires_grad:
            layer.bias.zero_()


def _begin_middle(start: Tensor, stride: tuple[int, int], source: torch.Generator) -> None:
    """Put orthogonal weights over one block of ``stride`` into the middle of ``start`` ``[o, i, h, w]``."""
    (h, w), (s, t) = start.shape[2:], stride
    s, t = min(s, h), min(t, w)
    top, left = (h - s) // 2, (w - t) // 2
    block = torch.zeros(start.shape[0], start.shape[1] * s * t)
    nn.init.orthogonal_(block, generator=source)
    start[:, :, top : top + s, left : left + t] = block.view(*start.shape[:2], s, t)

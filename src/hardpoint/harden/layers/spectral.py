"""Layers with a spectral norm of about 1, or any other."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from hardpoint.core.errors import ModelError
from hardpoint.engine.guard import preserved_random_state
from hardpoint.harden.layers.weighted import check_convolution, weighted_layers
from hardpoint.harden.recipes._checks import positive

_FIRST = 15
"""Power iterations before training begins; one more is made at each step in training mode."""


class SpectralLimit(nn.Module):
    """A weight divided by its spectral norm where that is above ``limit``.

    Args:
        layer: which it is of.
        shape: of one input, ``[i]`` or ``[i, h, w]``: for a convolution the norm is that of the convolution itself over
            such inputs, borders and stride included, not that of its kernel laid out as a matrix.
        limit: the largest norm.
    """

    direction: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d, shape: tuple[int, ...], limit: float) -> None:
        super().__init__()
        self.limit, self.shape = limit, shape
        self.stride: tuple[int, ...] = layer.stride if isinstance(layer, nn.Conv2d) else ()
        self.padding: str | tuple[int, ...] = layer.padding if isinstance(layer, nn.Conv2d) else ()
        weight = layer.weight.detach()
        start = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)).to(weight)
        self.register_buffer("direction", start / start.norm())
        with torch.no_grad():
            for _ in range(_FIRST):
                self._advance(weight)

    def forward(self, weight: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self._advance(weight.detach())
        norm = self._through(weight, self.direction.clone()).norm()
        scaled: Tensor = weight * self.limit / norm.clamp_min(self.limit)
        return scaled

    def _through(self, weight: Tensor, x: Tensor) -> Tensor:
        if weight.dim() == 2:
            return functional.linear(x, weight)
        if isinstance(self.padding, str):
            return functional.conv2d(x, weight, None, self.stride, self.padding)
        return functional.conv2d(x, weight, None, self.stride, self.padding)

    def _advance(self, weight: Tensor) -> None:
        """One step of power iteration."""
        with torch.enable_grad():
            point = self.direction.detach().requires_grad_(True)
            back = torch.autograd.grad(0.5 * self._through(weight, point).square().sum(), point)[0]
        length = back.norm()
        if length > 0:  # a weight of zeros leads nowhere
            self.direction.copy_(back / length)


def spectrally_normed(network: nn.Module, x: Tensor, limit: float = 1.0) -> nn.Module:
    """A copy of ``network`` whose linear layers and convolutions are held to a spectral norm of ``limit`` (Miyato et
    al., "Spectral normalization for generative adversarial networks", ICLR 2018; for convolutions over their real
    inputs, Gouk et al., "Regularisation of neural networks by enforcing Lipschitz continuity", Machine Learning 2021).

    Power iteration tells the norm from below: this makes networks smoother and proves nothing. For proofs there is
    ``almost_orthogonal``, or ``hardpoint.bounds.lipschitz_bound`` of what came out.

    Args:
        network: every ``Linear`` and ``Conv2d`` in it is changed.
        x: an input or more ``[n, ...]``, by which convolutions learn the size of theirs.
        limit: the largest norm of a layer.

    Raises:
        ModelError: for a network without such layers, with one that cannot be bound, or that does not use one.

    >>> net = spectrally_normed(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.zeros(1, 4), 0.5)
    >>> bool(torch.linalg.matrix_norm(net[0].weight, 2) < 0.51)
    True
    """
    positive(limit, "limit")
    changed = copy.deepcopy(network)
    layers = weighted_layers(changed)
    shapes: dict[str, tuple[int, ...]] = {}

    def noting(name: str) -> torch.utils.hooks.RemovableHandle:
        return dict(layers)[name].register_forward_pre_hook(
            lambda _, given: shapes.__setitem__(name, tuple(given[0].shape[1:]))
        )

    handles = [noting(name) for name, _ in layers]
    was = changed.training
    try:
        with torch.no_grad(), preserved_random_state():
            changed.eval()(x[:1])
    finally:
        for handle in handles:
            handle.remove()
        changed.train(was)
    for name, layer in layers:
        if name not in shapes:
            raise ModelError(f"the network does not use {name!r}", "leave it out")
        if isinstance(layer, nn.Conv2d):
            check_convolution(layer, name)
        if parametrize.is_parametrized(layer):
            raise ModelError(f"{name!r} is parametrised already", "give a network that is not")
        shape = shapes[name] if isinstance(layer, nn.Conv2d) else (layer.in_features,)
        parametrize.register_parametrization(layer, "weight", SpectralLimit(layer, shape, limit))
    return changed

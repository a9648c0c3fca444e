"""Networks whose layers are held to a length, and networks that cannot be."""

from __future__ import annotations

import pytest
import torch
from small_lessons import flat, length, plane, same, state_of
from torch import nn

from hardpoint.core.errors import ConfigError, ModelError
from hardpoint.harden.layers import almost_orthogonal, spectrally_normed
from small_models import rand, seeded


@pytest.mark.parametrize("stride", [1, 2])
def test_spectral_norms_are_those_of_the_layers_themselves(stride):
    layer = seeded(lambda: nn.Conv2d(2, 4, 3, stride, 1)).double()
    net = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(4 * (6 // stride) ** 2, 3).double())
    with torch.no_grad():
        net[3].weight.mul_(20)
    limited = spectrally_normed(net, rand(2, 2, 6, 6).double(), 0.5).train()
    for _ in range(60):
        limited(rand(1, 2, 6, 6).double())
    limited.eval()
    assert length(limited[0], 2, 6, 6) == pytest.approx(0.5, rel=1e-3)
    assert length(limited[3], net[3].in_features) == pytest.approx(0.5, rel=1e-3)
    kernel = limited[0].weight.detach().flatten(1)  # what torch's own parametrisation would hold to 0.5
    assert abs(float(torch.linalg.matrix_norm(kernel, 2)) - 0.5) > 0.02
    before = state_of(limited)
    limited(rand(1, 2, 6, 6).double())
    assert same(before, state_of(limited))  # nothing moves in evaluation mode


def test_small_weights_are_left_alone():
    net = flat()
    limited = spectrally_normed(net, rand(1, 2), 100.0)
    torch.testing.assert_close(limited[0].weight, net[0].weight)
    with torch.no_grad():
        net[0].weight.zero_()
    zero = spectrally_normed(net, rand(1, 2), 1.0).train()
    zero(rand(4, 2)).sum().backward()
    assert torch.isfinite(zero[0].parametrizations.weight.original.grad).all()


def test_networks_that_cannot_be_changed():
    x = rand(1, 2)
    for make in (
        lambda: almost_orthogonal(nn.Sequential(nn.ReLU())),
        lambda: almost_orthogonal(nn.LSTM(2, 2)),
        lambda: almost_orthogonal(nn.Sequential(nn.Conv2d(2, 2, 3, groups=2))),
        lambda: almost_orthogonal(almost_orthogonal(plane())),
        lambda: spectrally_normed(almost_orthogonal(plane()), x),
        lambda: spectrally_normed(nn.ReLU(), x),
    ):
        with pytest.raises(ModelError):
            make()

    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(ModelError, match="does not use 'unused'"):
        spectrally_normed(Unused(), x)
    with pytest.raises(ConfigError):
        spectrally_normed(plane(), x, limit=0.0)
    net = plane()
    before = state_of(net)
    almost_orthogonal(net), spectrally_normed(net, x)
    assert same(before, state_of(net))

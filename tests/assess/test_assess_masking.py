"""Ten planted failures are caught, honest models raise no alarm, and a MeanSparse layer is seen through."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import hardpoint as hp
from hardpoint.attacks import PGD
from hardpoint.cli.demo.digits import EPS, digits_split, trained_digits_network
from hardpoint.core.errors import ModelInTrainingMode, NonFiniteOutput
from small_models import conv, linear, mlp

X, Y = digits_split()[1]
X, Y = X[:200], Y[:200]


class Front(nn.Module):
    """Something in front of, and behind, the digits network."""

    def __init__(self, before=None, after=None, which="hardened"):
        super().__init__()
        self.before, self.net, self.after = before, trained_digits_network(which), after

    def forward(self, x):
        z = self.net(x if self.before is None else self.before(x))
        return z if self.after is None else self.after(z)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Winners(nn.Module):
    """k winners take all (Xiao et al., ICLR 2020)."""

    def forward(self, x):
        flat = x.flatten(1)
        least = flat.topk(max(1, flat.shape[1] // 4), dim=1).values[:, -1:]
        return torch.where(flat >= least, flat, 0.0).view_as(x)


class Resized(nn.Module):
    """Random resizing and padding (Xie et al., ICLR 2018)."""

    def forward(self, x):
        side = int(torch.randint(6, 9, ()))
        small = functional.interpolate(x, size=(side, side))
        return functional.pad(small, (0, 8 - side, 0, 8 - side))


class Optimised(nn.Module):
    """Moves its input downhill before it answers."""

    def __init__(self):
        super().__init__()
        self.net = trained_digits_network("hardened")

    def forward(self, x):
        with torch.enable_grad():
            point = x.detach().requires_grad_(True)
            slope = torch.autograd.grad(self.net(point).logsumexp(1).sum(), point)[0]
        return self.net(x - 0.01 * slope)


class MeanSparse(nn.Module):
    """Numbers near their channel's mean become the mean (after Amini et al. 2024): flat inside the band."""

    def __init__(self, mean, band):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("band", band)

    def forward(self, x):
        return torch.where((x - self.mean).abs() <= self.band, self.mean, x)


def batch_norm_in_training():
    net = nn.Sequential(nn.BatchNorm2d(1), trained_digits_network("hardened")).eval()
    net[0].train()
    return net


PLANTED = {
    "softmax out": (lambda: Front(after=nn.Softmax(1)), {"HP104"}),
    "temperature": (lambda: Front(after=Function(lambda z: 1000 * z)), {"HP109"}),
    "quantised": (lambda: Front(before=Function(lambda x: torch.round(x * 8) / 8)), {"HP113"}),
    "sign": (lambda: Front(before=Function(lambda x: 0.5 + 0.5 * torch.sign(x - 0.5))), {"HP113", "HP107"}),
    "winners": (lambda: Front(before=Winners()), {"HP113"}),
    "random resize": (lambda: Front(before=Resized()), {"HP105"}),
    "batch norm in training": (batch_norm_in_training, {"HP101"}),
    "batch statistics": (lambda: Front(before=Function(lambda x: x - x.mean(0) + 0.3)), {"HP106"}),
    "NaN": (lambda: Front(after=Function(lambda z: torch.where(z > z.median(), torch.nan, z))), {"HP102"}),
    "test-time optimisation": (Optimised, {"HP108"}),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_failures_are_caught(name):
    make, expected = PLANTED[name]
    found = {f.id for f in hp.doctor(make().eval() if name != "batch norm in training" else make(), X, Y)}
    assert found & expected


@pytest.mark.parametrize(
    ("name", "error"), [("batch norm in training", ModelInTrainingMode), ("NaN", NonFiniteOutput)]
)
def test_what_makes_every_number_meaningless_stops_an_assessment(name, error):
    make, _ = PLANTED[name]
    model = make()
    with pytest.raises(error):
        hp.assess(model if name != "NaN" else model.eval(), X, Y, threat=hp.Linf(0.1), progress=False)


HONEST = {
    "digits plain": (lambda: trained_digits_network("plain"), (1, 8, 8)),
    "digits hardened": (lambda: trained_digits_network("hardened"), (1, 8, 8)),
    "mlp": (mlp, (8,)),
    "conv": (conv, (2, 6, 5)),
    "linear": (lambda: linear(torch.eye(3, 8) * 4, torch.tensor([0.0, 0.1, -0.1])), (8,)),
}


@pytest.mark.usefixtures("few_queries")
@pytest.mark.parametrize("name", HONEST)
def test_honest_models_raise_no_alarm(name):
    make, shape = HONEST[name]
    net = make().eval()
    x = X if shape == (1, 8, 8) else torch.rand(200, *shape, generator=torch.Generator().manual_seed(1))
    result = hp.assess(net, x, net(x).argmax(1), threat=hp.Linf(0.03), progress=False)
    assert {f.id for f in result.findings} <= {"HP306", "HP109"}


def test_a_mean_sparse_layer_is_flagged_and_seen_through():
    """The bare network's robustness is what the layer can at most add a little to; a plain attack sees far more."""
    bare = trained_digits_network("hardened")
    layers = [(name, layer) for name, layer in bare.named_modules() if isinstance(layer, nn.ReLU)]
    assert layers
    seen = {}
    layers[0][1].register_forward_hook(lambda _, __, out: seen.update(out=out.detach()))
    bare(X)
    out = seen["out"].transpose(0, 1).flatten(1)
    shape = (1, -1, *([1] * (seen["out"].dim() - 2)))
    sparse = MeanSparse(out.mean(1).view(shape), 0.7 * out.std(1).view(shape))
    masked = trained_digits_network("hardened")
    parent, _, last = layers[0][0].rpartition(".")
    holder = masked.get_submodule(parent) if parent else masked
    setattr(holder, last, nn.Sequential(nn.ReLU(), sparse))
    masked.eval()
    plain = PGD(steps=40, loss="margin")(masked, X, Y, hp.Linf(EPS))
    result = hp.assess(masked, X, Y, threat=hp.Linf(EPS), budget=hp.Budget(passes=1000), progress=False)
    assert "HP113" in {f.id for f in result.findings}
    over = float((~plain.broken).double().mean()) - result.robust_accuracy.value
    assert over >= 0.015

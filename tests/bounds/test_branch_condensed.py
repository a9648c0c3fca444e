"""The network over one box without the units that are decided there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bounded_nets import network_of
from hardpoint.bounds import Interval
from hardpoint.bounds.branch.condensed import condensed
from hardpoint.bounds.branch.search import Answer, Limits, settled
from hardpoint.bounds.claim import Claim
from hardpoint.bounds.crown import crown_spans
from hardpoint.bounds.graph import Network
from small_models import randn, seeded


class Shortcut(nn.Module):
    """A convolution whose input is added again before the units."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3, 2, 1), nn.Conv2d(3, 3, 3, 1, 1)
        self.last = nn.Linear(48, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.first(x))
        return self.last(torch.relu(self.second(h) + h).flatten(1))


NETWORKS = {
    "dense": lambda: nn.Sequential(
        nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)
    ),
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, 1, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 3),
    ),
    "short cut": Shortcut,
}


def both(name: str) -> tuple[Network, torch.Tensor]:
    module = seeded(NETWORKS[name]).eval().requires_grad_(False)
    x = randn(1, *((20,) if name == "dense" else (1, 8, 8)), seed=3)
    return network_of(module, x), x.double()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("eps", [0.01, 0.1, 1.0])
def test_it_answers_as_the_network_does_everywhere_in_the_box(name, eps):
    network, x = both(name)
    small = condensed(network, crown_spans(network.exact, Interval(x - eps, x + eps)))
    points = x + eps * (2 * torch.rand(50, *x.shape[1:], generator=torch.Generator().manual_seed(0)) - 1)
    exact = network.exact(points)
    assert torch.allclose(
        small.quick(points.float()).double(), exact, atol=1e-4 * float(exact.abs().max() + 1)
    )


def test_it_has_the_bent_units_alone():
    network, x = both("dense")
    spans = crown_spans(network.exact, Interval(x - 0.05, x + 0.05))
    small = condensed(network, spans)
    bent = [int(((span.low < 0) & (span.high > 0)).sum()) for span in (spans[1], spans[3])]
    assert [len(kept.units) for kept in small.kept.values()] == [count for count in bent if count]


@pytest.mark.parametrize(
    "layer", [nn.LeakyReLU(0.1), nn.Sigmoid(), nn.Sequential(nn.ReLU(), nn.Unflatten(1, (1, 2, 4)), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 8))]
)  # fmt: skip
def test_other_networks_stay_as_they_are(layer):
    module = (
        seeded(lambda: nn.Sequential(nn.Linear(20, 8), layer, nn.Linear(8, 3))).eval().requires_grad_(False)
    )
    x = randn(1, 20, seed=1)
    network = network_of(module, x)
    spans = crown_spans(network.exact, Interval(x.double() - 0.1, x.double() + 0.1))
    assert condensed(network, spans) is network


@pytest.mark.parametrize("name", ["dense", "convolutions", "short cut"])
def test_branch_and_bound_comes_to_the_same_on_both(name, monkeypatch):
    """With and without leaving units out; what is proven is found by no point."""
    network, x = both(name)
    y = network.exact(x).argmax(1)
    claim = Claim.of_classes(y, 3)
    for eps in (0.05, 0.15, 0.3):
        box = Interval(x - eps, x + eps)
        found = settled(network, claim, box, Limits(5.0), lambda point: True)
        with monkeypatch.context() as patched:
            patched.setattr("hardpoint.bounds.branch.search.condensed", lambda network, spans: network)
            whole = settled(network, claim, box, Limits(5.0), lambda point: True)
        assert Answer.OPEN in (found.answer, whole.answer) or found.answer is whole.answer
        points = x + eps * (
            2 * torch.rand(2000, *x.shape[1:], generator=torch.Generator().manual_seed(1)) - 1
        )
        margins = claim.of(torch.zeros(2000, dtype=torch.int64)).margin(network.exact(points))
        assert float(margins.min()) >= found.bound

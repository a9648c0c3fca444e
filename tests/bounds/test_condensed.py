"""The network over boxes without the units that are decided there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bounded_nets import network_of
from hardpoint.bounds import Interval
from hardpoint.bounds.alpha import Ascent, alpha_linear, alpha_spans
from hardpoint.bounds.branch.search import Answer, Limits, settled
from hardpoint.bounds.claim import Claim
from hardpoint.bounds.condensed import condensed, together
from hardpoint.bounds.crown import both_ways, crown_spans
from hardpoint.bounds.graph import Network
from hardpoint.bounds.linear import Choice, backward
from hardpoint.bounds.operators.operator import DOUBLE, Slopes
from hardpoint.bounds.rows import Patches, Rows
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
    assert small.kept or eps < 0.1
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
    assert [kept.units.shape[1] for kept in small.kept.values()] == [count for count in bent if count]


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
            for module in ("branch.search", "alpha"):
                patched.setattr(f"hardpoint.bounds.{module}.condensed", lambda network, spans: network)
            whole = settled(network, claim, box, Limits(5.0), lambda point: True)
        assert Answer.OPEN in (found.answer, whole.answer) or found.answer is whole.answer
        points = x + eps * (
            2 * torch.rand(2000, *x.shape[1:], generator=torch.Generator().manual_seed(1)) - 1
        )
        margins = claim.of(torch.zeros(2000, dtype=torch.int64)).margin(network.exact(points))
        assert float(margins.min()) >= found.bound


@pytest.mark.parametrize("name", NETWORKS)
def test_inputs_of_a_batch_have_units_of_their_own(name):
    network, _ = both(name)
    x = randn(5, *((20,) if name == "dense" else (1, 8, 8)), seed=4).double()
    eps = torch.tensor([0.0, 0.01, 0.05, 0.2, 0.5]).double().view(-1, *[1] * (x.dim() - 1))
    spans = crown_spans(network.exact, Interval(x - eps, x + eps))
    small = condensed(network, spans)
    assert small.kept
    counts = {k: ((spans[k].low < 0) & (spans[k].high > 0)).flatten(1).sum(1) for k in small.kept}
    assert all(len(set(count.tolist())) > 1 for count in counts.values())
    assert {k: kept.units.shape for k, kept in small.kept.items()} == {
        k: (5, int(count.max())) for k, count in counts.items()
    }
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        points = x + eps * (2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1)
        exact = network.exact(points)
        assert torch.allclose(
            small.quick(points.float()).double(), exact, atol=1e-4 * float(exact.abs().max() + 1)
        )


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("outward", [None, DOUBLE])
def test_chosen_lines_are_those_of_the_whole_network(name, outward, monkeypatch):
    """Which graph the search runs on changes nothing but its rounding; bounds hold on points either way."""
    network, _ = both(name)
    x = randn(4, *((20,) if name == "dense" else (1, 8, 8)), seed=5).double()
    box = Interval(x - 0.2, x + 0.2, outward)
    rows = torch.eye(3).double().expand(4, -1, -1)
    with torch.no_grad():
        spans = crown_spans(network.exact, box)
    assert condensed(network, spans).kept

    def found() -> tuple[list[Interval], torch.Tensor]:
        narrowed = alpha_spans(network, spans, Ascent(steps=5))
        return narrowed, alpha_linear(network, narrowed, rows, Ascent(steps=5)).least(box)

    narrowed, bounds = found()
    with monkeypatch.context() as patched:
        patched.setattr("hardpoint.bounds.alpha.condensed", lambda network, spans: network)
        whole, others = found()
    torch.testing.assert_close(bounds, others, rtol=1e-3, atol=1e-3)
    for one, other in zip(narrowed, whole, strict=True):
        torch.testing.assert_close(one.low, other.low, rtol=1e-3, atol=1e-3)
    generator = torch.Generator().manual_seed(2)
    for _ in range(300):
        points = x + 0.2 * (2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1)
        values = network.exact.values(points)
        assert bool((values[-1] >= bounds - 1e-12).all())
        assert all(
            bool(((v >= s.low - 1e-12) & (v <= s.high + 1e-12)).all())
            for v, s in zip(values, narrowed, strict=True)
        )


def test_a_value_that_two_units_take_leaves_the_network_whole():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.first(x)
            return self.last(torch.relu(h) - 2 * torch.relu(h))

    module = seeded(Twice).eval().requires_grad_(False)
    x = randn(3, 6, seed=1)
    network = network_of(module, x)
    spans = crown_spans(network.exact, Interval(x.double() - 0.3, x.double() + 0.3))
    assert condensed(network, spans) is network


def test_lines_may_be_given_for_the_elements_of_a_patch_alone():
    """They give the bound that the same lines give for whole images."""
    network, _ = both("convolutions")
    x = randn(2, 1, 8, 8, seed=6).double()
    spans = crown_spans(network.exact, Interval(x - 0.3, x + 0.3, DOUBLE))
    graph, place = network.exact, 4
    rows = both_ways(torch.arange(64).expand(2, -1), spans[place].low)
    met: dict[int, Rows] = {}
    backward(graph, spans, rows, place, None, met)
    (taken,) = met
    patch, own = met[taken], graph.steps[taken].operator.slopes(spans[taken])
    chosen = torch.rand(2, 128, *own.low.shape[1:], generator=torch.Generator().manual_seed(3)).double()
    shown = torch.stack([patch.shown(chosen[:, i])[:, i] for i in range(128)], 1)
    high = patch.shown(own.high)
    for_patch = backward(graph, spans, rows, place, Choice(patches={taken: Slopes(shown, high)}))
    for_image = backward(graph, spans, rows, place, Choice({taken: Slopes(chosen, own.high)}))
    assert isinstance(patch, Patches)
    assert shown.numel() < chosen.numel()
    torch.testing.assert_close(for_patch.least(spans[0]), for_image.least(spans[0]), rtol=1e-9, atol=1e-9)


def test_inputs_go_together_as_memory_allows(monkeypatch):
    network, _ = both("dense")
    x = randn(30, 20, seed=4).double()
    spans = crown_spans(network.exact, Interval(x - 0.2 * torch.rand(30, 1).double(), x + 0.2))
    assert [len(group) for group in together(network, spans)] == [30]
    monkeypatch.setattr("hardpoint.bounds.condensed._BYTES", 3 * 15 * 35 * 4)
    groups = together(network, spans)
    assert len(groups) > 4
    assert torch.equal(torch.cat(list(groups)).sort().values, torch.arange(30))
    assert all(condensed(network, [span.of(group) for span in spans]).kept for group in groups)


class Crossed(nn.Module):
    """Two branches whose patches together cover the image; units that no condensed network is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.tall, self.wide = (
            nn.Conv2d(2, 2, (5, 3), padding=(2, 1)),
            nn.Conv2d(2, 2, (3, 5), padding=(1, 2)),
        )
        self.last = nn.Linear(50, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = nn.functional.leaky_relu(self.first(x), 0.1)
        h = nn.functional.leaky_relu(self.tall(h) + self.wide(h), 0.1)
        return self.last(h.flatten(1))


@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize("seed", range(4))
def test_lines_of_images_are_not_taken_for_lines_of_patches(n, seed):
    module = seeded(Crossed, seed).eval().requires_grad_(False)
    x = randn(n, 1, 5, 5, seed=seed)
    network, x = network_of(module, x), x.double()
    rows = torch.eye(3).double().expand(n, -1, -1)
    spans = crown_spans(network.exact, Interval(x - 0.12, x + 0.12, DOUBLE))
    narrowed = alpha_spans(network, spans, Ascent(steps=4))
    bounds = alpha_linear(network, narrowed, rows, Ascent(steps=4)).least(spans[0])
    generator = torch.Generator().manual_seed(seed)
    for _ in range(50):
        values = network.exact.values(x + 0.12 * (2 * torch.rand(x.shape, generator=generator).double() - 1))
        assert bool((values[-1] >= bounds).all())
        assert all(bool(((v >= s.low) & (v <= s.high)).all()) for v, s in zip(values, narrowed, strict=True))


@pytest.mark.parametrize("unit", [nn.ReLU(), nn.LeakyReLU(0.1)])
def test_a_box_without_a_bent_unit_has_no_lines_to_choose(unit):
    module = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3), unit, nn.Conv2d(2, 2, 3), unit, nn.Flatten(), nn.Linear(8, 2)
        )
    )
    network, x = (
        network_of(module.eval().requires_grad_(False), randn(2, 1, 6, 6)),
        randn(2, 1, 6, 6).double(),
    )
    spans = crown_spans(network.exact, Interval(x, x, DOUBLE))
    narrowed = alpha_spans(network, spans, Ascent(steps=3))
    bounds = alpha_linear(network, narrowed, torch.eye(2).double().expand(2, -1, -1), Ascent(steps=3))
    torch.testing.assert_close(bounds.least(spans[0]), network.exact(x))

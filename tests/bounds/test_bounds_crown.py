"""Linear bounds carried backwards hold at every point, and are what the method's matrices say."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bounded_nets import NETS, net_and_inputs
from hardpoint.bounds import Interval, intervals, margin_bounds, traced
from hardpoint.bounds.crown import crown_margins
from small_models import linear, rand, randn, seeded, worst_margin


@given(st.integers(0, 10**6), st.sampled_from(sorted(NETS)), st.floats(1e-6, 2.0))
def test_no_point_beats_a_bound_whatever_the_weights(seed, name, eps):
    net, x = net_and_inputs(name, seed)
    graph, y = traced(net, x), torch.arange(5) % 3
    margins = crown_margins(graph, intervals(graph, Interval(x - eps, x + eps)), y)
    for turn in range(20):
        u = rand(*x.shape, seed=seed + turn, dtype=torch.float64)
        scores = net(x - eps + 2 * eps * (u if turn % 2 else u.round()))
        found = scores.gather(1, y.view(-1, 1)) - scores
        assert bool((found >= margins - 1e-9 * (1 + found.abs())).all())


@pytest.mark.parametrize("name", NETS)
def test_ten_thousand_points_do_not_beat_a_bound(name):
    net, x = net_and_inputs(name)
    graph, y, eps = traced(net, x), torch.tensor([1]), 0.2
    margins = crown_margins(graph, intervals(graph, Interval(x[:1] - eps, x[:1] + eps)), y)[0]
    u = rand(10_000, *x.shape[1:], seed=4, dtype=torch.float64)
    u = torch.where(rand(*u.shape, seed=5) < 0.5, u, u.round())
    scores = net(x[:1] - eps + 2 * eps * u)
    assert bool(((scores[:, 1:2] - scores).amin(0) >= margins - 1e-9).all())


def test_margins_of_a_linear_model_are_exact():
    weight, bias = randn(3, 6, seed=0, dtype=torch.float64), randn(3, seed=1, dtype=torch.float64)
    net, x, y = linear(weight, bias), rand(4, 6, seed=2, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    graph = traced(net, x)
    margins = crown_margins(
        graph, intervals(graph, Interval((x - 0.2).clamp(0, 1), (x + 0.2).clamp(0, 1))), y
    )
    worst = -margins.scatter(1, y.view(-1, 1), torch.inf).amin(1)
    torch.testing.assert_close(worst, worst_margin(weight, bias, x, y, "linf", 0.2))


@torch.no_grad()
def by_matrices(net: nn.Sequential, x: Tensor, eps: float, row: Tensor) -> float:
    """The lower bound of ``row · scores`` for one input of a ReLU network, written out with dense matrices."""
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    ends, spans = (x - eps, x + eps), []
    for layer in layers:
        middle, radius = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2
        middle, radius = layer.weight @ middle + layer.bias, layer.weight.abs() @ radius
        spans.append((middle - radius, middle + radius))
        ends = tuple(end.clamp(min=0) for end in spans[-1])
    total = torch.zeros((), dtype=x.dtype)
    for layer, before in zip(layers[::-1], [*spans[-2::-1], None], strict=True):
        total, row = total + row @ layer.bias, row @ layer.weight
        if before is None:
            break
        for i, (low, high) in enumerate(zip(*before, strict=True)):
            if high <= 0:
                row = row.index_fill(0, torch.tensor(i), 0.0)
            elif low < 0:
                chord = high / (high - low)
                slope = chord if row[i] < 0 else float(high > -low)
                total = total - (row[i] * chord * low if row[i] < 0 else 0)
                row = row * torch.where(torch.arange(len(row)) == i, slope, 1.0)
    return float(total + row @ x - eps * row.abs().sum())


def test_margins_are_those_of_the_matrices():
    for seed in range(5):
        net = seeded(
            lambda: nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3)),
            seed,
        ).double()
        x, y = randn(2, 5, seed=seed, dtype=torch.float64), torch.tensor([0, 2])
        graph = traced(net, x)
        for eps in (0.01, 0.3):
            found = crown_margins(graph, intervals(graph, Interval(x - eps, x + eps)), y)
            for i, other in itertools.product(range(2), range(3)):
                row = torch.eye(3, dtype=torch.float64)[y[i]] - torch.eye(3, dtype=torch.float64)[other]
                assert found[i, other].item() == pytest.approx(by_matrices(net, x[i], eps, row), abs=1e-9)


def test_bounds_are_tighter_than_intervals_where_few_neurons_are_unstable():
    net, x = net_and_inputs("deep")
    graph, y = traced(net[:5], x), torch.arange(5) % 5
    spans = intervals(graph, Interval(x - 0.02, x + 0.02))
    gain = crown_margins(graph, spans, y) - margin_bounds(graph, spans, y)
    assert gain.mean().item() > 0


def test_gradients_reach_the_weights_and_those_of_a_convolution_are_right():
    net, x = net_and_inputs("pooled")
    graph, y = traced(net, x), torch.arange(5) % 3

    def loss() -> Tensor:
        return crown_margins(graph, intervals(graph, Interval(x - 0.1, x + 0.1)), y).sum()

    for weight in net.parameters():
        slope = torch.autograd.grad(loss(), weight)[0]
        place, ends = int(slope.abs().argmax()), []
        with torch.no_grad():
            for step in (-1e-6, 2e-6):
                weight.view(-1)[place] += step
                ends.append(float(loss()))
            weight.view(-1)[place] -= 1e-6
        assert (ends[1] - ends[0]) / 2e-6 == pytest.approx(float(slope.flatten()[place]), rel=1e-3, abs=1e-6)

"""Bounds that account for rounding hold in exact arithmetic, whatever cancels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from bounded_nets import network_of
from hardpoint.bounds import Interval, intervals, margin_bounds, traced
from hardpoint.bounds.alpha import Ascent, alpha_spans, raised
from hardpoint.bounds.ball import Ball
from hardpoint.bounds.crown import crown_spans
from hardpoint.bounds.linear import backward
from hardpoint.bounds.operators.operator import DOUBLE
from hardpoint.bounds.rows import Dense
from small_models import rand, randn, seeded

Row = list[Fraction]


def exactly(net: nn.Sequential, x: Sequence[float]) -> Row:
    """What a network of linear layers and ReLUs answers, in fractions."""
    z = [Fraction(each) for each in x]
    for layer in net:
        if isinstance(layer, nn.Linear):
            rows = [[Fraction(w) for w in row] for row in layer.weight.tolist()]
            bias = [Fraction(b) for b in layer.bias.tolist()]
            z = [
                sum((w * v for w, v in zip(row, z, strict=True)), b)
                for row, b in zip(rows, bias, strict=True)
            ]
        elif isinstance(layer, nn.LeakyReLU):
            z = [each if each > 0 else Fraction(layer.negative_slope) * each for each in z]
        elif isinstance(layer, nn.ReLU):
            z = [max(each, Fraction(0)) for each in z]
        else:
            raise TypeError(type(layer))
    return z


def cancelling(seed: int, sizes: Sequence[int], scale: float, leaky: bool = False) -> nn.Sequential:
    """Weights of very different sizes in pairs that nearly cancel."""
    layers: list[nn.Module] = []
    for k, (a, b) in enumerate(itertools.pairwise(sizes)):
        line = nn.Linear(a, b, dtype=torch.float64)
        weight = randn(b, a, seed=seed + k, dtype=torch.float64)
        weight = weight * scale ** rand(b, a, seed=seed + k + 50, dtype=torch.float64)
        if k:  # units come in equal pairs, and weights in pairs of the other sign
            weight[:, 1::2] = -weight[:, ::2] * (
                1 + 2**-50 * randn(b, a // 2, seed=seed, dtype=torch.float64).round()
            )
        with torch.no_grad():
            line.weight.copy_(weight)
            line.bias.copy_(randn(b, seed=seed + k + 70, dtype=torch.float64))
            if k < len(sizes) - 2:
                line.weight[1::2], line.bias[1::2] = line.weight[::2].clone(), line.bias[::2].clone()
        layers += [line, nn.LeakyReLU(0.01) if leaky else nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def all_bounds(net: nn.Sequential, box: Interval) -> list[Tensor]:
    """``[K]``: lower bounds of the answers by every method."""
    graph = traced(net, box.low)
    answer = graph(box.low)
    rows = torch.eye(answer.shape[1], dtype=torch.float64).unsqueeze(0)
    with torch.no_grad():
        plain = intervals(graph, box)
        spans = crown_spans(graph, box)
        found = [plain[-1].low[0], spans[-1].low[0], backward(graph, plain, rows).least(box)[0]]
        found.append(backward(graph, spans, rows).least(box)[0])
    if float(max(span.size.max() for span in spans)) > 1e30:
        return found  # float32, where slopes are sought, ends before that
    spans = alpha_spans(network_of(net, box.low), spans, Ascent(steps=3))
    found.append(raised(graph, spans, rows, Ascent(steps=5)).bounds[0])
    return found


def points(box: Interval, seed: int) -> list[list[float]]:
    low, high = box.low[0], box.high[0]
    drawn = rand(6, len(low), seed=seed, dtype=torch.float64).round()
    corners = low + drawn * (high - low)
    return torch.minimum(torch.maximum(corners, low), high).tolist()


@settings(max_examples=25)
@given(
    st.integers(0, 10**6),
    st.sampled_from((1.0, 1e8, 1e16)),
    st.sampled_from((0.0, 1e-16, 1e-3, 1.0)),
    st.booleans(),
)
def test_bounds_hold_in_exact_arithmetic_whatever_cancels(seed, scale, eps, leaky):
    net = cancelling(seed, (3, 4, 4, 2), scale, leaky)
    x = randn(1, 3, seed=seed, dtype=torch.float64)
    box = Interval(x - eps, x + eps, DOUBLE)
    bounds = all_bounds(net, box)
    for point in points(box, seed):
        for k, value in enumerate(exactly(net, point)):
            for method, bound in enumerate(bounds):
                assert Fraction(float(bound[k])) <= value, (method, point)


@pytest.mark.parametrize("big", [2.0**54, 1e16, 1e30])
def test_what_cancels_in_float64_is_not_taken_for_0(big):
    """(x + big) - big - x is 0; float64 computes -x."""
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
        net[0].bias.copy_(torch.tensor([big, big], dtype=torch.float64))
        net[2].weight.copy_(torch.tensor([[1.0, -1.0]]))
        net[2].bias.zero_()
    x = torch.tensor([[-0.5]], dtype=torch.float64)
    box = Interval(x, x + 0.125, DOUBLE)
    for bound in all_bounds(net, box):
        assert float(bound) <= -0.5


def test_margins_hold_in_exact_arithmetic():
    for seed in range(10):
        net = cancelling(seed, (3, 4, 3), 1e12)
        x = randn(1, 3, seed=seed, dtype=torch.float64)
        graph, box = traced(net, x), Interval(x, x + 1e-9, DOUBLE)
        margins = margin_bounds(graph, intervals(graph, box), torch.tensor([0]))[0]
        for point in points(box, seed):
            scores = exactly(net, point)
            for k in (1, 2):
                assert Fraction(margins[k].item()) <= scores[0] - scores[k]


class Cancels(nn.Module):
    """Two curved branches whose rows cancel at the value that both take."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(2, 2, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        z = self.line(x)
        return (functional.leaky_relu(z, 0.3) * 3.3 - functional.leaky_relu(z, 0.1) * 9.9) * 1e15


def test_rows_that_cancel_where_branches_meet_still_lose_what_each_has_lost():
    net = seeded(Cancels)
    with torch.no_grad():
        net.line.weight.copy_(torch.eye(2) * 7.7)
        net.line.bias.fill_(-1e3)
    for value in rand(20, 1, 2, seed=1, dtype=torch.float64):
        graph, box = traced(net, value), Interval(value, value, DOUBLE)
        with torch.no_grad():
            spans = crown_spans(graph, box)
            bounds = torch.stack([spans[-1].low[0], -spans[-1].high[0]])
        weight, slopes = Fraction(7.7), (Fraction(0.3), Fraction(0.1))
        for k in range(2):
            z = Fraction(float(net.line.weight[k, k])) * Fraction(float(value[0, k])) - 1000
            assert z < 0 < weight
            truth = (slopes[0] * z * Fraction(3.3) - slopes[1] * z * Fraction(9.9)) * Fraction(1e15)
            assert Fraction(float(bounds[0, k])) <= truth <= -Fraction(float(bounds[1, k]))


def test_lines_whose_shifts_cancel_lose_as_much_as_each_of_them():
    """Sigmoids far from 0: the shifts of their lines are large and of both signs."""
    net = nn.Sequential(nn.Linear(1, 2), nn.Sigmoid(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        net[0].weight.fill_(1e3)
        net[0].bias.zero_()
        net[2].weight.copy_(torch.tensor([[1e17, -1e17]]))
        net[2].bias.fill_(1.0)
    x = torch.tensor([[0.3]], dtype=torch.float64)
    for bound in all_bounds(net, Interval(x, x, DOUBLE)):
        assert float(bound) <= 1.0


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e-160, 1.0, 1e150])
def test_lengths_of_tiny_coefficients_are_not_lost(size):
    net = nn.Sequential(nn.Linear(2, 1)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[3.0, 4.0]], dtype=torch.float64) * size)
        net[0].bias.zero_()
    x = torch.tensor([[2.0, 2.0]], dtype=torch.float64)
    for dual, worst in ((2.0, 14 - 3 * 5), (torch.inf, 14 - 3 * 4)):
        ball = Ball(x - 3, x + 3, DOUBLE, x, 3.0, dual)
        graph = traced(net, x)
        bound = float(
            backward(graph, [ball, *intervals(graph, ball)[1:]], torch.ones(1, 1, 1).double()).least(ball)
        )
        assert Fraction(bound) <= worst * Fraction(size)
        assert bound == pytest.approx(worst * size, rel=1e-6)


def test_max_pools_lose_what_their_rows_lose():
    net = seeded(
        lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(8, 2))
    ).double()
    x = rand(1, 1, 4, 4, seed=1, dtype=torch.float64)
    graph, box = traced(net, x), Interval(x - 0.1, x + 0.1, DOUBLE)
    for seed in range(20):
        z = x - 0.1 + 0.2 * rand(1, 1, 4, 4, seed=seed, dtype=torch.float64)
        with torch.no_grad():
            spans = crown_spans(graph, box)
            assert bool((spans[-1].low <= graph(z)).all() & (graph(z) <= spans[-1].high).all())


def test_a_bound_that_is_not_a_number_stays_one():
    for bad in (torch.nan, torch.inf, -torch.inf):
        net = seeded(lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))).double()
        x = torch.zeros(1, 2, dtype=torch.float64)
        graph, box = traced(net, x), Interval(x - 1, x + 1, DOUBLE)
        with torch.no_grad():
            net[0].weight[0, 0] = bad
            spans = crown_spans(graph, box)
            linear = backward(graph, spans, torch.eye(2, dtype=torch.float64).unsqueeze(0))
            assert not bool((linear.least(box) > -torch.inf).any())
        assert not bool((margin_bounds(graph, spans, torch.tensor([0]))[:, 1] > -torch.inf).any())
        found = raised(graph, spans, torch.eye(2, dtype=torch.float64).unsqueeze(0), Ascent(steps=4))
        assert not bool((found.bounds > -torch.inf).any())


def test_a_box_without_ends_has_no_bound():
    net = seeded(lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))).double()
    x = torch.zeros(1, 2, dtype=torch.float64)
    graph = traced(net, x)
    box = Interval(x - torch.inf, x + torch.inf, DOUBLE)
    with torch.no_grad():
        spans = crown_spans(graph, box)
        rows = Dense(torch.eye(2, dtype=torch.float64).unsqueeze(0))
        bound = backward(graph, spans, rows).least(box)
    truth = net[2].bias - net[2].weight.abs().sum(1)
    assert not bool((bound > truth).any())

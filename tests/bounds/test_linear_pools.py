"""Linear bounds of max pools lie below what the pool answers, whatever its settings and the intervals."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from bounded_nets import points_in
from hardpoint.bounds import Interval, traced
from hardpoint.bounds.crown import crown_spans
from hardpoint.bounds.linear import backward
from hardpoint.bounds.operators.operator import DOUBLE
from small_models import rand, randn, seeded

SETTINGS = [
    {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil}
    for kernel, stride, padding, dilation, ceil in itertools.product(
        (2, (3, 2)), (None, 1, (3, 2)), (0, 1), (1, (2, 1)), (False, True)
    )
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda each: "-".join(str(part) for part in each.values()))
@torch.no_grad()
def test_rows_before_a_pool_lie_below_it(settings):
    net = nn.Sequential(nn.MaxPool2d(**settings)).double()
    x = randn(3, 2, 6, 5, seed=1, dtype=torch.float64)
    graph = traced(net, x)
    width = rand(*x.shape, seed=2, dtype=torch.float64) ** 6 * 3  # from almost none to much
    width[2] = 0.0  # where every maximum is known
    x[1, 0, :2] = 0.25  # elements that are equal
    width[1, 0, :2] = 0.0
    for outward in (None, DOUBLE):
        box = Interval(x - width, x + width, outward)
        spans = crown_spans(graph, box)
        rows = randn(3, 7, *spans[1].low.shape[1:], seed=3, dtype=torch.float64)
        linear = backward(graph, spans, rows)
        least = linear.least(box)
        assert linear.rows is not None
        coefficients = linear.rows.dense().values
        for i in range(3):
            points = points_in(box.of(torch.tensor([i])), 300, seed=i)
            truth = torch.einsum("schw,nchw->ns", rows[i], net(points))
            below = torch.einsum("schw,nchw->ns", coefficients[i], points) + linear.shift[i]
            assert bool((truth >= below - linear.error[i] - 1e-12).all())
            assert bool((truth >= least[i] - 1e-12).all())
        torch.testing.assert_close(least[2], torch.einsum("schw,chw->s", rows[2], net(x[2:])[0]))


def test_pools_after_convolutions_are_tighter_than_intervals_and_hold():
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.MaxPool2d(2),
            nn.Conv2d(3, 2, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8, 2),
        )
    ).double()
    x = rand(2, 1, 6, 6, seed=1, dtype=torch.float64)
    graph, gain = traced(net, x), 0.0
    for eps in (0.003, 0.1):
        box = Interval(x - eps, x + eps, DOUBLE)
        with torch.no_grad():
            spans = crown_spans(graph, box)
            least = backward(graph, spans, torch.eye(2, dtype=torch.float64).expand(2, -1, -1)).least(box)
            gain += float((least - spans[-1].low).sum())
            for i in range(2):
                scores = net(points_in(box.of(torch.tensor([i])), 2000, seed=i))
                assert bool((scores >= least[i]).all())
    assert gain > 0

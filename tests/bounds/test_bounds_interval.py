"""Interval bounds hold at every point, are exact where they can be, and prove nothing that is not so."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import hardpoint as hp
from bounded_nets import NETS, net_and_inputs, points_in
from hardpoint.bounds import Interval, interval_certified, intervals, margin_bounds, traced
from hardpoint.bounds.operators.operator import DOUBLE
from hardpoint.core.errors import ConfigError, DataError, HardpointError, ModelError, ThreatError
from hardpoint.models import TorchModel
from small_models import conv, linear, mlp, rand, randn, seeded, worst_margin


def true_margins(scores: Tensor, y: Tensor) -> Tensor:
    return scores.gather(1, y.view(-1, 1)) - scores


@pytest.mark.parametrize("outward", [None, DOUBLE])
@pytest.mark.parametrize("name", NETS)
def test_no_point_beats_a_bound_anywhere_in_the_network(name, outward):
    net, x = net_and_inputs(name)
    graph = traced(net, x)
    for row, eps in itertools.product(range(2), (1e-3, 0.05, 0.5)):
        one = x[row : row + 1]
        box = Interval(one - eps, one + eps, outward)
        spans, z = intervals(graph, box), points_in(box, 2000, seed=row)
        slack = 0.0 if outward else 1e-12
        for span, value in zip(spans, graph.values(z), strict=True):
            assert bool((value >= span.low - slack * (1 + span.size)).all())
            assert bool((value <= span.high + slack * (1 + span.size)).all())
        for label in range(3):
            y = torch.tensor([label])
            least = true_margins(net(z), y.expand(len(z))).amin(0)
            assert bool((least >= margin_bounds(graph, spans, y)[0] - 1e-12 * (1 + least.abs())).all())


@given(st.integers(0, 10**6), st.sampled_from(sorted(NETS)), st.floats(1e-6, 2.0))
def test_no_point_beats_a_bound_whatever_the_weights(seed, name, eps):
    net, x = net_and_inputs(name, seed)
    graph, one = traced(net, x), x[seed % 5 : seed % 5 + 1]
    box = Interval(one - eps, one + eps, outward=DOUBLE)
    spans, y = intervals(graph, box), torch.tensor([seed % 3])
    found = true_margins(net(points_in(box, 60, seed)), y.expand(60)).amin(0)
    assert bool((found >= margin_bounds(graph, spans, y)[0] - 1e-12 * (1 + found.abs())).all())


def test_ten_thousand_points_do_not_beat_a_training_graph():
    net, x = net_and_inputs("residual")
    settled, _ = traced(net.train(), x).settled(x)
    box = Interval(x[:1] - 0.1, x[:1] + 0.1)
    bound = intervals(settled, box)[-1]
    values = settled(points_in(box, 10_000, seed=3))
    assert bool(((values >= bound.low - 1e-9) & (values <= bound.high + 1e-9)).all())


@given(st.integers(0, 10**6), st.floats(0.0, 0.6), st.integers(2, 5))
def test_margins_of_a_linear_model_are_exact(seed, eps, classes):
    weight, bias = randn(classes, 6, seed=seed, dtype=torch.float64), randn(classes, seed=seed + 1)
    net, x = linear(weight, bias.double()), rand(4, 6, seed=seed, dtype=torch.float64)
    y = torch.arange(4) % classes
    box = Interval((x - eps).clamp(0, 1), (x + eps).clamp(0, 1))
    margins = margin_bounds(traced(net, x), intervals(traced(net, x), box), y)
    worst = -margins.scatter(1, y.view(-1, 1), torch.inf).amin(1)
    torch.testing.assert_close(worst, worst_margin(weight, bias, x, y, "linf", eps), rtol=1e-9, atol=1e-9)


def test_intervals_are_exact_where_each_neuron_sees_one_input():
    """ReLU of one input each: margins are sums of functions of one coordinate, so every minimum lies at ends and kinks."""
    for seed in range(20):
        scale, shift = randn(4, seed=seed, dtype=torch.float64), randn(4, seed=seed + 50, dtype=torch.float64)
        last = nn.Linear(4, 3).double()
        with torch.no_grad():
            last.weight.copy_(randn(3, 4, seed=seed + 99, dtype=torch.float64))
        first = nn.Linear(4, 4).double()
        with torch.no_grad():
            first.weight.copy_(torch.diag(scale))
            first.bias.copy_(shift)
        net, x = nn.Sequential(first, nn.ReLU(), last), randn(1, 4, seed=seed, dtype=torch.float64)
        box = Interval(x - 0.7, x + 0.7)
        corners = torch.tensor(list(itertools.product(*zip(box.low[0], box.high[0], strict=True))))
        y, graph = torch.tensor([seed % 3]), traced(net, x)
        exact = true_margins(net(corners.double()), y.expand(16)).amin(0)  # monotone in each: ends are enough
        torch.testing.assert_close(
            margin_bounds(graph, intervals(graph, box), y)[0], exact, rtol=1e-6, atol=1e-6
        )


def test_intervals_are_exact_for_networks_that_rise_in_every_input():
    for seed in range(5):
        net = seeded(
            lambda: nn.Sequential(
                nn.Conv2d(1, 3, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)
            ),
            seed,
        ).double()
        for weight in net.parameters():
            if weight.dim() > 1:
                weight.data.abs_()
        x = randn(3, 1, 5, 5, seed=seed, dtype=torch.float64)
        scores = intervals(traced(net, x), Interval(x - 0.3, x + 0.3))[-1]
        torch.testing.assert_close(scores.low, net(x - 0.3))
        torch.testing.assert_close(scores.high, net(x + 0.3))


@pytest.mark.parametrize("name", NETS)
def test_bounds_widen_with_the_box_and_close_without_one(name):
    net, x = net_and_inputs(name)
    graph, before, y = traced(net, x), None, torch.arange(5) % 3
    for eps in (0.0, 1e-6, 1e-3, 0.03, 0.3, 3.0):
        margins = margin_bounds(graph, intervals(graph, Interval(x - eps, x + eps)), y)
        if before is None:
            torch.testing.assert_close(margins, true_margins(net(x), y), rtol=1e-9, atol=1e-9)
        else:
            assert bool((margins <= before + 1e-12 * before.abs()).all())
        before = margins


@pytest.mark.parametrize("name", NETS)
def test_bounds_of_an_input_do_not_depend_on_its_batch(name):
    net, x = net_and_inputs(name)
    graph, y = traced(net, x), torch.arange(5) % 3
    whole = margin_bounds(graph, intervals(graph, Interval(x - 0.1, x + 0.1)), y)
    for row in range(5):
        one = x[row : row + 1]
        alone = margin_bounds(graph, intervals(graph, Interval(one - 0.1, one + 0.1)), y[row : row + 1])
        torch.testing.assert_close(alone, whole[row : row + 1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["deep", "residual", "strips"])
def test_gradients_of_bounds_are_those_of_differences(name):
    net, x = net_and_inputs(name)
    graph, y = traced(net.train(), x), torch.arange(5) % 3

    def loss() -> Tensor:
        settled, _ = graph.settled(x)
        return margin_bounds(settled, intervals(settled, Interval(x - 0.1, x + 0.1)), y).sum()

    weights = list(net.parameters())
    slopes = torch.autograd.grad(loss(), weights)
    for weight, slope in zip(weights, slopes, strict=True):
        place, ends = int(slope.abs().argmax()), []
        with torch.no_grad():
            for step in (-1e-6, 2e-6):
                weight.view(-1)[place] += step
                ends.append(float(loss()))
            weight.view(-1)[place] -= 1e-6
        assert (ends[1] - ends[0]) / 2e-6 == pytest.approx(float(slope.flatten()[place]), rel=1e-3, abs=1e-6)


def test_the_last_layer_is_merged_with_the_margins():
    weight = torch.tensor([[1.0, 1.0], [1.0, 0.9]], dtype=torch.float64)
    graph, x = traced(linear(weight), torch.zeros(1, 2).double()), torch.ones(1, 2).double()
    spans = intervals(graph, Interval(x - 0.5, x + 0.5))
    assert float(margin_bounds(graph, spans, torch.tensor([0]))[0, 1]) == pytest.approx(0.05)
    assert float(spans[-1].low[0, 0] - spans[-1].high[0, 1]) < -0.5  # what bounds of scores alone say


# --- what is proven -----------------------------------------------------------------------------------------------


def test_a_linear_model_is_proven_exactly_as_far_as_it_holds():
    weight, bias = randn(4, 8, seed=5), randn(4, seed=6)
    net, x = linear(weight, bias), rand(200, 8, seed=7)
    y = net(x).argmax(1)
    for eps in (0.0, 0.02, 0.1, 0.4):
        lead = -worst_margin(weight, bias, x, y, "linf", eps)
        assert torch.equal(interval_certified(net, x, y, hp.Linf(eps), slack=1e-4), lead > 1e-4)


@pytest.mark.parametrize("build", [mlp, conv])
def test_nothing_proven_falls_to_an_attack(build):
    net = build()
    x = rand(60, 8, seed=2) if build is mlp else rand(60, 2, 6, 5, seed=2)
    y = net(x).argmax(1)
    shares = []
    for eps in (1e-5, 3e-4, 1e-3, 0.004, 0.02):
        proven = interval_certified(net, x, y, hp.Linf(eps))
        found = hp.attacks.PGD(steps=10)(net, x, y, threat=hp.Linf(eps))
        assert not bool((found.broken & proven).any())
        shares.append(int(proven.sum()))
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 30
    assert shares[-1] < 60


def test_what_is_wrong_already_is_not_proven():
    net = mlp()
    x = rand(50, 8, seed=2)
    wrong = (net(x).argmax(1) + 1) % 4
    assert not bool(interval_certified(net, x, wrong, hp.Linf(0.0)).any())


def test_a_tie_is_not_proven():
    net = linear(torch.zeros(3, 2))
    assert not bool(interval_certified(net, rand(2, 2), torch.tensor([0, 2]), hp.Linf(0.1), slack=0.0).any())


def test_what_is_proven_depends_on_neither_batch_nor_order():
    net, x = conv(), rand(70, 2, 6, 5, seed=3)
    y = net(x).argmax(1)
    whole = interval_certified(net, x, y, hp.Linf(0.01))
    for size in (1, 7, 64):
        parts = [
            interval_certified(net, a, b, hp.Linf(0.01))
            for a, b in zip(x.split(size), y.split(size), strict=True)
        ]
        assert torch.equal(torch.cat(parts), whole)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0))
    assert torch.equal(interval_certified(net, x[order], y[order], hp.Linf(0.01)), whole[order])


def test_the_box_is_cut_by_the_input_range():
    net = linear(torch.tensor([[-1.0], [1.0]]), torch.tensor([0.5, -0.5]))  # the second class above 0.5
    x, y = torch.tensor([[0.9]]), torch.tensor([1])
    assert not bool(interval_certified(net, x, y, hp.Linf(0.5)))
    assert bool(interval_certified(TorchModel(net, input_range=(0.8, 1.0)), x, y, hp.Linf(0.5)))


def test_one_score_stands_for_two_classes():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).eval()
    x = rand(40, 3)
    y = (net(x).flatten() > 0).long()
    both = linear(
        torch.cat([-net[2].weight, net[2].weight]).detach(), torch.cat([-net[2].bias, net[2].bias]).detach()
    )
    two = nn.Sequential(net[0], net[1], both).eval()
    for last in (nn.Identity(), nn.Flatten()):
        shown = nn.Sequential(*net, last).eval()
        for eps in (0.0, 0.02, 0.2):
            mine = interval_certified(shown, x, y, hp.Linf(eps))
            assert torch.equal(mine, interval_certified(two, x, y, hp.Linf(eps))) or not isinstance(
                last, nn.Identity
            )
            assert not bool((mine & (TorchModel(net).predict(x) != y)).any())


def test_the_model_is_left_as_it_is():
    net = conv()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = rand(3, 2, 6, 5)
    interval_certified(net, x, net(x).argmax(1), hp.Linf(0.01))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert next(net.parameters()).dtype == torch.float32
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_prove_nothing(value):
    net = mlp()
    net[1].weight.data[0, 0] = value
    x = rand(5, 8)
    try:
        proven = interval_certified(net, x, torch.zeros(5, dtype=torch.int64), hp.Linf(0.0))
    except HardpointError:
        return  # refused because it cannot be compared with the network
    assert not bool(proven.any())


def test_rounding_is_part_of_the_bounds():
    """Zombori et al. (ICLR 2021): a sum in which a large weight swallows what matters, and takes it back."""
    for large in (1e9, 1e15, 1e16, 1e17, 1e20):
        first, second = nn.Linear(1, 2).double(), nn.Linear(2, 2).double()
        with torch.no_grad():
            first.weight.copy_(torch.tensor([[-2.0], [0.0]]))
            first.bias.copy_(torch.tensor([large + 1, large], dtype=torch.float64))
            second.weight.copy_(torch.tensor([[-1.0, 1.0], [1.0, -1.0]]))
            second.bias.copy_(torch.tensor([0.5, -0.5]))
        net = nn.Sequential(first, nn.ReLU(), second).eval()
        held = [[[Fraction(float(v)) for v in row] for row in layer.weight] for layer in (first, second)]
        shift = [[Fraction(float(v)) for v in layer.bias] for layer in (first, second)]

        def exactly(x: Fraction, held=held, shift=shift) -> Fraction:
            inside = [max(Fraction(0), w[0] * x + b) for w, b in zip(held[0], shift[0], strict=True)]
            scores = [
                sum((a * v for a, v in zip(w, inside, strict=True)), b)
                for w, b in zip(held[1], shift[1], strict=True)
            ]
            return scores[0] - scores[1]

        x = torch.tensor([[0.5]])
        for label in (0, 1):
            sign = 1 if label == 0 else -1
            least = min(sign * exactly(Fraction(k, 100)) for k in range(101))
            proven = interval_certified(net, x, torch.tensor([label]), hp.Linf(0.5), slack=0.0)
            assert not (bool(proven) and least <= 0)


def test_outward_bounds_hold_in_exact_arithmetic():
    for seed in range(10):
        weight = randn(3, 7, seed=seed, dtype=torch.float64) * 10.0 ** torch.randint(
            -8, 9, (3, 7), generator=torch.Generator().manual_seed(seed)
        )
        net, x = linear(weight, weight[:, 0]), randn(1, 7, seed=seed + 1, dtype=torch.float64)
        box = Interval(x - 0.1, x + 0.1, outward=DOUBLE)
        spans = intervals(traced(net, x), box)
        margins = margin_bounds(traced(net, x), spans, torch.tensor([0]))[0]
        rows = [[Fraction(float(v)) for v in row] for row in weight]
        low, high = ([Fraction(float(v)) for v in end[0]] for end in (box.low, box.high))

        def least(row: list[Fraction], low=low, high=high) -> Fraction:
            return sum((w * (a if w > 0 else b) for w, a, b in zip(row, low, high, strict=True)), Fraction(0))

        for k in range(3):
            assert Fraction(float(spans[-1].low[0, k])) <= least(rows[k]) + rows[k][0]
            row = [a - b for a, b in zip(rows[0], rows[k], strict=True)]
            assert Fraction(float(margins[k])) <= least(row) + row[0]


def test_what_cannot_be_proven_about_is_an_error():
    net, x, y = mlp(), rand(3, 8), torch.zeros(3, dtype=torch.int64)
    for threat in (hp.L2(0.1), hp.Threat(hp.L1(1.0))):
        with pytest.raises(ThreatError, match="interval"):
            interval_certified(net, x, y, threat)
    with pytest.raises(ModelError, match="training mode"):
        interval_certified(nn.Sequential(nn.Linear(8, 2), nn.Dropout(0.5)).train(), x, y, hp.Linf(0.1))
    with pytest.raises(ModelError, match="probabilities"):
        interval_certified(TorchModel(net, probabilities=True), x, y, hp.Linf(0.1))
    for bad, labels in (
        (x + 1, y),
        (x.clone().fill_(math.nan), y),
        (x, y + 4),
        (x, y - 1),
        (x, y[:2]),
        (x, y.float()),
    ):
        with pytest.raises(DataError):
            interval_certified(net, bad, labels, hp.Linf(0.1))
    assert len(interval_certified(net, x[:0], y[:0], hp.Linf(0.1))) == 0


def test_an_infinite_budget_is_the_whole_input_range():
    net = linear(torch.tensor([[0.0], [0.1]]), torch.tensor([1.0, 0.0]))
    assert bool(interval_certified(net, torch.tensor([[0.3]]), torch.tensor([0]), hp.Linf(math.inf)))


class Shared(nn.Module):
    """Two rows of weights, and one bias for both."""

    def __init__(self, bias: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.tensor([[0.0, 0.0], [1.0, -1.0]])), nn.Parameter(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


@pytest.mark.parametrize("bias", [torch.tensor([100.0]), torch.tensor(100.0), torch.tensor([100.0, 100.0])])
def test_a_bias_that_all_classes_share_separates_none(bias: torch.Tensor) -> None:
    x = torch.tensor([[0.5, 0.45], [0.9, 0.1]])
    proven = interval_certified(Shared(bias).eval(), x, torch.tensor([1, 1]), hp.Linf(0.3))
    assert proven.tolist() == [False, True]


def test_labels_of_any_whole_kind_and_no_others() -> None:
    net, x, y = nn.Sequential(nn.Linear(2, 2)).eval(), torch.rand(3, 2), torch.tensor([0, 1, 1])
    known = interval_certified(net, x, y, hp.Linf(0.01))
    for kind in (torch.uint8, torch.int32):
        assert torch.equal(interval_certified(net, x, y.to(kind), hp.Linf(0.01)), known)
    for wrong in (y.bool(), y.float(), y.tolist(), y[:2]):
        with pytest.raises(DataError):
            interval_certified(net, x, wrong, hp.Linf(0.01))
    with pytest.raises(DataError):
        interval_certified(net, x[0], y[:1], hp.Linf(0.01))
    for slack in (-0.1, math.nan, math.inf):
        with pytest.raises(ConfigError, match="slack"):
            interval_certified(net, x, y, hp.Linf(0.01), slack=slack)

"""``certify`` says robust of nothing that can be broken: at exact distances, in float32, and for numbers that overflow."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

import hardpoint as hp
from hardpoint.bounds.ball import Ball, allowed
from hardpoint.core.box import Box
from hardpoint.core.errors import HardpointError, ModelError
from hardpoint.evidence.certificate import Standing
from hardpoint.models.torch import TorchModel
from hardpoint.threats.features.edits import FeatureEdits
from hardpoint.threats.features.feature import Feature, Kind, Mutability
from hardpoint.threats.features.schema import Schema
from hardpoint.threats.l1 import L1
from hardpoint.threats.l2 import L2
from hardpoint.threats.linf import Linf
from small_models import labelled, linear, mlp, rand, randn, seeded, worst_margin

LEVELS = ("real", "rigorous", "deployed")


def standings(
    net, x: Tensor, y: Tensor, threat, level: str, seconds: float = 0.2, **settings
) -> list[Standing]:
    found = hp.certify(
        net, x, y, threat=threat, soundness=level, seconds_per_input=seconds, progress=False, **settings
    )
    return [each.standing for each in found.certificates]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("norm", "threat"), [("linf", Linf), ("l2", L2), ("l1", L1)])
def test_linear_networks_stand_up_to_their_distance_and_no_further(norm, threat, level):
    weight, bias = randn(3, 4, seed=1), randn(3, seed=2) * 0.1
    x = 0.5 + 0.01 * rand(3, 4, seed=3)  # far from the ends of the input range
    net = linear(weight, bias)
    y = labelled(net, x)
    low, high = 0.0, 2.0  # the radius at which the worst margin of the first input is 0
    for _ in range(60):
        middle = (low + high) / 2
        worst = float(worst_margin(weight, bias, x[:1], y[:1], norm, middle, -9.0, 9.0))
        low, high = (middle, high) if worst < 0 else (low, middle)
    model = TorchModel(net, input_range=(-9.0, 9.0))
    below, above = threat(low * 0.999), threat(low * 1.001)
    assert standings(model, x[:1], y[:1], below, level) == [Standing.ROBUST]
    assert standings(model, x[:1], y[:1], above, level)[0] is not Standing.ROBUST


class Backdoor(nn.Module):
    """``relu(u + big - big) - u`` style: in exact arithmetic the score stands, in float32 it falls for some inputs."""

    def __init__(self, big: float) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(1, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[1.0], [0.0]]))
            self.first.bias.copy_(torch.tensor([big, big]))
            self.second.weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))  # x, exactly; in float32 0
            self.second.bias.copy_(torch.tensor([0.0, 0.0]))
            self.last.weight.copy_(torch.tensor([[4.0, 0.0], [0.0, 0.0]]))
            self.last.bias.copy_(torch.tensor([0.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.relu(self.first(x))
        return self.last(torch.relu(self.second(z)))


@pytest.mark.parametrize("big", [2.0**25, 1e8, 1e12, 1e16, 1e30])
def test_networks_that_cancel_to_nothing_in_float32_are_never_robust_as_deployed(big):
    """Exactly, class 0 has 4x and wins from 0.25 on; float32 loses x."""
    net, x = Backdoor(big).eval(), torch.tensor([[0.7]])
    falls = int(net(x).argmax()) == 1
    for y in (0, 1):
        label = torch.tensor([y])
        assert standings(net, x, label, Linf(0.1), "deployed")[0] is not Standing.ROBUST
        exact = standings(net, x, label, Linf(0.1), "rigorous")[0]
        assert exact is not Standing.ROBUST or y == 0
    assert falls


def test_a_sum_whose_order_decides_is_not_robust_as_deployed():
    """1e8 + x - 1e8: which of the two comes first decides in float32 what is left."""
    weight = torch.tensor([[1e8, 1.0, -1e8], [0.0, 0.0, 0.0]])
    for order in ([0, 1, 2], [0, 2, 1], [1, 2, 0]):
        net = linear(weight[:, order], torch.tensor([0.0, 0.5]))
        x = torch.tensor([[1.0, 0.9, 1.0]])[:, order]
        for y in (0, 1):
            for eps in (0.0, 1e-9):
                assert standings(net, x, torch.tensor([y]), Linf(eps), "deployed")[0] is not Standing.ROBUST


class Far(nn.Module):
    """A shift that float32 cannot hold, made large."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 2)
        with torch.no_grad():
            self.line.weight.copy_(torch.tensor([[1.0], [0.0]]))
            self.line.bias.copy_(torch.tensor([0.0, 0.5]))

    def forward(self, x: Tensor) -> Tensor:
        return self.line((x - 0.1) * 2.0**29)


def test_numbers_that_float32_rounds_are_not_robust_as_deployed():
    """float32's 0.1 is 1.5e-9 above 0.1: exactly the score is 0.8 and wins, in float32 it is 0."""
    net, x = Far().eval(), torch.tensor([[0.1]])
    assert int(net(x).argmax()) == 1
    for y in (0, 1):
        assert standings(net, x, torch.tensor([y]), Linf(0.0), "deployed")[0] is not Standing.ROBUST


@pytest.mark.parametrize("level", LEVELS)
def test_numbers_that_overflow_or_are_not_finite_are_never_robust(level):
    x, y = torch.tensor([[0.5, 0.5]]), torch.tensor([0])
    for fill in (1e30, 3e38, math.inf, math.nan):
        net = nn.Sequential(
            *[layer for _ in range(9) for layer in (nn.Linear(2, 2), nn.ReLU())], nn.Linear(2, 2)
        )
        with torch.no_grad():
            for layer in net:
                if isinstance(layer, nn.Linear):
                    layer.weight.fill_(fill)
                    layer.weight[:, 1] *= -1
                    layer.bias.copy_(torch.tensor([1.0, 0.0]))
        try:
            found = standings(net.eval(), x, y, Linf(0.1), level, seconds=0.3)
        except HardpointError:
            continue
        assert found[0] is not Standing.ROBUST


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("threat", [Linf(0.03), L2(0.08), L1(0.1)])
def test_no_robust_input_is_broken_by_drawn_points_and_no_bound_is_beaten(level, threat):
    net = mlp(d=6, classes=3, hidden=12, seed=2)
    x = rand(12, 6, seed=5)
    y = labelled(net, x)
    found = hp.certify(net, x, y, threat=threat, soundness=level, seconds_per_input=0.3, progress=False)
    region = threat.around(x, Box(0, 1))
    worst = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for turn in range(100):
        u = rand(*x.shape, seed=turn)
        z = region.project(x + (u if turn % 2 else u.round()) * 0.4 - 0.2)
        with torch.no_grad():
            scores = net(z).double()
        own = scores.gather(1, y.unsqueeze(1))
        worst = torch.minimum(worst, (own - scores).scatter(1, y.unsqueeze(1), torch.inf).amin(1))
    assert bool((worst[found.certified] > 0).all())
    known = found.bounds.isfinite() & ~found.vulnerable
    assert bool((found.bounds[known] <= worst[known] + 1e-5).all())
    assert bool(found.certified.any())
    for place, point in found.witnesses():
        assert bool(threat.around(x[place : place + 1], Box(0, 1)).contains(point.unsqueeze(0)))
        assert int(net(point.unsqueeze(0)).argmax()) != int(y[place])


@pytest.mark.parametrize("eps", [1e-12, 3e-8, 1 / 255, 0.1, 0.7])
def test_what_is_allowed_lies_in_the_region_that_is_bounded(eps):
    x, box = rand(4, 3, 5, 5, seed=1), Box(0, 1)
    for threat in (Linf(eps), L2(eps), L1(eps)):
        span, region = allowed(x, box, threat), threat.around(x, box)
        for seed in range(20):
            z = region.project(x + (4 * rand(*x.shape, seed=seed) - 2) * eps)
            assert bool(region.contains(z).all())
            assert bool(((z.double() >= span.low) & (z.double() <= span.high)).all())
            if isinstance(span, Ball):
                for i in range(len(z)):
                    moves = [
                        abs(Fraction(a) - Fraction(b))
                        for a, b in zip(z[i].flatten().tolist(), x[i].flatten().tolist(), strict=True)
                    ]
                    if span.dual == 2:
                        assert sum(move * move for move in moves) <= Fraction(span.eps) ** 2
                    else:
                        assert sum(moves) <= Fraction(span.eps)
    assert float(allowed(x, box, Linf(eps)).low.min()) >= 0


SCHEMA = Schema(
    [
        Feature("a", Kind.REAL, 0, 1),
        Feature("b", Kind.REAL, 0, 10, cost=3.0),
        Feature("c", Kind.INTEGER, 0, 20, cost=0.5),
        Feature("fixed", Kind.REAL, 0, 1, mutable=Mutability.NO),
        Feature("up", Kind.REAL, 0, 1, mutable=Mutability.INCREASE),
        Feature("red", Kind.ONE_HOT, group="colour"),
        Feature("green", Kind.ONE_HOT, group="colour", cost=2.0),
        Feature("blue", Kind.ONE_HOT, group="colour"),
    ],
    ["c <= 2 * b"],
)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
@pytest.mark.parametrize("eps", [0.0, 0.2, 1.0, 2.0])
def test_rows_that_edits_allow_lie_in_the_box_that_is_bounded(norm, eps):
    if norm == "l0" and eps != int(eps):
        eps = 3.0
    edits, box = FeatureEdits(SCHEMA, eps, norm), Box(0, 20)
    u = rand(6, 8, seed=1)
    x = torch.zeros(6, 8)
    x[:, 0], x[:, 1], x[:, 3:5] = u[:, 0], 10 * u[:, 1], u[:, 3:5]
    x[:, 2] = (2 * x[:, 1] * u[:, 2]).floor().clamp(max=20)
    x[torch.arange(6), 5 + torch.arange(6) % 3] = 1.0
    region, span = edits.around(x, box), allowed(x, box, edits)
    assert bool(region.valid.all())
    seen = torch.zeros(8, dtype=torch.bool)
    for seed in range(60):
        wild = rand(6, 8, seed=seed) * torch.tensor([1.0, 10, 20, 1, 1, 1, 1, 1])
        z = region.project(torch.where(rand(6, 8, seed=seed + 100) < 0.5, wild, x))
        held = region.contains(z)
        assert bool(held.any())
        inside = (z.double() >= span.low) & (z.double() <= span.high)
        assert bool(inside[held].all())
        seen |= (z != x)[held].any(0)
    assert not bool(seen[3])
    assert torch.equal(span.low[:, 3], x[:, 3].double())
    assert bool((span.low[:, 4] >= x[:, 4]).all())
    if eps:
        assert bool(seen[:3].any())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_arithmetics_of_fewer_bits_are_refused_as_deployed(dtype):
    net = linear(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).to(dtype)
    x, y = torch.tensor([[0.75, 0.25]], dtype=dtype), torch.tensor([0])
    with pytest.raises(ModelError, match="does not count"):
        standings(net, x, y, Linf(0.0), "deployed")
    assert standings(net, x, y, Linf(0.0), "rigorous") == [Standing.ROBUST]


def test_an_answer_of_one_score_is_held_to_both_signs():
    net = nn.Sequential(nn.Linear(2, 1)).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 1.0]]))
        net[0].bias.fill_(-1.0)
    x, y = torch.tensor([[0.8, 0.8], [0.2, 0.2], [0.55, 0.55]]), torch.tensor([1, 0, 1])
    for level in LEVELS:
        found = standings(net, x, y, Linf(0.1), level)
        assert found == [Standing.ROBUST, Standing.ROBUST, Standing.VULNERABLE]


def test_a_leaky_network_of_large_values_is_not_robust_by_a_rounded_slope():
    """All units are off, and the margin is -1: a slope of 0.01 that is taken for float32's would make it +1."""
    net = nn.Sequential(nn.Linear(1, 2), nn.LeakyReLU(0.01), nn.Linear(2, 2)).double()
    big = 1e13
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.fill_(-big)
        net[2].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        net[2].bias.copy_(torch.tensor([0.01 * big - 1.0, 0.0]))
    x = torch.tensor([[0.5]], dtype=torch.float64)
    for level in ("real", "rigorous"):
        found = standings(seeded(lambda: net).eval(), x, torch.tensor([0]), Linf(0.1), level)
        assert found[0] is not Standing.ROBUST

"""Branch and bound says what brute force says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor, nn

from bounded_nets import Says, network_of, points_in
from hardpoint.bounds import Interval
from hardpoint.bounds.ball import Ball
from hardpoint.bounds.branch import search
from hardpoint.bounds.branch.search import Answer, Limits, Settled, settled
from hardpoint.bounds.claim import Claim
from hardpoint.bounds.operators.operator import DOUBLE
from small_models import randn, seeded

ENOUGH = Limits(seconds=60.0)


def least_of_pieces(net: nn.Sequential, rows: Tensor, offset: Tensor, box: Interval) -> float:
    """The least over the box of the largest of ``rows @ net(x) + offset``, for one hidden layer: a program per piece."""
    first, slope, last = net[0], getattr(net[1], "negative_slope", 0.0), net[2]
    w, b = first.weight.detach().numpy(), first.bias.detach().numpy()
    v, c = (rows @ last.weight).detach().numpy(), (rows @ last.bias + offset).detach().numpy()
    ends = list(zip(box.low[0].tolist(), box.high[0].tolist(), strict=True))
    best = np.inf
    for signs in itertools.product((1.0, -1.0), repeat=len(w)):
        s = np.array(signs)
        active = np.where(s > 0, 1.0, slope)
        piece, shift = (v * active) @ w, c + (v * active) @ b
        matrix = np.concatenate([np.c_[piece, -np.ones(len(v))], np.c_[-s[:, None] * w, np.zeros(len(w))]])
        found = linprog(
            [0.0] * w.shape[1] + [1.0], matrix, np.concatenate([-shift, s * b]), bounds=[*ends, (None, None)]
        )
        if found.status == 0:
            best = min(best, found.fun)
    return best


def truth(net: nn.Sequential, claim: Claim, box: Interval) -> float:
    """The least over the box of the worst clause."""
    return min(
        least_of_pieces(net, claim.rows[0, claim.clause == k], claim.offset[0, claim.clause == k], box)
        for k in range(claim.clauses)
    )


def agrees(found: Settled, least: float, claim: Claim, net: nn.Module, box: Interval) -> None:
    assert found.bound <= least + 1e-9
    if found.answer is Answer.BROKEN:
        assert least <= 1e-9
        assert found.witness is not None
        assert bool(((found.witness >= box.low) & (found.witness <= box.high)).all())
        assert float(claim.margin(net(found.witness))) <= 1e-12
    elif found.answer is Answer.PROVEN:
        assert least > -1e-9
        assert found.bound > 0
    else:
        assert abs(least) < 1e-4, found.reason


@pytest.mark.parametrize("clause", [(0, 1, 2), (0, 0, 1), (0, 0, 0), (0,)], ids=str)
@settings(max_examples=4)
@given(
    seed=st.integers(0, 10**6),
    slope=st.sampled_from((0.0, 0.01, 0.3)),
    shift=st.sampled_from((-0.05, 0.05, 1.0)),
)
def test_answers_are_those_of_all_linear_pieces(clause, seed, slope, shift):
    d = 2 + seed % 2
    net = seeded(lambda: nn.Sequential(nn.Linear(d, 5), nn.LeakyReLU(slope), nn.Linear(5, 3)), seed).double()
    x = randn(1, d, seed=seed, dtype=torch.float64)
    box = Interval(x - 0.7, x + 0.7, DOUBLE if seed % 3 else None)
    rows = randn(1, len(clause), 3, seed=seed, dtype=torch.float64)
    bare = Claim(rows, torch.zeros(1, len(clause), dtype=torch.float64), torch.tensor(clause))
    # the claim's own least value is moved to a little above or below 0
    claim = Claim(rows, bare.offset - truth(net, bare, box) + shift, bare.clause)
    for few in (16, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(search, "_FEW", few)
            agrees(
                settled(network_of(net, x), claim, box, ENOUGH, lambda point: True), shift, claim, net, box
            )


@pytest.mark.parametrize("seed", range(3))
def test_inputs_of_many_numbers_are_decided_by_their_units(seed):
    net = seeded(lambda: nn.Sequential(nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 3)), seed).double()
    x = randn(1, 24, seed=seed, dtype=torch.float64)
    box, bare = Interval(x - 0.4, x + 0.4, DOUBLE), Claim.of_classes(torch.tensor([seed % 3]), 3)
    least = truth(net, bare, box)
    for shift in (-0.02, 0.02):
        claim = Claim(bare.rows, bare.offset - least + shift, bare.clause)
        agrees(settled(network_of(net, x), claim, box, ENOUGH, lambda point: True), shift, claim, net, box)


OTHERS = {
    "sigmoid": lambda: nn.Sequential(nn.Linear(2, 6), nn.Sigmoid(), nn.Linear(6, 3)),
    "sigmoid and relu": lambda: nn.Sequential(
        nn.Linear(2, 6), nn.Sigmoid(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)
    ),
    "gelu": lambda: nn.Sequential(nn.Linear(2, 6), nn.GELU(), nn.Linear(6, 3)),
    "affine": lambda: nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3)),
    "deep": lambda: nn.Sequential(
        nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 6), nn.LeakyReLU(), nn.Linear(6, 3)
    ),
    "max pool": lambda: nn.Sequential(
        nn.Linear(2, 16),
        nn.Unflatten(1, (1, 4, 4)),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4, 3),
    ),
    "residual": lambda: Says3(),
    "clamp": lambda: nn.Sequential(nn.Linear(2, 6), nn.Hardtanh(), nn.Linear(6, 3)),
}


class Says3(nn.Module):
    """A value that a ReLU and a sum take."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        return torch.relu(self.second(torch.relu(z)) + z) - z


@pytest.mark.parametrize("few", [16, 0])
@pytest.mark.parametrize("name", OTHERS)
def test_no_answer_contradicts_a_dense_grid(name, few, monkeypatch):
    monkeypatch.setattr(search, "_FEW", few)
    for seed in range(2):
        net = seeded(OTHERS[name], seed).double()
        x = randn(1, 2, seed=seed, dtype=torch.float64)
        grid = torch.linspace(-1, 1, 201, dtype=torch.float64)
        points = x + torch.cartesian_prod(grid, grid)
        box, bare = Interval(x - 1, x + 1, DOUBLE), Claim.of_classes(torch.tensor([seed]), 3)
        with torch.no_grad():
            margins = bare.of(torch.zeros(len(points), dtype=torch.int64)).margin(net(points))
        for shift in (-0.01, 0.5):
            claim = Claim(bare.rows, bare.offset - float(margins.min()) + shift, bare.clause)
            found = settled(network_of(net, x), claim, box, Limits(seconds=0.5), lambda point: True)
            assert found.bound <= shift
            if shift < 0:
                assert found.answer is not Answer.PROVEN
            if found.answer is Answer.BROKEN:
                assert found.witness is not None
                assert float(claim.margin(net(found.witness))) <= 0
                assert shift < 0
            if few and shift > 0:
                assert found.answer is Answer.PROVEN


@pytest.mark.parametrize("few", [16, 0])
def test_constant_networks_and_inputs_that_do_not_matter(few, monkeypatch):
    monkeypatch.setattr(search, "_FEW", few)
    net = Says(lambda net, x: net.line(x * 0)).double()
    x = torch.zeros(1, 6, dtype=torch.float64)
    box, scores = Interval(x - 1, x + 1, DOUBLE), net(x).detach()
    for k in range(6):
        found = settled(
            network_of(net, x), Claim.of_classes(torch.tensor([k]), 6), box, Limits(5), lambda point: True
        )
        assert (found.answer is Answer.PROVEN) == (k == int(scores.argmax()))
    one = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        one[0].weight[:, 1] = 0
        one[2].weight.zero_()
        one[2].bias.copy_(torch.tensor([1.0, 0.0]))
    x = torch.zeros(1, 2, dtype=torch.float64)
    box = Interval(x - 1, x + 1, DOUBLE)
    found = settled(
        network_of(one, x), Claim.of_classes(torch.tensor([0]), 2), box, ENOUGH, lambda point: True
    )
    assert found.answer is Answer.PROVEN


@pytest.mark.parametrize("few", [16, 0])
def test_a_tie_is_never_proven(few, monkeypatch):
    """The margin is 0 at one point, or everywhere."""
    monkeypatch.setattr(search, "_FEW", few)
    touching = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    with torch.no_grad():
        touching[0].weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]))
        touching[0].bias.copy_(torch.tensor([-0.3, 0.3, 0.1, -0.1]))
        touching[2].weight.fill_(1.0)
        touching[2].bias.zero_()
    x = torch.zeros(1, 2, dtype=torch.float64)
    claim = Claim(torch.ones(1, 1, 1).double(), torch.zeros(1, 1).double(), torch.tensor([0]))
    for net in (touching, nn.Sequential(nn.Linear(2, 1), nn.ReLU()).double()):
        if net is not touching:
            nn.init.constant_(net[0].bias, -9.0)
        found = settled(
            network_of(net, x), claim, Interval(x - 1, x + 1, DOUBLE), Limits(0.5), lambda point: False
        )
        assert found.answer is Answer.OPEN
        assert found.bound <= 0


@pytest.mark.parametrize("few", [16, 0])
def test_without_time_a_claim_stays_open_with_a_bound_that_holds(few, monkeypatch):
    monkeypatch.setattr(search, "_FEW", few)
    net = seeded(
        lambda: nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))
    ).double()
    x = randn(1, 4, seed=2, dtype=torch.float64)
    box = Interval(x - 1, x + 1, DOUBLE)
    points = points_in(box, 3000, seed=1)
    with torch.no_grad():
        scores = net(points)
    for y in range(3):
        bare = Claim.of_classes(torch.tensor([y]), 3)
        margins = bare.of(torch.zeros(len(points), dtype=torch.int64)).margin(scores)
        claim = Claim(bare.rows, bare.offset - float(margins.min()) + 0.05, bare.clause)
        for limits in (Limits(0.0), Limits(0.3), Limits(2.0, waiting=3)):
            found = settled(network_of(net, x), claim, box, limits, lambda point: False)
            assert found.bound <= 0.05
            assert (found.answer is Answer.OPEN) == bool(found.reason)
            assert found.answer is Answer.OPEN or found.bound > 0


def test_an_open_claim_is_no_better_than_the_clauses_that_were_not_tried(monkeypatch):
    """Two clauses: the hardest is raised far, the other stays where it was."""
    monkeypatch.setattr(search, "_FEW", 0)
    monkeypatch.setattr(
        search,
        "_split_for",
        lambda *given: Settled(Answer.OPEN, -0.01, None, 1, "time is up, 1 parts are open"),
    )
    net = seeded(lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))).double()
    x = torch.zeros(1, 2, dtype=torch.float64)
    claim = Claim(
        torch.eye(2).double().unsqueeze(0), torch.tensor([[-9.0, -5.0]]).double(), torch.tensor([0, 1])
    )
    found = settled(network_of(net, x), claim, Interval(x - 1, x + 1, DOUBLE), ENOUGH, lambda point: False)
    with torch.no_grad():
        assert found.bound <= float(net(x)[0, 1]) - 5


@pytest.mark.parametrize("dual", [2.0, torch.inf])
def test_balls_of_few_numbers_are_decided(dual):
    net = seeded(lambda: nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))).double()
    x, eps = torch.zeros(1, 2, dtype=torch.float64), 0.8
    box = Ball(x - eps, x + eps, DOUBLE, x, eps, dual)
    points = points_in(box, 60_000, seed=3)
    points = points[points.norm(2.0 if dual == 2 else 1.0, dim=1) <= eps]
    bare = Claim.of_classes(torch.tensor([0]), 2)
    with torch.no_grad():
        least = float(bare.of(torch.zeros(len(points), dtype=torch.int64)).margin(net(points)).min())

    def inside(point: Tensor) -> bool:
        return float(point.norm(2.0 if dual == 2 else 1.0)) <= eps

    for shift, wanted in ((0.02, Answer.PROVEN), (-0.02, Answer.BROKEN)):
        claim = Claim(bare.rows, bare.offset - least + shift, bare.clause)
        found = settled(network_of(net, x), claim, box, Limits(20.0), inside)
        assert found.answer is wanted


def test_weights_that_are_not_finite_prove_nothing():
    for bad in (torch.nan, torch.inf):
        for few in (16, 0):
            net = seeded(lambda: nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))).double()
            x = torch.zeros(1, 2, dtype=torch.float64)
            network = network_of(net, x)
            with torch.no_grad():
                for graph in (network.exact, network.quick):
                    graph.steps[0].operator.weight()[0, 0] = bad
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(search, "_FEW", few)
                for y in (0, 1):
                    claim = Claim.of_classes(torch.tensor([y]), 2)
                    found = settled(
                        network, claim, Interval(x - 1, x + 1, DOUBLE), Limits(1.0), lambda point: False
                    )
                    assert found.answer is Answer.OPEN

"""Attacks that see scores, against linear models whose worst case is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hardpoint.attacks import NES, Basis, SimBA, Square
from hardpoint.core.box import Box
from hardpoint.core.errors import ThreatError
from hardpoint.core.rng import Rng
from hardpoint.engine import Task
from hardpoint.engine.attack import Reply
from hardpoint.models.torch import TorchModel
from hardpoint.threats import L0, L1, L2, Linf, Targeted, Threat, Untargeted
from small_models import Affine, Ledger, conv, linear, mlp, rand, randn, worst_margin

BALLS = {"linf": Linf, "l2": L2, "l1": L1}


def family(queries: int) -> list:
    return [
        SimBA(queries=queries),
        SimBA(queries=queries, basis=Basis.DCT),
        NES(queries=queries),
        Square(queries),
    ]


def by_name(attack) -> str:
    return attack.name.replace(" ", "-")


def problem(d: int, n: int, classes: int = 2, seed: int = 0, dtype=torch.float64):
    weight = randn(classes, d, seed=seed, dtype=torch.float64)
    x = (1.3 * rand(n, d, seed=seed + 1, dtype=torch.float64) - 0.15).clamp(0, 1)
    bias = -(weight @ torch.full((d,), 0.5, dtype=torch.float64))
    weight, bias, x = weight.to(dtype), bias.to(dtype), x.to(dtype)
    return weight, bias, x, (x @ weight.T + bias).argmax(1)


def by_scores(ball, **settings) -> Threat:
    return Threat(ball, access="scores", **settings)


# --- success --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.02, 0.05, 0.1, 0.2])
def test_single_pixels_are_exact_for_two_classes_in_linf(eps):
    """At most two queries per coordinate, and every one of them ends at its better end."""
    weight, bias, x, y = problem(d=12, n=60)
    known = worst_margin(weight, bias, x, y, "linf", eps) > 0
    result = SimBA(queries=25)(TorchModel(linear(weight, bias)), x, y, by_scores(Linf(eps)))
    assert torch.equal(result.broken, known)


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("attack", family(500), ids=by_name)
def test_a_few_hundred_queries_break_linear_models_at_a_moderate_budget(attack, norm):
    weight, bias, x, y = problem(d=192, n=12, dtype=torch.float32)
    eps = {"linf": 0.06, "l2": 0.6, "l1": 6.0}[norm]
    possible = worst_margin(weight, bias, x, y, norm, eps / 3) > 0  # three times what they need at most
    assert possible.double().mean() > 0.4
    result = attack(TorchModel(linear(weight, bias)), x.view(-1, 3, 8, 8), y, by_scores(BALLS[norm](eps)))
    assert result.broken[possible].double().mean() >= 0.9
    assert not result.broken[worst_margin(weight, bias, x, y, norm, eps) <= -1e-4].any()
    assert (result.queries <= 500).all()


@pytest.mark.parametrize("ball", [Linf(0.2), L2(1.0)], ids=lambda b: b.name)
def test_a_few_hundred_queries_break_a_small_net(ball):
    net = mlp(48, hidden=32)
    x = rand(30, 48, seed=1)
    y = net(x).argmax(1)
    for attack in family(300):
        assert attack(net, x, y, by_scores(ball)).broken.double().mean() >= 0.9


def test_the_running_gradient_points_along_the_slope():
    weight, bias, x, y = problem(d=30, n=8, seed=3)
    attack, index = NES(queries=4000, pairs=40, momentum=0.99), torch.arange(8)
    region = L2(0.5).around(x, Box(-9, 9))
    fields = (index, y, region, y.view(-1, 1)[:, :0])
    state = attack.start(Task(*fields, 0 * index, Untargeted(), Box(-9, 9), Rng(0)))
    for turn in range(1, 16):
        scores = (state.query @ weight.T + bias).masked_fill(~state.asked.unsqueeze(2), -math.inf)
        task = Task(*fields, 0 * index + turn, Untargeted(), Box(-9, 9), Rng(0))
        state = attack.step(state, Reply(scores.argmax(2), scores), task)
    slope = weight[1 - y] - weight[y]
    assert torch.cosine_similarity(state.gradient, slope).min() > 0.9


def test_pairs_lie_on_either_side_and_the_last_turn_asks_no_more_than_is_left():
    _, _, x, y = problem(d=6, n=3)
    attack, index = NES(queries=50, pairs=10), torch.arange(3)
    region = Linf(0.1).around(x, Box(-9, 9))
    task = Task(index, y, region, y.view(-1, 1)[:, :0], 0 * index, Untargeted(), Box(-9, 9), Rng(0))
    state = attack.start(task)
    assert torch.allclose(state.query[:, 1:11] + state.query[:, 11:], 2 * x.unsqueeze(1).expand(3, 10, 6))
    assert attack.turns == 3
    late = attack._ask_around(x, torch.zeros_like(x), Task(*vars(task).values()))
    assert late.asked.sum(1).tolist() == [21] * 3
    last = Task(index, y, region, task.ranked, 0 * index + 2, Untargeted(), Box(-9, 9), Rng(0))
    assert attack._ask_around(x, torch.zeros_like(x), last).asked.sum(1).tolist() == [8] * 3


# --- invariances ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", family(30), ids=by_name)
@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.3), L1(0.5), L0(2)], ids=lambda b: b.name)
def test_batch_mates_do_not_matter_and_what_is_returned_is_allowed_and_wrong(attack, ball):
    net = mlp(dtype=torch.float64)
    x = rand(8, 8, seed=1, dtype=torch.float64)
    y = net(x).argmax(1)
    runs = [attack(net, x, y, by_scores(ball), batch_size=size) for size in (1, 7, 64)]
    for run in runs[1:]:
        assert torch.equal(run.broken, runs[0].broken)
        assert torch.equal(run.queries[~run.broken], runs[0].queries[~run.broken])
        assert torch.allclose(run.adversarial, runs[0].adversarial, rtol=0, atol=1e-9)
    assert ball.around(x, Box(0, 1)).contains(runs[0].adversarial).all()
    assert torch.equal(net(runs[0].adversarial).argmax(1) != y, runs[0].broken)
    assert (runs[0].queries <= 30).all()


@pytest.mark.parametrize("attack", family(40), ids=by_name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shift_and_scale_of_the_scores_change_no_flag(attack, dtype):
    net = mlp(dtype=dtype)
    x = rand(60, 8, seed=6, dtype=dtype)
    y = net(x).argmax(1)
    known = attack(net, x, y, by_scores(Linf(0.07))).broken
    for scale, shift in [(1.0, -100.0), (1e3, 0.0)]:
        other = attack(nn.Sequential(net, Affine(scale, shift)).eval(), x, y, by_scores(Linf(0.07))).broken
        assert int((other != known).sum()) <= (2 if dtype == torch.float32 else 0)


@pytest.mark.parametrize("attack", family(30), ids=by_name)
@pytest.mark.parametrize(
    ("shape", "classes"), [((12,), 2), ((3, 4), 3), ((2, 3, 2), 1000), ((1, 2, 3, 2), 2)]
)
def test_any_shape_and_any_number_of_classes(attack, shape, classes):
    weight, bias, x, y = problem(d=12, n=4, classes=classes)
    result = attack(TorchModel(linear(weight, bias)), x.view(4, *shape), y, by_scores(Linf(0.3)))
    assert result.adversarial.shape == (4, *shape)
    assert not (result.broken & (worst_margin(weight, bias, x, y, "linf", 0.3) <= 0)).any()


def test_images_and_long_inputs_of_float32():
    net = conv()
    x = rand(20, 2, 6, 5, seed=1)
    sound = rand(3, 5000)
    slow = linear(torch.stack([torch.zeros(5000), torch.ones(5000)]), torch.tensor([0.0, -2600.0]))
    for attack in family(150):
        assert attack(net, x, net(x).argmax(1), by_scores(Linf(0.3))).broken.double().mean() > 0.8
        result = attack(slow, sound, torch.zeros(3).long(), by_scores(Linf(0.05)))
        assert result.adversarial.dtype == torch.float32
        if isinstance(attack, SimBA) and attack.basis is Basis.DCT:
            continue  # the mean is one of thousands of waves
        assert result.broken.all() or isinstance(attack, SimBA | NES)


def test_a_targeted_goal_is_reached_or_nothing():
    net = mlp()
    x = rand(40, 8, seed=2)
    y = net(x).argmax(1)
    for attack in family(150):
        result = attack(net, x, y, by_scores(Linf(0.2), goal=Targeted(1)))
        assert result.broken.any()
        assert (net(result.adversarial[result.broken]).argmax(1) == 1).all()
        assert not result.broken[y == 1].any()


# --- what is spent --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queries", [1, 2, 5, 33])
@pytest.mark.parametrize("ball", [Linf(0.02), L2(0.05)], ids=lambda b: b.name)
def test_queries_are_never_exceeded(queries, ball):
    net = mlp()
    for attack in family(queries):
        x = rand(1, 8, seed=2)
        model = Ledger(net, "scores")
        y = net(x).argmax(1)
        result = attack(model, x, y, by_scores(ball, queries=queries))
        at_x = sum(int((q == x).all(1).sum()) for kind in model.asked.values() for q in kind)
        assert int(result.queries) <= queries
        assert model.rows <= min(at_x, 8) + queries + 2 * int(result.broken.any()) + 2


# --- settings -------------------------------------------------------------------------------------------------


def test_a_basis_by_its_name():
    assert SimBA(basis="dct").basis is Basis.DCT
    assert SimBA(basis="dct") == SimBA(basis=Basis.DCT)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SimBA(queries=0),
        lambda: SimBA(basis="wavelet"),
        lambda: SimBA(step_size=0.0),
        lambda: SimBA(step_size=math.nan),
        lambda: SimBA(frequencies=2.0),
        lambda: NES(queries=0),
        lambda: NES(pairs=0),
        lambda: NES(sigma=0.0),
        lambda: NES(momentum=1.0),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_the_cure(make):
    with pytest.raises(ThreatError) as caught:
        make()
    assert caught.value.cure

"""Attacks that see labels only, against linear models whose nearest adversarial input is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hardpoint.attacks import BoundaryAttack, GeoDA, HopSkipJump, RayS, SurFree
from hardpoint.attacks.decision.boundary_search import FIRST_TRIES
from hardpoint.core.box import Box
from hardpoint.core.errors import ThreatError
from hardpoint.core.rng import Rng
from hardpoint.engine import Task
from hardpoint.engine.attack import Reply
from hardpoint.models.torch import TorchModel
from hardpoint.threats import L1, L2, Linf, Targeted, Threat, Untargeted
from small_models import Ledger, linear, mlp, rand, randn, worst_margin

BALLS = {"linf": Linf, "l2": L2}
ENDLESS = {name: ball(math.inf) for name, ball in BALLS.items()}


def family(queries: int) -> list:
    kinds = (HopSkipJump, SurFree, GeoDA, RayS, BoundaryAttack)
    return [kind(queries=queries) for kind in kinds]


def by_name(attack) -> str:
    return attack.name.replace(" ", "-")


class RowByRow(nn.Module):
    """A linear model that adds up each row by itself: its answers have the same bits in any batch."""

    def __init__(self, weight, bias) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x):
        return (x.flatten(1).unsqueeze(1) * self.weight).sum(2) + self.bias


def problem(shape: tuple[int, ...], n: int, classes: int = 2, seed: int = 0, dtype=torch.float32):
    """A linear model, inputs of which some coordinates lie at the ends of the box, and its own labels."""
    d = math.prod(shape)
    weight = randn(classes, d, seed=seed, dtype=torch.float64).to(dtype)
    x = (1.3 * rand(n, *shape, seed=seed + 1, dtype=torch.float64) - 0.15).clamp(0, 1).to(dtype)
    bias = -(weight @ torch.full((d,), 0.5, dtype=dtype))
    return RowByRow(weight, bias).eval(), x, RowByRow(weight, bias)(x).argmax(1)


def exact_distance(net, x, y, norm) -> torch.Tensor:
    """The smallest budget at which each input can be broken, by bisection on the exact worst margin."""
    found = []
    for i in range(len(x)):
        low, high = 0.0, float(x[i].numel())
        for _ in range(25):
            middle = (low + high) / 2
            worst = worst_margin(net.weight, net.bias, x[i : i + 1], y[i : i + 1], norm, middle)
            low, high = (low, middle) if float(worst) > 0 else (middle, high)
        found.append(high)
    return torch.tensor(found, dtype=torch.float64)


def by_labels(ball, **settings) -> Threat:
    return Threat(ball, access="labels", **settings)


# --- distances ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attack", "norm", "bound"),
    [
        (HopSkipJump(queries=5000), "l2", 1.1),
        (HopSkipJump(queries=5000), "linf", 1.2),
        (SurFree(queries=1500), "l2", 1.2),  # a bar for 5,000; the nearest is kept, so more could only help
        (GeoDA(queries=3000), "l2", 1.25),
        (GeoDA(queries=3000), "linf", 1.25),
        (RayS(queries=1500), "linf", 1.15),
        (BoundaryAttack(queries=1500), "l2", 1.7),
    ],
    ids=lambda v: by_name(v) if hasattr(v, "name") else str(v),
)
def test_they_come_close_to_the_exact_distance_in_192_dimensions(attack, norm, bound):
    net, x, y = problem((3, 8, 8), n=4)
    result = attack(TorchModel(net, access="labels"), x, y, by_labels(ENDLESS[norm]))
    ratio = result.distance / exact_distance(net, x, y, norm)
    assert result.broken.all()
    assert (ratio >= 1 - 1e-5).all()
    assert ratio.max() < bound
    assert (result.queries == attack.queries).all()


def test_single_signs_are_exact_for_rays():
    """After one round over single coordinates every sign is right, and the radius is that to the tolerance."""
    for shape in ((1,), (2,), (5,), (3, 4)):
        net, x, y = problem(shape, n=4, dtype=torch.float64)
        d = math.prod(shape)
        attack = RayS(queries=60 + 20 * d, tolerance=1e-3)
        result = attack(TorchModel(net, access="labels"), x, y, by_labels(ENDLESS["linf"]))
        ratio = result.distance / exact_distance(net, x, y, "linf")
        reachable = torch.isfinite(result.distance)
        assert (ratio[reachable] < 1.002).all()
        known = worst_margin(net.weight, net.bias, x, y, "linf", 1.0) > 0
        assert torch.equal(result.broken, known)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 20])
def test_rays_flip_every_block_of_every_level_then_single_coordinates_for_ever(size):
    levels = math.ceil(math.log2(size)) if size > 1 else 0
    blocks = [[(b * size // 2**k, (b + 1) * size // 2**k) for b in range(2**k)] for k in range(levels)]
    singles = [(i, i + 1) for i in range(size)]
    wanted = [span for level in blocks for span in level] + 2 * singles
    signs = randn(1, size).sign().expand(len(wanted), size)
    flipped = RayS._flipped(signs, torch.arange(1, len(wanted) + 1))
    for row, (start, stop) in zip(flipped * signs, wanted, strict=True):
        assert (row == -1).nonzero().flatten().tolist() == list(range(start, stop))


def test_the_circle_passes_through_x_and_the_boundary_and_shortens_by_the_cosine():
    _, x, y = problem((20,), n=6, dtype=torch.float64)
    attack, index = SurFree(), torch.arange(6)
    region = L2(math.inf).around(x, Box(-math.inf, math.inf))
    task = Task(index, y, region, y.view(-1, 1)[:, :0], 0 * index, Untargeted(), Box(-9, 9), Rng(0))
    state = attack.start(task)
    moved = {**vars(state), "near": x + randn(6, 20, dtype=torch.float64)}
    state = attack._next_direction(type(state)(**moved), task, torch.ones(6, dtype=torch.bool))
    way = state.far - x
    assert torch.allclose((state.direction * way).sum(1), torch.zeros(6, dtype=torch.float64), atol=1e-12)
    for angle in (0.0, 0.3, -0.7, math.pi / 2):
        point = attack._on_circle(state, task, torch.full((6,), angle, dtype=torch.float64))
        assert torch.allclose((point - x).norm(dim=1), way.norm(dim=1) * abs(math.cos(angle)), atol=1e-12)
        assert torch.allclose((point - x - way / 2).norm(dim=1), way.norm(dim=1) / 2)


@pytest.mark.parametrize("attack", family(300), ids=by_name)
def test_more_queries_never_give_up_what_fewer_found(attack):
    net, x, y = problem((24,), n=6)
    model = TorchModel(net, access="labels")
    few, more = (attack(model, x, y, by_labels(ENDLESS["linf"], queries=q)) for q in (100, 300))
    assert (more.distance <= few.distance).all()
    assert (more.distance < few.distance).any()


@pytest.mark.parametrize("attack", family(150), ids=by_name)
def test_with_a_finite_budget_an_input_leaves_at_its_first_hit(attack):
    net, x, y = problem((24,), n=12)
    exact = exact_distance(net, x, y, "l2")
    ball = L2(3 * float(exact.median()))
    model = Ledger(net, "labels")
    result = attack(model, x, y, by_labels(ball))
    assert result.broken.any()
    assert (result.distance[result.broken] <= ball.eps).all()
    assert not result.broken[exact > ball.eps].any()
    assert (result.queries[~result.broken] == 150).all()
    assert (result.queries[result.broken] < 150).any()
    endless = attack(Ledger(net, "labels"), x, y, by_labels(ENDLESS["l2"]))
    assert (endless.distance[result.broken] <= result.distance[result.broken]).all()


# --- invariances ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attack", "norm"),
    [(a, n) for a in family(90) for n in BALLS if n == "linf" or not isinstance(a, RayS)],
    ids=lambda v: v if isinstance(v, str) else by_name(v),
)
def test_every_batch_size_gives_the_same_bits(attack, norm):
    net, x, y = problem((3, 8, 8), n=8)
    model = TorchModel(net, access="labels")
    runs = [attack(model, x, y, by_labels(ENDLESS[norm]), batch_size=size) for size in (1, 7, 64)]
    for run in runs[1:]:
        assert torch.equal(run.adversarial, runs[0].adversarial)
        assert torch.equal(run.queries, runs[0].queries)
    alone = attack(model, x[:4], y[:4], by_labels(ENDLESS[norm]))
    assert torch.equal(alone.adversarial, runs[0].adversarial[:4])


@pytest.mark.parametrize("attack", family(50), ids=by_name)
@pytest.mark.parametrize("ball", [Linf(0.12), L1(0.9)], ids=lambda b: b.name)
def test_batches_that_inputs_enter_and_leave_change_nothing(attack, ball):
    net = mlp(dtype=torch.float64)
    x = rand(24, 8, seed=1, dtype=torch.float64)
    y = net(x).argmax(1)
    runs = [attack(net, x, y, by_labels(ball), batch_size=size) for size in (5, 64)]
    assert torch.equal(runs[0].broken, runs[1].broken)
    assert torch.allclose(runs[0].adversarial, runs[1].adversarial, rtol=0, atol=1e-9)
    region = ball.around(x, Box(0, 1))
    assert region.contains(runs[0].adversarial).all()
    assert torch.equal(net(runs[0].adversarial).argmax(1) != y, runs[0].broken)


@pytest.mark.parametrize("attack", family(30), ids=by_name)
@pytest.mark.parametrize(("shape", "classes"), [((1,), 2), ((3, 4), 50), ((2, 3, 2), 3), ((1, 2, 3, 2), 2)])
def test_any_shape_and_any_number_of_classes(attack, shape, classes):
    net, x, y = problem(shape, n=4, classes=classes, dtype=torch.float64)
    result = attack(TorchModel(net, access="labels"), x, y, by_labels(Linf(0.3)))
    assert result.adversarial.shape == x.shape
    assert not (result.broken & (worst_margin(net.weight, net.bias, x, y, "linf", 0.3) <= 0)).any()


@pytest.mark.parametrize("attack", family(120), ids=by_name)
def test_long_inputs_take_slow_waves_and_stay_in_the_box(attack):
    class Mean(nn.Module):
        def forward(self, x):
            t = x.flatten(1).mean(1) - 0.5
            return torch.stack([-t, t], 1)

    x = 0.3 + 0.1 * rand(3, 3000)
    result = attack(Mean().eval(), x, torch.zeros(3).long(), by_labels(Linf(math.inf)))
    assert result.broken.all()
    assert ((result.adversarial >= 0) & (result.adversarial <= 1)).all()


@pytest.mark.parametrize("attack", family(200), ids=by_name)
def test_input_ranges_without_ends(attack):
    net = linear(torch.tensor([[0.0, 0.0, 0.0], [1.0, -1.0, 0.5]]), torch.tensor([0.0, -40.0]))
    model = TorchModel(net, input_range=(-math.inf, math.inf), access="labels")
    x = randn(5, 3)
    result = attack(model, x, net(x).argmax(1), by_labels(L2(math.inf)))
    assert result.broken.all()
    exact = (40 - x @ torch.tensor([1.0, -1.0, 0.5])) / 1.5
    assert (result.distance <= exact * 1.5).all()


def test_a_targeted_goal_is_reached_or_nothing():
    net = mlp()
    x = rand(20, 8, seed=2)
    y = net(x).argmax(1)
    for attack in family(80):
        result = attack(net, x, y, by_labels(Linf(0.4), goal=Targeted(1)))
        assert (net(result.adversarial[result.broken]).argmax(1) == 1).all()
        assert not result.broken[y == 1].any()


# --- what is spent --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queries", [1, 2, 5, 33])
def test_queries_are_never_exceeded_and_scores_never_asked_for(queries):
    net = mlp()
    for attack in (*family(queries), *family(1000)[:3]):
        x = rand(1, 8, seed=3)
        model = Ledger(net, "labels")
        y = net(x).argmax(1)
        result = attack(model, x, y, by_labels(L2(0.01), queries=queries))
        clean = sum(int((q == x).all(1).sum()) for q in model.asked["labels"])
        assert int(result.queries) <= queries
        assert model.rows <= min(clean, 6) + queries + 2 * int(result.broken.any()) + 2
        assert not model.asked["scores"]


def test_where_no_random_input_is_adversarial_the_search_gives_up():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([1.0, 0.0]).expand(len(x), 2)

    x, y = rand(3, 6), torch.zeros(3, dtype=torch.int64)
    for attack in family(400):
        result = attack(Constant().eval(), x, y, by_labels(L2(math.inf)))
        assert not result.broken.any()
        known = attack.queries if isinstance(attack, RayS) else FIRST_TRIES
        assert (result.queries == known).all()


class OnlyFlat(nn.Module):
    """Wrong only where all numbers of an input are nearly the same."""

    def forward(self, x):
        spread = x.flatten(1).std(1)
        return torch.stack([spread, torch.full_like(spread, 0.05)], 1)


class OnlyEnds(nn.Module):
    """Wrong only where nearly all numbers lie at an end of the range."""

    def forward(self, x):
        inner = (x.flatten(1) - x.flatten(1).round()).abs().mean(1)
        return torch.stack([inner, torch.full_like(inner, 0.01)], 1)


@pytest.mark.parametrize("net", [OnlyFlat(), OnlyEnds()], ids=lambda n: type(n).__name__)
@pytest.mark.parametrize("shape", [(40,), (1, 6, 7)])
def test_a_first_example_is_found_where_plain_noise_is_always_right(net, shape):
    x = rand(4, *shape)
    result = SurFree(queries=300)(net.eval(), x, torch.zeros(4).long(), by_labels(L2(math.inf)))
    assert result.broken.all()


@pytest.mark.parametrize("attack", family(200), ids=by_name)
def test_rows_never_ask_for_nothing(attack):
    """Every live row asks about at least one point a turn, so a budget of turns is a budget of queries."""
    net, x, y = problem((10,), n=6)
    index = torch.arange(6)
    region = L2(math.inf).around(x, Box(0, 1))
    task = Task(index, y, region, y.view(-1, 1)[:, :0], 0 * index, Untargeted(), Box(0, 1), Rng(0))
    state, spent = attack.start(task), torch.zeros_like(index)
    for turn in range(attack.turns):
        k = state.query.shape[1]
        asked = getattr(state, "asked", torch.ones(6, k, dtype=torch.bool))
        done = getattr(state, "done", torch.zeros(6, dtype=torch.bool))
        assert (asked.any(1) | done).all()
        spent += asked.sum(1)
        if bool(done.all()):
            break
        labels = net(state.query.flatten(0, 1)).argmax(1).view(6, k)
        later = Task(index, y, region, task.ranked, 0 * index + turn + 1, Untargeted(), Box(0, 1), Rng(0))
        state = attack.step(state, Reply(labels.masked_fill(~asked, -1)), later)
    assert (spent == 200).all()


# --- settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: HopSkipJump(queries=0),
        lambda: HopSkipJump(initial_estimate=0),
        lambda: SurFree(queries=0),
        lambda: SurFree(tries=0),
        lambda: SurFree(widest_angle=0.0),
        lambda: SurFree(widest_angle=90.0),
        lambda: SurFree(widest_angle=math.nan),
        lambda: SurFree(frequencies=0.0),
        lambda: GeoDA(queries=-1),
        lambda: GeoDA(initial_estimate=0),
        lambda: GeoDA(frequencies=1.5),
        lambda: RayS(queries=0),
        lambda: RayS(tolerance=0.0),
        lambda: RayS(tolerance=1.0),
        lambda: BoundaryAttack(queries=0),
        lambda: BoundaryAttack(candidates=0),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_the_cure(make):
    with pytest.raises(ThreatError) as caught:
        make()
    assert caught.value.cure

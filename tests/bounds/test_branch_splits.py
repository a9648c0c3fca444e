"""Parts of a box: halves cover their parents, prices and signs only take points away, linear programs are computed anew."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bounded_nets import network_of, points_in
from hardpoint.bounds import Interval
from hardpoint.bounds.alpha import Ascent, raised
from hardpoint.bounds.ball import Ball
from hardpoint.bounds.branch import boxes, leaf, splits
from hardpoint.bounds.branch.domains import Domains, Waiting, joined
from hardpoint.bounds.claim import Claim
from hardpoint.bounds.crown import bent_values, crown_spans
from hardpoint.bounds.graph import Graph, Network
from hardpoint.bounds.linear import Choice, backward
from hardpoint.bounds.operators.operator import DOUBLE
from small_models import randn, seeded


def small(seed: int, slope: float = 0.0, inputs: int = 3) -> nn.Sequential:
    return seeded(
        lambda: nn.Sequential(
            nn.Linear(inputs, 6), nn.LeakyReLU(slope), nn.Linear(6, 5), nn.LeakyReLU(slope), nn.Linear(5, 3)
        ),
        seed,
    ).double()


def root_of(network: Network, box: Interval, claim: Claim) -> Domains:
    spans = crown_spans(network.exact, box)
    bound = claim.proven(backward(network.exact, spans, claim.rows).least(box) + claim.offset).amin(1)
    rough = [span.roughly(torch.float32) for span in spans]
    choice = raised(network.quick, rough, claim.rows.float(), Ascent(steps=2)).choice
    return splits.root(network.exact, box, spans, choice, bound)


def lies_in(graph: Graph, part: Domains, points: Tensor) -> Tensor:
    """Bool ``[m]``: which points fulfil everything that is known in one part, but for rounding."""
    values, inside = graph.values(points), torch.ones(len(points), dtype=torch.bool)
    inside &= ((points >= part.box.low) & (points <= part.box.high)).flatten(1).all(1)
    for k, sign in part.signs.items():
        inside &= ((values[k] * sign) >= 0).flatten(1).all(1)
    return inside


def known_holds(graph: Graph, part: Domains, points: Tensor, slack: float) -> bool:
    values = graph.values(points)
    return all(
        bool(((values[k] >= span.low - slack) & (values[k] <= span.high + slack)).all())
        for k, span in part.known.items()
    )


@torch.no_grad()
def all_points(box: Interval, seed: int, many: int = 3000) -> Tensor:
    return points_in(box, many, seed=seed)


@pytest.mark.parametrize("outward", [None, DOUBLE])
@pytest.mark.parametrize(("seed", "slope"), [(0, 0.0), (1, 0.0), (2, 0.01), (3, 0.2)])
def test_halves_cover_their_parent_and_no_bound_is_beaten_down_the_tree(outward, seed, slope):
    net, x = small(seed, slope), randn(1, 3, seed=seed, dtype=torch.float64)
    network, claim = network_of(net, x), Claim.of_classes(torch.tensor([seed % 3]), 3)
    box, places = Interval(x - 1, x + 1, outward), splits.kinks(network.exact)
    points = all_points(box, seed)
    with torch.no_grad():
        margins = claim.of(torch.zeros(len(points), dtype=torch.int64)).margin(network.exact(points))
    parts = root_of(network, box, claim)
    slack = 0.0 if outward else 1e-9
    emptied = 0
    for depth in range(5):
        unit, is_leaf = splits.chosen(network, claim, parts, places, tried=3)
        if depth % 2:  # and units that no score would choose
            wanted = splits.crossing(parts, places)
            unit = torch.where(wanted.any(1), wanted.to(torch.uint8).argmax(1), unit)
        parts, unit = parts.of(~is_leaf), unit[~is_leaf]
        halves, empty = splits.halves(network.exact, parts, unit, places)
        count = len(parts)
        for i in range(count):
            parent = lies_in(network.exact, parts.of(torch.tensor([i])), points)
            above, below = (
                lies_in(network.exact, halves.of(torch.tensor([j])), points) for j in (i, count + i)
            )
            assert torch.equal(parent, above | below)
            for j, held in ((i, above), (count + i, below)):
                assert not (bool(empty[j]) and bool(held.any()))
                assert known_holds(network.exact, halves.of(torch.tensor([j])), points[held], slack)
        emptied += int(empty.sum())
        halves = halves.of(~empty)
        found = splits.bounded(network, claim, halves, Ascent(steps=4))
        assert bool((found.bound >= halves.bound).all())
        for i in range(len(found)):
            held = lies_in(network.exact, found.of(torch.tensor([i])), points)
            if bool(held.any()):
                assert float(found.bound[i]) <= float(margins[held].min()) + slack
        parts = found.of(torch.arange(min(8, len(found))))
    assert len(parts)


@given(st.integers(0, 10**6), st.floats(0, 100), st.booleans())
@settings(max_examples=40)
def test_any_prices_and_slopes_give_a_bound_where_the_signs_hold(seed, most, of_rows):
    net, x = small(seed % 7, 0.1 * (seed % 2)), randn(1, 3, seed=seed, dtype=torch.float64)
    graph, box = network_of(net, x).exact, Interval(x - 1, x + 1, DOUBLE)
    places = splits.kinks(graph)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        points = all_points(box, seed)
        values = graph.values(points)
        at = int(torch.randint(len(points), (1,), generator=generator))
        # signs of some point, on some units, so that the part is not empty
        signs = {
            k: values[k][at].sign().unsqueeze(0) * (torch.rand(values[k].shape[1], generator=generator) < 0.4)
            for k in places
        }
        spans = crown_spans(graph, box)
        for k in places:
            low, high = spans[k].low.clone(), spans[k].high.clone()
            spans[k] = Interval(
                torch.where(signs[k] > 0, low.clamp(min=0), low),
                torch.where(signs[k] < 0, high.clamp(max=0), high),
                DOUBLE,
            )
        rows = torch.randn(1, 4, 3, generator=generator, dtype=torch.float64)
        count = 4 if of_rows else 1
        prices = {
            k: signs[k].unsqueeze(1)
            * most
            * torch.rand(1, count, *signs[k].shape[1:], generator=generator).double()
            for k in places
        }
        linear = backward(graph, spans, rows, None, Choice(prices=prices))
        inside = torch.ones(len(points), dtype=torch.bool)
        for k in places:
            inside &= (values[k] * signs[k] >= 0).all(1)
        truth = rows[0] @ values[graph.output][inside].T
        assert bool((linear.least(box)[0] <= truth.amin(1)).all())
        assert int(inside.sum()) > 0


def test_prices_of_the_right_sign_make_a_bound_exact():
    """relu(z) + relu(-z) - |x| over z = x with x >= 0: a price moves the bound to the truth."""
    net = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight.fill_(1.0)
            layer.bias.zero_()
    x = torch.zeros(1, 1, dtype=torch.float64)
    graph, box = network_of(net, x).exact, Interval(x - 1, x + 1, DOUBLE)
    spans = [box, Interval(x, x + 1, DOUBLE), *crown_spans(graph, box)[2:]]
    rows = torch.ones(1, 1, 1, dtype=torch.float64)
    for price, bound in ((0.0, -1.0), (1.0, 0.0), (2.0, -1.0)):
        with torch.no_grad():
            found = backward(graph, spans, rows, None, Choice(prices={1: rows * price})).least(box)
        assert float(found) == pytest.approx(bound, abs=1e-12)


def test_parts_that_no_point_lies_in_are_known_by_their_crossed_ends():
    ends = torch.tensor([[0.0, 1.0], [0.0, -1.0], [0.0, -1e-12], [torch.nan, 1.0]], dtype=torch.float64)
    low, high = ends[:, :1], ends[:, 1:]
    for outward, wanted in ((DOUBLE, [False, True, True, False]), (None, [False, True, False, False])):
        settled, empty = splits._settled({1: Interval(low, high, outward)})
        assert empty.tolist() == wanted
        assert not bool((settled[1].low > settled[1].high).any())


@pytest.mark.parametrize("seed", range(6))
def test_boxes_that_are_cut_cover_their_parent(seed):
    net, x = small(seed), randn(1, 3, seed=seed, dtype=torch.float64)
    network, claim = network_of(net, x), Claim.of_classes(torch.tensor([0]), 3)
    for box in (Interval(x - 1, x + 1, DOUBLE), Ball(x - 1, x + 1, DOUBLE, x, 1.2, 2.0)):
        points = all_points(box, seed)
        if isinstance(box, Ball):
            points = points[(points - x).norm(dim=1) <= 1.2]
        with torch.no_grad():
            margins = claim.of(torch.zeros(len(points), dtype=torch.int64)).margin(network.exact(points))
        parts, _ = boxes.bounded(network.exact, claim, box)
        for _ in range(4):
            cut, known = boxes.halves(parts)
            inside = [((points >= cut.low[i]) & (points <= cut.high[i])).all(1) for i in range(len(cut.low))]
            assert bool(torch.stack(inside).any(0).all())
            parts, corner = boxes.bounded(network.exact, claim, cut, known)
            assert bool(((corner >= cut.low) & (corner <= cut.high)).all())
            for i, held in enumerate(inside):
                if bool(held.any()):
                    assert float(parts.bound[i]) <= float(margins[held].min())


def test_a_box_that_the_ball_does_not_reach_is_closed():
    net, x = small(1), torch.zeros(1, 3, dtype=torch.float64)
    network, claim = network_of(net, x), Claim.of_classes(torch.tensor([0]), 3)
    for dual, eps in ((2.0, 1.0), (torch.inf, 1.5)):
        box = Ball(x + 0.6, x + 1, DOUBLE, x, eps, dual)
        parts, _ = boxes.bounded(network.exact, claim, box)
        assert float(parts.bound) == torch.inf
        near = Ball(x + 0.5, x + 1, DOUBLE, x, 1.0 if dual == 2 else 1.5, dual)
        assert float(boxes.bounded(network.exact, claim, near)[0].bound) < torch.inf


def one_piece(network: Network, box: Interval, claim: Claim, point: Tensor) -> Domains:
    """The part in which every unit has the sign that it has at ``point``."""
    parts = root_of(network, box, claim)
    places = splits.kinks(network.exact)
    values = network.exact.values(point)
    while bool(splits.crossing(parts, places).any()):
        unit = splits.crossing(parts, places).to(torch.uint8).argmax(1)
        halves, empty = splits.halves(network.exact, parts, unit, places)
        sign = torch.cat([values[k].flatten(1) for k in places], 1)[0, unit]
        parts = halves.of(torch.tensor([0 if float(sign) >= 0 else 1]))
        assert not bool(empty[0 if float(sign) >= 0 else 1])
    return parts


@pytest.mark.parametrize("seed", range(8))
def test_a_linear_part_has_the_bound_of_its_linear_program(seed):
    """The least margin over the part, found by many points, is met from below, tightly."""
    net, x = small(seed, inputs=2), randn(1, 2, seed=seed, dtype=torch.float64)
    network, box = network_of(net, x), Interval(x - 1, x + 1, DOUBLE)
    rows = randn(1, 3, 3, seed=seed, dtype=torch.float64)
    for clause in ([0, 1, 2], [0, 0, 1], [0, 0, 0]):
        claim = Claim(rows, randn(1, 3, seed=seed + 1, dtype=torch.float64), torch.tensor(clause))
        part = one_piece(network, box, claim, x)
        found = leaf.solved(network.exact, claim, part)
        assert found is not None
        grid = torch.linspace(-1, 1, 301, dtype=torch.float64)
        points = x + torch.cartesian_prod(grid, grid)
        points = points[lies_in(network.exact, part, points)]
        with torch.no_grad():
            margins = claim.of(torch.zeros(len(points), dtype=torch.int64)).margin(network.exact(points))
            at = claim.margin(network.exact(found.point))
        assert found.bound <= float(margins.min())
        assert found.bound == pytest.approx(float(at), abs=1e-6)
        assert found.bound >= float(margins.min()) - 0.05


def test_a_part_without_points_is_proven_by_its_linear_program():
    """x >= 0.5 and x <= -0.5 cannot be: the program's prices prove anything of it."""
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        net[0].bias.fill_(-0.5)
        net[2].weight.zero_()
        net[2].bias.fill_(-1.0)  # broken everywhere
    x = torch.zeros(1, 1, dtype=torch.float64)
    network, box = network_of(net, x), Interval(x - 1, x + 1, DOUBLE)
    claim = Claim(torch.ones(1, 1, 1).double(), torch.zeros(1, 1).double(), torch.tensor([0]))
    parts = root_of(network, box, claim)
    one = torch.ones(1, 2, dtype=torch.float64)
    part = Domains(
        parts.bound, box, {1: Interval(0 * one, 0.5 * one, DOUBLE)}, {1: one}, parts.choice, parts.axis
    )
    found = leaf.solved(network.exact, claim, part)
    assert found is not None
    assert found.bound > 0


def test_a_program_that_is_not_finite_is_given_up():
    net, x = small(0), torch.zeros(1, 3, dtype=torch.float64)
    network, box = network_of(net, x), Interval(x - 1, x + 1, DOUBLE)
    claim = Claim.of_classes(torch.tensor([0]), 3)
    part = one_piece(network, box, claim, x)
    with torch.no_grad():
        network.exact.steps[0].operator.weight()[0, 0] = torch.nan
    assert leaf.solved(network.exact, claim, part) is None


def test_parts_are_kept_and_given_back_each_once():
    net, x = small(4), torch.zeros(1, 3, dtype=torch.float64)
    network, claim = network_of(net, x), Claim.of_classes(torch.tensor([0]), 3)
    root = root_of(network, Interval(x - 1, x + 1, DOUBLE), claim)
    many = joined([root] * 7)
    many = Domains(torch.arange(7.0), many.box, many.known, many.signs, many.choice, torch.arange(7))
    waiting = Waiting()
    waiting.put(many.of(torch.arange(4)))
    waiting.put(many.of(torch.arange(4, 7)))
    assert (len(waiting), waiting.worst) == (7, 0.0)
    taken = [waiting.take(2) for _ in range(3)]
    taken.append(waiting.take(5))
    assert sorted(int(each) for part in taken for each in part.axis) == list(range(7))
    assert len(waiting) == 0


def test_kinks_are_the_values_that_only_kinked_units_take():
    net = nn.Sequential(
        nn.Linear(2, 3),
        nn.ReLU(),
        nn.Linear(3, 3),
        nn.Tanh(),
        nn.Linear(3, 3),
        nn.LeakyReLU(),
        nn.Linear(3, 2),
    )
    graph = network_of(net, torch.zeros(1, 2)).exact
    assert bent_values(graph) == (1, 3, 5)
    assert splits.kinks(graph) == (1, 5)

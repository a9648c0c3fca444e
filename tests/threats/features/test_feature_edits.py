"""Regions of valid edits against brute force on tables small enough to enumerate."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.core.box import UNBOUNDED, Box
from hardpoint.core.errors import DataError, ThreatError
from hardpoint.core.rng import Rng
from hardpoint.core.rows import cat_rows, put_rows, take_rows
from hardpoint.threats.features import Feature, FeatureEdits, Kind, Mutability, Norm, Schema
from hardpoint.threats.perturbation import Perturbation, Region
from hardpoint.threats.threat import Threat

NORMS = ["linf", "l2", "l1", "l0"]
SCHEMA = Schema(
    [
        Feature("a", Kind.INTEGER, 0, 4),
        Feature("b", Kind.INTEGER, 0, 4, Mutability.INCREASE, cost=2.0),
        Feature("c", Kind.INTEGER, 0, 2, Mutability.DECREASE),
        Feature("flag", Kind.BINARY, cost=0.5),
        Feature("red", Kind.ONE_HOT, group="colour", cost=0.75),
        Feature("green", Kind.ONE_HOT, group="colour", cost=0.25),
        Feature("grade", Kind.ORDINAL, levels=(0, 1, 4)),
    ],
    ["a <= b", "flag == 1 implies c > 0", "a + c + flag <= 5", "red == 1 implies grade < 4"],
)
EVERY_ROW = torch.tensor(
    [
        [*row, *colour, grade]
        for row in itertools.product(range(5), range(5), range(3), range(2))
        for colour in ((1, 0), (0, 1))
        for grade in (0, 1, 4)
    ],
    dtype=torch.float32,
)


def _row_is_valid(row: list[float]) -> bool:
    a, b, c, flag, red, _, grade = row
    return a <= b and not (flag and c <= 0) and a + c + flag <= 5 and not (red and grade == 4)


def _allowed(x: list[float], z: list[float], norm: str, eps: float, most: int | None) -> bool:
    """Whether ``z`` can be made of ``x``, in plain Python."""
    if not _row_is_valid(x) or not _row_is_valid(z) or z[1] < x[1] or z[2] > x[2]:
        return False
    changes = [
        abs(z[0] - x[0]) / 4,
        abs(z[1] - x[1]) / 4 * 2,
        abs(z[2] - x[2]) / 2,
        abs(z[3] - x[3]) * 0.5,
        0.5 if z[4] != x[4] else 0.0,
        abs(z[6] - x[6]) / 4,
    ]
    length = {
        "linf": max(changes),
        "l2": math.sqrt(math.fsum(change**2 for change in changes)),
        "l1": math.fsum(changes),
        "l0": sum(change > 0 for change in changes),
    }[norm]
    return length <= eps and (most is None or sum(change > 0 for change in changes) <= most)


def test_check_agrees_with_plain_python_on_every_row():
    expected = [_row_is_valid(row) for row in EVERY_ROW.tolist()]
    assert SCHEMA.check(EVERY_ROW).tolist() == expected
    assert (SCHEMA.hinges(EVERY_ROW).sum(1) == 0).tolist() == expected


@pytest.mark.parametrize(
    ("norm", "eps", "most"),
    [
        ("linf", 0.5, None),
        ("linf", 1.0, 2),
        ("l2", 0.75, None),
        ("l2", 1.25, 3),
        ("l1", 1.0, None),
        ("l0", 2, None),
        ("l0", 0, None),
        ("l2", math.inf, None),
        ("l2", 0.0, None),
    ],
)
def test_contains_and_project_against_enumeration(norm, eps, most):
    for start in ([1, 2, 2, 1, 1, 0, 1], [0, 0, 0, 0, 0, 1, 4], [2, 1, 0, 0, 1, 0, 0], [0, 4, 1, 0, 1, 0, 0]):
        x = torch.tensor([start], dtype=torch.float32).expand(len(EVERY_ROW), -1)
        region = FeatureEdits(SCHEMA, eps, norm, most).around(x, UNBOUNDED)
        expected = torch.tensor(
            [_allowed([float(v) for v in start], z, norm, eps, most) for z in EVERY_ROW.tolist()]
        )
        assert torch.equal(region.contains(EVERY_ROW), expected)
        noise = torch.randn(EVERY_ROW.shape, generator=torch.Generator().manual_seed(1))
        for wanted in (EVERY_ROW, EVERY_ROW + noise, 100 * noise):
            projected = region.project(wanted)
            if _row_is_valid(start):
                assert region.contains(projected).all()
                assert torch.equal(region.project(projected), projected)
            else:
                assert torch.equal(projected, x)
        assert torch.equal(region.project(EVERY_ROW)[expected], EVERY_ROW[expected])


@pytest.mark.parametrize("norm", NORMS)
def test_samples_are_allowed_and_reach_most_allowed_rows(norm):
    start, eps = [1, 2, 2, 1, 1, 0, 1], {"linf": 0.6, "l2": 0.8, "l1": 1.1, "l0": 2}[norm]
    count = 6_000
    x = torch.tensor([start], dtype=torch.float32).expand(count, -1)
    region = FeatureEdits(SCHEMA, eps, norm).around(x, UNBOUNDED)
    drawn = region.sample(Rng(0), torch.arange(count))
    assert region.contains(drawn).all()
    expected = {tuple(z) for z in EVERY_ROW.tolist() if _allowed(start, z, norm, eps, None)}
    found = set(map(tuple, drawn.tolist()))
    assert found <= expected
    assert len(found) >= 0.8 * len(expected)


# -- real-valued columns: bounds, mutability, precision

REALS = Schema(
    [
        Feature("free", Kind.REAL, -3, 7),
        Feature("up", Kind.REAL, 0, 1e-3, Mutability.INCREASE, cost=3.0),
        Feature("down", Kind.REAL, 0, 1e7, Mutability.DECREASE),
        Feature("fixed", Kind.REAL, 0, 1, Mutability.NO),
        Feature("count", Kind.INTEGER, 0, 1000),
    ]
)
shares = st.lists(st.floats(0, 1, width=32), min_size=5, max_size=5)


def _real_rows(table: list[list[float]]) -> torch.Tensor:
    low, high = torch.tensor([-3, 0, 0, 0, 0.0]), torch.tensor([7, 1e-3, 1e7, 1, 1000])
    x = low + torch.tensor(table) * (high - low)
    x[:, 4] = x[:, 4].round()
    return x


@settings(max_examples=80, deadline=None)
@given(
    st.lists(shares, min_size=1, max_size=4),
    st.integers(0, 2**30),
    st.sampled_from(NORMS),
    st.sampled_from([0.0, 1e-6, 0.03, 0.3, 2.0, math.inf]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_projections_of_anything_are_allowed_to_the_last_bit(table, seed, norm, eps, dtype):
    x = _real_rows(table).to(dtype)
    eps = eps if norm != "l0" or math.isinf(eps) else float(math.ceil(eps))
    region = FeatureEdits(REALS, eps, norm).around(x, UNBOUNDED)
    assert region.contains(x).all()
    generator = torch.Generator().manual_seed(seed)
    width = torch.tensor([10, 1e-3, 1e7, 1, 1000])
    for size in (1e-3, 0.3, 30.0):
        z = (x + size * width * torch.randn(x.shape, generator=generator)).to(dtype)
        projected = region.project(z)
        assert projected.dtype == dtype
        assert region.contains(projected).all()
        assert torch.equal(region.project(projected), projected)
        assert (projected[:, 1] >= x[:, 1]).all()
        assert (projected[:, 2] <= x[:, 2]).all()
        assert torch.equal(projected[:, 3], x[:, 3])
        assert torch.equal(projected[:, 4], projected[:, 4].round())
        relaxed = region.relax(z)
        assert (region.distance(relaxed) <= eps).all() or norm == "l0"


def test_each_norm_lets_the_step_that_fills_it_through():
    schema = Schema([Feature("a", Kind.INTEGER, 0, 10), Feature("b", Kind.INTEGER, 0, 5)])
    x = torch.tensor([[2.0, 0.0]])
    for norm, eps, reached in [
        ("linf", 0.3, [5.0, 0.0]),
        ("l1", 0.7, [9.0, 0.0]),
        ("l2", 0.5, [5.0, 2.0]),
        ("l0", 1, [10.0, 0.0]),
    ]:
        region = FeatureEdits(schema, eps, norm).around(x, UNBOUNDED)
        z = torch.tensor([reached])
        assert region.contains(z).all()
        assert torch.equal(region.project(x + 1.4 * (z - x)), z), norm


@pytest.mark.parametrize("norm", NORMS)
def test_large_counts_reach_their_bounds_and_odd_bounds_are_respected(norm):
    schema = Schema([Feature("visits", Kind.INTEGER, 0, 10767986), Feature("odd", Kind.INTEGER, 0.4, 5.9995)])
    x = torch.tensor([[0.0, 1.0], [10767985.0, 5.0]])
    region = FeatureEdits(schema, math.inf, norm).around(x, UNBOUNDED)
    assert region.project(torch.full((2, 2), 1e9)).tolist() == [[10767986.0, 5.0]] * 2
    assert region.project(torch.full((2, 2), -1e9)).tolist() == [[0.0, 1.0]] * 2


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_projection_of_real_columns_is_the_nearest_point(norm):
    schema = Schema([Feature(str(i), Kind.REAL, 0, 10) for i in range(3)])
    x = torch.tensor([[1.0, 5.0, 9.5]], dtype=torch.float64).expand(4000, -1)
    region = FeatureEdits(schema, 0.2, norm).around(x, UNBOUNDED)
    others = region.sample(Rng(3), torch.arange(4000))
    for wanted in ([4.0, 9.0, 12.0], [-1.0, 5.5, 9.0], [0.0, 0.0, 0.0]):
        z = torch.tensor([wanted], dtype=torch.float64)
        distance = (region.project(z.expand_as(x)) - z).norm(dim=1)
        assert (distance <= (others - z).norm(dim=1) + 1e-9).all()


# -- kinds and constraints


def test_one_hot_stays_one_hot_and_follows_the_larger_wish_within_budget():
    groups = [Feature(f"{g}{i}", Kind.ONE_HOT, group=g) for g in "pq" for i in range(3)]
    schema = Schema([*groups, Feature("r", Kind.REAL, 0, 1)])
    x = torch.tensor([[1.0, 0, 0, 0, 1, 0, 0.5]])
    z = torch.tensor([[0.4, 0.0, 0.6, 0.9, 0.1, 0.2, 0.8]])
    for norm, eps, expected in [
        ("l2", 0.9, [1, 0, 0, 0, 1, 0, 0.8]),
        ("l2", 1.0, [1, 0, 0, 1, 0, 0, 0.5]),
        ("l1", 2.25, [0, 0, 1, 1, 0, 0, 0.75]),
        ("linf", 1.0, [0, 0, 1, 1, 0, 0, 0.8]),
        ("l0", 1, [1, 0, 0, 1, 0, 0, 0.5]),
    ]:
        region = FeatureEdits(schema, eps, norm).around(x, UNBOUNDED)
        projected = region.project(z)
        torch.testing.assert_close(projected, torch.tensor([expected], dtype=torch.float32))
        assert region.contains(projected).all()


def test_frozen_groups_do_not_move():
    frozen = [Feature(f"p{i}", Kind.ONE_HOT, mutable=Mutability.NO, group="p") for i in range(2)]
    region = FeatureEdits(Schema([*frozen, Feature("r")])).around(torch.tensor([[1.0, 0.0, 0.5]]), UNBOUNDED)
    assert region.project(torch.tensor([[0.0, 9.0, 0.7]])).tolist() == [[1.0, 0.0, pytest.approx(0.7)]]


def test_a_broken_relation_reverts_what_it_involves_and_keeps_the_rest():
    schema = Schema([Feature(name, Kind.REAL, 0, 9) for name in "abc"], ["a * b <= 6"])
    region = FeatureEdits(schema).around(torch.tensor([[2.0, 2.0, 1.0]]), UNBOUNDED)
    assert region.project(torch.tensor([[4.0, 4.0, 8.0]])).tolist() == [[2.0, 2.0, 8.0]]


@pytest.mark.parametrize(
    ("relation", "wanted", "expected"),
    [
        ("a == b + c", [5.0, 2.0, 1.0], [3.0, 2.0, 1.0]),
        ("a == b * c", [5.0, 2.0, 2.0], [4.0, 2.0, 2.0]),
        ("b <= a", [1.0, 4.0, 0.0], [4.0, 4.0, 0.0]),
        ("b + c <= a or a == 0", [3.0, 4.0, 2.0], [3.0, 2.0, 1.0]),
        ("c > 0 implies b > 0", [2.0, 0.0, 9.0], [2.0, 1.0, 9.0]),
        ("c > 3 implies b > 8", [2.0, 0.0, 4.0], [2.0, 0.0, 3.0]),
        ("a != b", [3.0, 3.0, 0.0], [2.0, 3.0, 0.0]),
        ("count(b > 0, c > 0) <= 1", [0.0, 4.0, 4.0], [0.0, 0.0, 0.0]),
    ],
)
def test_repairs_take_the_cheap_way(relation, wanted, expected):
    # moving a costs half of moving b or c
    features = [Feature(name, Kind.INTEGER, 0, 9, cost=1.0 if name == "a" else 2.0) for name in "abc"]
    if relation.startswith("b + c"):
        features[0] = Feature("a", Kind.INTEGER, 0, 9, Mutability.NO)
    schema = Schema(features, [relation])
    start = [3.0 if relation.startswith("b + c") else 0.0, 0.0, 0.0]
    start[1] = 1.0 if relation == "a != b" else 0.0
    region = FeatureEdits(schema).around(torch.tensor([start]), UNBOUNDED)
    assert region.project(torch.tensor([wanted])).tolist() == [expected]


def test_nothing_is_allowed_around_a_row_that_is_not_valid():
    x = torch.tensor([[3.0, 1.0, 0, 0, 1, 0, 0], [1.0, 1.0, 0, 0, 1, 0, 0], [torch.nan] * 7])
    region = FeatureEdits(SCHEMA).around(x, UNBOUNDED)
    assert region.contains(x).tolist() == [False, True, False]
    everything = region.project(torch.tensor([[1.0, 3.0, 0, 0, 1, 0, 0]] * 3))
    assert everything.nan_to_num(-1).tolist() == [x[0].tolist(), [1.0, 3.0, 0, 0, 1, 0, 0], [-1.0] * 7]
    assert torch.equal(region.sample(Rng(0), torch.arange(3))[0], x[0])
    assert region.reach[0] == 0
    assert torch.isfinite(region.reach).all()


def test_the_input_box_counts_too():
    schema = Schema([Feature("a", Kind.REAL, 0, 10), Feature("b", Kind.INTEGER, 0, 10)])
    box = Box(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 4.5]))
    region = FeatureEdits(schema).around(torch.tensor([[0.5, 3.0], [5.0, 3.0]]), box)
    assert region.project(torch.tensor([[9.0, 9.0], [0.5, 3.0]])).tolist() == [[1.0, 4.0], [5.0, 3.0]]
    assert box.contains(region.sample(Rng(0), torch.arange(2))).tolist() == [True, False]


def test_what_is_not_finite_falls_back_to_the_original():
    x = torch.tensor([[1.0, 2, 2, 1, 1, 0, 1]])
    region = FeatureEdits(SCHEMA).around(x, UNBOUNDED)
    for value in (torch.nan, torch.inf, -torch.inf):
        z = x.clone()
        z[0, 0] = value
        assert torch.equal(region.project(z), x)
        assert not region.contains(z).any()


# -- independence of batch mates, row surgery, protocol


@pytest.mark.parametrize("norm", NORMS)
def test_rows_do_not_depend_on_their_batch_mates(norm):
    valid = EVERY_ROW[SCHEMA.check(EVERY_ROW)]
    edits = FeatureEdits(SCHEMA, {"l0": 3}.get(norm, 0.9), norm)
    region = edits.around(valid, UNBOUNDED)
    index = torch.arange(len(valid)) + 100
    z = valid + 2 * torch.randn(valid.shape, generator=torch.Generator().manual_seed(0))
    drawn, projected = region.sample(Rng(7), index, 3), region.project(z)
    ascended = region.ascent(z, valid)
    for rows in (torch.tensor([5]), torch.tensor([9, 3, 200]), torch.arange(50, 150)):
        alone = edits.around(valid[rows], UNBOUNDED)
        assert torch.equal(alone.sample(Rng(7), index[rows], 3), drawn[rows])
        assert torch.equal(alone.project(z[rows]), projected[rows])
        assert torch.equal(alone.ascent(z[rows], valid[rows]), ascended[rows])
        taken = take_rows(region, rows)
        assert torch.equal(taken.project(z[rows]), projected[rows])
    first, second = take_rows(region, torch.arange(10)), take_rows(region, torch.arange(10, 20))
    assert torch.equal(cat_rows(first, second).project(z[:20]), projected[:20])
    assert torch.equal(put_rows(first, torch.arange(10), second).project(z[10:20]), projected[10:20])


def test_draws_differ_by_counter_and_number_of_changes():
    x = EVERY_ROW[SCHEMA.check(EVERY_ROW)]
    region = FeatureEdits(SCHEMA).around(x, UNBOUNDED)
    index = torch.arange(len(x))
    first, second = region.sample(Rng(0), index, 0), region.sample(Rng(0), index, 1)
    assert not torch.equal(first, second)
    assert len(set((first != x).sum(1).tolist())) > 3


@pytest.mark.parametrize("norm", NORMS)
def test_steps_along_ascent_have_unit_length_and_rise(norm):
    schema = Schema([Feature(str(i), Kind.REAL, 0, 10.0**i, cost=1.0 + i) for i in range(4)])
    x = torch.tensor([[0.5, 5.0, 50.0, 500.0]], dtype=torch.float64)
    region = FeatureEdits(schema, 1 if norm == "l0" else 0.1, norm).around(x, UNBOUNDED)
    gradient = torch.tensor([[0.3, -0.2, 0.05, -0.001]], dtype=torch.float64)
    step = region.ascent(gradient, x)
    assert (step * gradient).sum() > 0
    assert region.distance(x + step * 0.05).item() == pytest.approx(1 if norm == "l0" else 0.05)
    if norm in ("linf", "l2"):
        # no direction of the same length rises faster
        others = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        lengths = Norm.parse(norm).length(others / torch.tensor([10.0**i / (1.0 + i) for i in range(4)]))
        rises = (others * gradient).sum(1) / lengths
        assert rises.max() <= (step * gradient).sum() + 1e-12
    assert 0 < region.reach.item() <= max(region.eps, 4.0)


def test_ascent_leaves_alone_what_cannot_move():
    x = torch.tensor([[1.0, 2.0, 2.0, 1.0, 1.0, 0.0, 4.0]])
    x[0, 6] = 1.0
    region = FeatureEdits(SCHEMA, 1.0, "linf").around(x, UNBOUNDED)
    down = region.ascent(-torch.ones_like(x), x)
    assert down[0, 1] == 0  # may only rise
    up = region.ascent(torch.ones_like(x), x)
    assert up[0, 2] == 0  # may only fall
    assert up[0, 3] == 0  # already at its end


def test_it_is_a_perturbation_with_a_stable_name_and_description():
    edits = FeatureEdits(SCHEMA, 0.5, max_changed=3)
    assert isinstance(edits, Perturbation)
    assert isinstance(edits.around(EVERY_ROW[:1], UNBOUNDED), Region)
    assert Threat(edits).name == "features-l2-0.5-max3"
    assert (FeatureEdits(SCHEMA).name, FeatureEdits(SCHEMA, 4, "l0").name) == (
        "features-l2-inf",
        "features-l0-4",
    )
    assert edits == FeatureEdits(SCHEMA, 0.5, Norm.L2, 3)
    assert hash(edits) == hash(FeatureEdits(SCHEMA, 0.5, Norm.L2, 3))
    assert edits.scaled(2) == FeatureEdits(SCHEMA, 1.0, Norm.L2, 3)
    assert FeatureEdits(SCHEMA, 3, "l0").scaled(0.5).eps == 1
    described = edits.describe()
    assert described["schema"]["sha256"] == SCHEMA.sha256
    assert described["text"] == "FeatureEdits L2 ≤ 0.5, at most 3 features"


@pytest.mark.parametrize(
    ("build", "cure"),
    [
        (lambda: FeatureEdits(SCHEMA, -1), "radius of 0 or more"),
        (lambda: FeatureEdits(SCHEMA, 0.5, "l0"), "whole number"),
        (lambda: FeatureEdits(SCHEMA, 0.5, "l3"), "linf, l2, l1, l0"),
        (lambda: FeatureEdits(SCHEMA, max_changed=-1), "0 or more"),
    ],
)
def test_impossible_budgets_are_refused(build, cure):
    with pytest.raises(ThreatError) as caught:
        build()
    assert cure in caught.value.cure


def test_rows_must_be_floats_of_the_right_width():
    with pytest.raises(DataError, match="float"):
        FeatureEdits(SCHEMA).around(EVERY_ROW.long(), UNBOUNDED)
    with pytest.raises(DataError, match="7 features"):
        FeatureEdits(SCHEMA).around(EVERY_ROW[:, :3], UNBOUNDED)

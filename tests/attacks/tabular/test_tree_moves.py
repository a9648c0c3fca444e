"""Cells, moves and their answers, against trying each of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sklearn")
from sklearn.datasets import load_wine
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)

from hardpoint.attacks.tabular.trees.beam import distinct_best
from hardpoint.attacks.tabular.trees.grid import beside, make_grid
from hardpoint.attacks.tabular.trees.moves import Moves
from hardpoint.attacks.tabular.trees.neighbours import Neighbours
from hardpoint.core.box import UNBOUNDED
from hardpoint.models.trees import read_trees
from hardpoint.threats.features import Feature, FeatureEdits, Kind, Mutability, Schema

FORESTS = {
    "forest": RandomForestClassifier(6, random_state=0),
    "boosting": GradientBoostingClassifier(n_estimators=5, random_state=0),
    "histograms": HistGradientBoostingClassifier(max_iter=6, random_state=0),
}
TYPES = [(p, d) for p in (torch.float32, torch.float64) for d in (torch.float32, torch.float64)]


@given(st.floats(-1e30, 1e30), st.sampled_from(TYPES))
def test_the_last_number_left_of_a_threshold_and_the_first_right_of_it(cut, types):
    precision, dtype = types
    threshold = torch.tensor([cut], dtype=torch.float64)
    below, above = (end.to(dtype) for end in beside(threshold, precision, dtype))
    assert below.to(precision).double() <= threshold < above.to(precision).double()
    assert torch.nextafter(below, above) == above


def wine(kind, dtype):
    x, y = load_wine(return_X_y=True)
    model = FORESTS[kind].fit(x, y)
    rows = torch.tensor(x, dtype=dtype)
    schema = Schema([Feature(f"f{i}", Kind.REAL, float(c.min()), float(c.max())) for i, c in enumerate(x.T)])
    return model, schema, rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", FORESTS)
def test_all_moves_of_one_coordinate_are_scored_exactly(kind, dtype):
    model, schema, rows = wine(kind, dtype)
    trees = read_trees(model)
    grid = make_grid(trees, schema, dtype)
    x = rows[::25]
    region = FeatureEdits(schema).around(x, UNBOUNDED)
    moves = Moves.of(region, grid)
    z = x.roll(1, 0)  # points that are not the originals
    raw = Neighbours(trees, grid).raw(z)
    row, cell = moves.allowed.nonzero(as_tuple=True)
    moved = moves.apply(z[row], row, cell)
    assert torch.allclose(raw[row, cell], trees.raw(moved), atol=1e-10)
    assert torch.equal(grid.cells_of(moved)[torch.arange(len(row)), grid.feature[cell]], cell)
    # the grid leaves nothing out: a value picked anywhere gives the answer of its cell
    anywhere = z.clone()
    anywhere[:, 4] = torch.linspace(70, 160, len(z), dtype=dtype)
    at = grid.cells_of(anywhere)[:, 4]
    assert torch.allclose(raw[torch.arange(len(z)), at], trees.raw(anywhere), atol=1e-10)


@pytest.mark.parametrize(("norm", "most"), [("linf", None), ("l2", None), ("l1", 3), ("l0", None)])
def test_lengths_after_moves_are_those_of_the_region(norm, most):
    features = [
        Feature("a", Kind.INTEGER, 0, 9, cost=2.0),
        Feature("b", Kind.REAL, 0, 5),
        Feature("size", Kind.ORDINAL, levels=(1, 2.5, 7)),
        Feature("fixed", Kind.INTEGER, 0, 9, Mutability.NO),
        *(Feature(c, Kind.ONE_HOT, group="g", cost=cost) for c, cost in (("r", 0.5), ("s", 1.5), ("t", 1.0))),
    ]
    schema = Schema(features)
    draw = np.random.default_rng(0)
    hot = np.eye(3)[draw.integers(3, size=300)]
    rows = np.column_stack(
        [
            draw.integers(10, size=300),
            5 * draw.random(300),
            draw.choice([1, 2.5, 7], 300),
            draw.integers(10, size=300),
            hot,
        ]
    )
    y = (rows @ [0.3, 1, -0.2, 0.1, 2, -1, 0] + draw.normal(size=300) > 3.2).astype(int)
    trees = read_trees(RandomForestClassifier(5, random_state=0).fit(rows, y))
    table = torch.tensor(rows, dtype=torch.float32)
    x, z = table[:12], table[12:24].clone()
    z[:, 3] = x[:, 3]
    z[::2, :2] = x[::2, :2]
    region = FeatureEdits(schema, norm=norm, max_changed=most).around(x, UNBOUNDED)
    grid = make_grid(trees, schema, torch.float32)
    moves = Moves.of(region, grid)
    owner = torch.arange(12)
    length, fits = moves.after(z, owner, torch.full((12,), 1.3 if norm != "l0" else 3.0, dtype=torch.float64))
    row, cell = moves.allowed.nonzero(as_tuple=True)
    moved = moves.apply(z[row], row, cell)
    many = FeatureEdits(schema, norm=norm).around(x[row], UNBOUNDED)
    assert torch.allclose(length[row, cell], many.distance(moved), atol=1e-6)
    assert many.contains(moved).all()
    assert not moves.allowed[:, grid.feature == 3].any()
    allowed = (
        FeatureEdits(schema, 1.3 if norm != "l0" else 3, norm, most).around(x[row], UNBOUNDED).contains(moved)
    )
    changed = (moved != z[row]).any(1)
    assert torch.equal(fits[row, cell], allowed & changed)
    assert not fits[~moves.allowed].any()


def test_the_best_points_are_distinct():
    value = torch.tensor([[2.0, 5.0, 5.0, -torch.inf], [1.0, 1.0, 1.0, 1.0]])
    order, good = distinct_best(value, 3)
    assert order[0, :2].tolist() == [1, 0]
    assert good.tolist() == [[True, True, False], [True, False, False]]

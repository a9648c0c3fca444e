"""Exact distances against every row there is; heuristics never nearer, and how near they come."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier

from hardpoint import Threat
from hardpoint.attacks import CoordinateAttack, LeafTupleAttack, exact_distances
from hardpoint.core.box import UNBOUNDED
from hardpoint.core.errors import ModelError, ThreatError
from hardpoint.models.trees import read_trees
from hardpoint.threats import Targeted, Untargeted
from hardpoint.threats.features import Feature, FeatureEdits, Kind, Mutability, Schema

FEATURES = [
    Feature("a", Kind.INTEGER, 0, 4),
    Feature("b", Kind.INTEGER, 0, 4, cost=2.0),
    Feature("up", Kind.INTEGER, 0, 3, Mutability.INCREASE),
    Feature("fixed", Kind.INTEGER, 0, 2, Mutability.NO),
    Feature("flag", Kind.BINARY, cost=0.3),
    Feature("red", Kind.ONE_HOT, group="colour", cost=0.4),
    Feature("green", Kind.ONE_HOT, group="colour", cost=0.6),
    Feature("blue", Kind.ONE_HOT, group="colour"),
    Feature("size", Kind.ORDINAL, levels=(1, 2.5, 7)),
]
RELATIONS = ["a <= b + 1", "flag > 0 implies a > 0", "size != 2.5 or up >= 1", "not (a == 2 and blue == 1)"]


def every_row(dtype) -> torch.Tensor:
    colours = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    rows = product(range(5), range(5), range(4), range(3), range(2), colours, (1, 2.5, 7))
    return torch.tensor([[*row[:5], *row[5], row[6]] for row in rows], dtype=dtype)


def fitted(rows: torch.Tensor, kind: str, classes: int):
    draw = np.random.default_rng(1)
    weights = draw.normal(size=(rows.shape[1], classes))
    score = np.tanh(rows.numpy() - rows.numpy().mean(0)) @ weights + 0.8 * draw.normal(
        size=(len(rows), classes)
    )
    model = {
        "forest": RandomForestClassifier(7, max_depth=5, random_state=0),
        "boosting": GradientBoostingClassifier(n_estimators=8, max_depth=3, random_state=0),
    }[kind]
    return model.fit(rows.numpy(), score.argmax(1))


def nearest(rows, model, x, y, edits, goal) -> torch.Tensor:
    """The exact distances, by asking about every row."""
    labels = torch.from_numpy(model.predict(rows.numpy()))
    best = []
    for i in range(len(x)):
        region = edits.around(x[i : i + 1].expand(len(rows), -1), UNBOUNDED)
        good = region.contains(rows) & goal.reached(labels, y[i].expand(len(rows)))
        best.append(torch.where(good, region.distance(rows), torch.inf).min())
    return torch.stack(best)


CASES = [
    ("forest", 2, "linf", torch.float32, None),
    ("forest", 3, "l1", torch.float64, None),
    ("forest", 3, "l0", torch.float32, None),
    ("boosting", 2, "l1", torch.float32, 2),
    ("boosting", 3, "linf", torch.float64, 2),
    ("boosting", 3, "l0", torch.float32, 2),
]


@pytest.mark.parametrize(("kind", "classes", "norm", "dtype", "most"), CASES)
@pytest.mark.parametrize("goal", [Untargeted(), Targeted(1)], ids=["untargeted", "targeted"])
def test_the_smallest_edit_is_that_of_asking_about_every_row(kind, classes, norm, dtype, most, goal):
    rows = every_row(dtype)
    model = fitted(rows, kind, classes)
    schema = Schema(FEATURES, RELATIONS)
    valid = rows[schema.check(rows)]
    x = valid[torch.randperm(len(valid), generator=torch.Generator().manual_seed(0))[:5]]
    y = torch.from_numpy(model.predict(x.numpy()))
    if isinstance(goal, Targeted):
        x, y = x[y != goal.label], y[y != goal.label]
    edits = FeatureEdits(schema, norm=norm, max_changed=most)
    known = nearest(rows, model, x, y, edits, goal)
    found = exact_distances(model, x, y, edits, goal=goal)
    assert found.solved.all()
    assert torch.allclose(found.distance, known, atol=1e-5)
    assert (found.lower <= known).all()
    broken = torch.isfinite(known)
    region = edits.around(x, UNBOUNDED)
    assert region.contains(found.witness)[broken].all()
    assert goal.reached(torch.from_numpy(model.predict(found.witness.numpy())), y)[broken].all()
    assert torch.equal(found.witness[~broken], x[~broken])
    # a budget just below the distance allows nothing, and the program proves it
    i = int(broken.nonzero()[0])
    if norm != "l0" and isinstance(goal, Untargeted):
        less = FeatureEdits(schema, float(known[i]) * 0.99, norm, most)
        below = exact_distances(model, x[i : i + 1], y[i : i + 1], less, goal=goal)
        assert (bool(below.solved), float(below.distance)) == (True, torch.inf)
        assert float(below.lower) == pytest.approx(less.eps)
    # heuristics are never nearer, and near on problems this small
    attack = LeafTupleAttack(read_trees(model), rounds=30, depth=6)
    walked = attack(model, x, y, Threat(edits, goal, access="scores"))
    assert (walked.distance >= known - 1e-9).all()
    assert torch.equal(walked.broken, broken)
    assert (walked.distance[broken] <= 1.35 * known[broken]).double().mean() >= 0.6


@pytest.fixture(scope="module")
def tumours():
    x, y = load_breast_cancer(return_X_y=True)
    names = [name.replace(" ", "_") for name in load_breast_cancer().feature_names]
    rows = torch.tensor(x, dtype=torch.float32)
    features = [
        Feature(name, Kind.REAL, float(low), float(high))
        for name, low, high in zip(names, rows.amin(0), rows.amax(0), strict=True)
    ]
    schema = Schema(features, ["mean_radius <= worst_radius", "mean_area <= worst_area"])
    forest = RandomForestClassifier(9, max_depth=4, random_state=0).fit(x[::2], y[::2])
    test, label = rows[1::2], torch.tensor(y[1::2])
    keep = schema.check(test)
    return forest, schema, test[keep][:6], label[keep][:6]


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_real_valued_features_with_relations(tumours, norm):
    forest, schema, x, y = tumours
    edits = FeatureEdits(schema, norm=norm)
    found = exact_distances(forest, x, y, edits)
    assert found.solved.all()
    assert (found.lower <= found.distance).all()
    changed = found.distance > 0
    assert changed.sum() >= 4
    assert schema.check(found.witness).all()
    assert (forest.predict(found.witness.numpy()) != y.numpy())[changed].all()
    region = edits.around(x, UNBOUNDED)
    assert torch.equal(region.distance(found.witness)[changed], found.distance[changed])
    trees = read_trees(forest)
    for attack in (LeafTupleAttack(trees, rounds=20), CoordinateAttack(trees)):
        other = attack(forest, x, y, edits)
        assert (other.distance >= found.distance - 1e-9).all()
    # the witness holds and a budget a little smaller does not
    for i in changed.nonzero().squeeze(1).tolist()[:1]:
        less = FeatureEdits(schema, float(found.distance[i]) * 0.999, norm)
        assert not exact_distances(forest, x[i : i + 1], y[i : i + 1], less).distance.isfinite()


def test_without_time_the_bound_is_still_below(tumours):
    forest, schema, x, y = tumours
    edits = FeatureEdits(schema, norm="l1")
    full = exact_distances(forest, x[:3], y[:3], edits)
    cut = exact_distances(forest, x[:3], y[:3], edits, seconds_per_input=1e-6)
    assert (cut.lower <= full.distance + 1e-9).all()
    assert (cut.distance >= full.distance - 1e-9).all()


def test_relations_that_are_not_linear_leave_a_sound_bound(tumours):
    forest, schema, x, y = tumours
    curved = schema.with_relations(
        "mean_radius * mean_texture <= 2000", "abs(mean_area - worst_area) <= 4000"
    )
    plain = exact_distances(forest, x[:3], y[:3], FeatureEdits(schema, norm="linf"))
    found = exact_distances(forest, x[:3], y[:3], FeatureEdits(curved, norm="linf"))
    assert curved.check(found.witness).all()
    assert torch.allclose(found.lower, plain.lower, atol=1e-5)
    assert (found.distance >= found.lower).all()


def test_rows_that_cannot_be_attacked_and_misuse(tumours):
    forest, schema, x, y = tumours
    outside = x[:1].clone()
    outside[0, 0] = 1e4
    label = torch.from_numpy(forest.predict(outside.numpy()))
    found = exact_distances(forest, outside, label, FeatureEdits(schema, norm="linf"))
    assert (bool(found.solved), float(found.distance)) == (True, torch.inf)
    wrong = exact_distances(
        forest, x[:1], 1 - torch.from_numpy(forest.predict(x[:1].numpy())), FeatureEdits(schema, norm="l1")
    )
    assert (bool(wrong.solved), float(wrong.distance), float(wrong.lower)) == (True, 0.0, 0.0)
    with pytest.raises(ThreatError, match="l2 distance is not linear"):
        exact_distances(forest, x, y, FeatureEdits(schema, norm="l2"))
    with pytest.raises(ThreatError, match="more than 0"):
        exact_distances(forest, x, y, FeatureEdits(schema, norm="l1"), seconds_per_input=0)
    with pytest.raises(ModelError, match="no ensemble of trees"):
        exact_distances(torch.nn.Linear(30, 2).eval(), x, y, FeatureEdits(schema, norm="l1"))

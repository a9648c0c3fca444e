"""Attacks that know the trees: what they find, and that batches, seeds and shapes of models do not matter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("sklearn")
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.tree import DecisionTreeClassifier

from hardpoint import Linf, Threat
from hardpoint.attacks import CoordinateAttack, LeafTupleAttack, TableSearch
from hardpoint.core.errors import ThreatError
from hardpoint.models.trees import read_trees
from hardpoint.threats import Targeted
from hardpoint.threats.features import Feature, FeatureEdits, Kind, Mutability, Schema

ATTACKS = {
    "coordinate": lambda trees: CoordinateAttack(trees, rounds=8, candidates=16),
    "leaf tuple": lambda trees: LeafTupleAttack(trees, rounds=40, depth=9, candidates=16),
}


def table(load):
    x, y = load(return_X_y=True)
    low, high = x.min(0), x.max(0)
    schema = Schema(
        [
            Feature(f"f{i}", Kind.REAL, float(a), float(b))
            for i, (a, b) in enumerate(zip(low, high, strict=True))
        ]
    )
    return x, y, schema


@pytest.fixture(scope="module")
def tumours():
    x, y, schema = table(load_breast_cancer)
    model = HistGradientBoostingClassifier(max_iter=30, random_state=0).fit(x[::2], y[::2])
    schema = schema.with_relations("f0 <= f20", "f3 <= f23", "f6 > 0.1 implies f26 > 0.1")
    rows, labels = torch.tensor(x[1::2], dtype=torch.float32), torch.tensor(y[1::2])
    valid = schema.check(rows)
    return model, schema, rows[valid][:30], labels[valid][:30]


def test_one_tree_is_broken_at_the_exact_distance():
    x, y, schema = table(load_wine)
    model = DecisionTreeClassifier(max_depth=4, random_state=0).fit(x, y)
    rows = torch.tensor(x[::6], dtype=torch.float32)
    label = torch.from_numpy(model.predict(rows.numpy()))
    trees = read_trees(model)
    leaves = trees.leaves
    width = torch.tensor(x.max(0) - x.min(0))
    result = LeafTupleAttack(trees)(model, rows, label, FeatureEdits(schema, norm="l2"))
    for i, row in enumerate(rows.double()):
        away = torch.full((len(leaves.tree),), torch.inf, dtype=torch.float64)
        for leaf in range(len(leaves.tree)):
            mine = leaves.leaf == leaf
            here = row[leaves.feature[mine]]
            gap = torch.maximum(leaves.low[mine] - here, here - leaves.high[mine]).clamp_min(0)
            if leaves.value[leaf].argmax() != label[i]:
                away[leaf] = (gap / width[leaves.feature[mine]]).square().sum().sqrt()
        assert float(result.distance[i]) == pytest.approx(float(away.min()), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.2), ("l1", 0.3), ("l0", 3)])
def test_every_example_is_valid_and_knowing_the_trees_helps(tumours, name, norm, eps):
    model, schema, x, y = tumours
    threat = Threat(FeatureEdits(schema, eps, norm), access="scores")
    result = ATTACKS[name](read_trees(model))(model, x, y, threat)
    assert schema.check(result.adversarial).all()
    assert (model.predict(result.adversarial.numpy()) != y.numpy())[result.broken].all()
    assert (result.distance[result.broken] <= eps).all()
    blind = TableSearch(queries=int(result.queries.max()) + 1)(model, x, y, threat)
    assert int(result.broken.sum()) >= int(blind.broken.sum())
    assert int(result.broken.sum()) >= 11


@pytest.mark.parametrize("name", ATTACKS)
def test_results_do_not_depend_on_batch_or_order(tumours, name):
    model, schema, x, y = tumours
    attack = replace(ATTACKS[name](read_trees(model)), rounds=10)
    edits = FeatureEdits(schema, 0.15 if name == "coordinate" else torch.inf, "l1")
    x, y = x[:8], y[:8]
    runs = [attack(model, x, y, edits, batch_size=size) for size in (1, 3, 64)]
    back = attack(model, x.flip(0), y.flip(0), edits)
    for run in runs[1:]:
        assert torch.equal(run.adversarial, runs[0].adversarial)
        assert torch.equal(run.queries, runs[0].queries)
    assert torch.equal(back.adversarial.flip(0), runs[0].adversarial)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_classes_targets_and_both_precisions(name, dtype):
    x, y, schema = table(load_wine)
    for model in (
        RandomForestClassifier(9, random_state=0),
        GradientBoostingClassifier(n_estimators=6, random_state=0),
    ):
        model.fit(x, y)
        rows, labels = torch.tensor(x[::9], dtype=dtype), torch.tensor(y[::9])
        threat = Threat(FeatureEdits(schema, 0.8, "l2"), Targeted(1), access="scores")
        result = ATTACKS[name](read_trees(model))(model, rows, labels, threat)
        hit = result.broken & (labels != 1)
        assert hit.sum() >= 0.9 * (labels != 1).sum()
        assert (model.predict(result.adversarial.numpy()) == 1)[hit].all()
        assert result.adversarial.dtype == dtype


def test_one_hot_groups_and_immutable_features():
    colours = torch.eye(3).repeat(40, 1)
    other = torch.arange(120).remainder(5).float().unsqueeze(1)
    rows = torch.cat([colours, other, other.flip(0)], 1)
    y = (colours[:, 0] == 1) | (other[:, 0] == 4)
    model = RandomForestClassifier(8, random_state=0).fit(rows.numpy(), y.numpy())
    hot = [Feature(c, Kind.ONE_HOT, group="colour") for c in ("red", "green", "blue")]
    schema = Schema(
        [*hot, Feature("size", Kind.INTEGER, 0, 4, Mutability.NO), Feature("noise", Kind.INTEGER, 0, 4)]
    )
    small = other[:, 0] < 4
    x, label = rows[small][:20], y[small][:20].long()
    for attack in ATTACKS.values():
        result = attack(read_trees(model))(model, x, label, FeatureEdits(schema, 1.0, "linf"))
        assert result.broken.all()
        assert (result.adversarial[:, :3].sum(1) == 1).all()
        assert torch.equal(result.adversarial[:, 3], x[:, 3])
        # the noise does not matter, so the colour must have changed
        assert (result.adversarial[:, :3] != x[:, :3]).any(1).all()


def test_nothing_to_move_ends_at_once_and_budgets_of_queries_hold(tumours):
    model, schema, x, y = tumours
    trees = read_trees(model)
    fixed = Schema([Feature(f.name, f.kind, f.low, f.high, Mutability.NO) for f in schema.features])
    for attack in (CoordinateAttack(trees), LeafTupleAttack(trees)):
        result = attack(model, x[:5], y[:5], FeatureEdits(fixed, 1.0))
        assert not (result.broken & (torch.from_numpy(model.predict(x[:5].numpy())) == y[:5])).any()
        assert result.queries.max() == 0
        few = attack(model, x[:5], y[:5], Threat(FeatureEdits(schema, 0.05), access="scores", queries=7))
        assert few.queries.max() <= 7
        empty = attack(model, x[:5], y[:5], Threat(FeatureEdits(schema, 0.0), access="scores"))
        assert empty.queries.max() == 0


def test_misuse_is_named(tumours):
    model, schema, x, y = tumours
    trees = read_trees(model)
    for make in (CoordinateAttack, LeafTupleAttack):
        with pytest.raises(ThreatError, match="rows of a table"):
            make(trees)(model, x, y, Linf(0.1))
        with pytest.raises(ThreatError, match="1 or more"):
            make(trees, rounds=0)
        with pytest.raises(ThreatError, match="labels"):
            make(trees)(model, x, y, Threat(FeatureEdits(schema, 0.1), access="labels"))

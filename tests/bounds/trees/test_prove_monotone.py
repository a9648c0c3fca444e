"""Monotone is proven where it is so, refuted by two rows where it is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.tree import DecisionTreeClassifier

from hardpoint.bounds.trees import Proof, prove_monotone
from hardpoint.core.box import Box
from hardpoint.core.errors import ConfigError, DataError
from hardpoint.models import SklearnModel
from hardpoint.models.trees import Link, TreeEnsemble, read_trees
from hardpoint.models.trees.ensemble import Tree


def grid_tree(values: list[float], feature: int = 0) -> Tree:
    """A tree over one feature with cuts at 1, 2, …: a comb."""
    parts: dict[str, list] = {k: [] for k in ("feature", "threshold", "left", "right", "value")}
    for k, value in enumerate(values):
        last = k == len(values) - 1
        here = 2 * k
        parts["feature"] += [-1] if last else [feature, -1]
        parts["threshold"] += [0.0] if last else [float(k + 1), 0.0]
        parts["left"] += [here] if last else [here + 1, here + 1]
        parts["right"] += [here] if last else [here + 2, here + 1]
        parts["value"] += [[value]] if last else [[0.0], [value]]
    return Tree(
        torch.tensor(parts["feature"]),
        torch.tensor(parts["threshold"], dtype=torch.float64),
        torch.tensor(parts["left"]),
        torch.tensor(parts["right"]),
        torch.tensor(parts["value"], dtype=torch.float64),
        torch.zeros(len(parts["feature"]), dtype=torch.bool),
    )


def ensemble(*trees: Tree, features: int = 2, box: Box | None = None) -> TreeEnsemble:
    extra = {} if box is None else {"box": box}
    return TreeEnsemble(list(trees), torch.zeros(1, dtype=torch.float64), Link.LOGISTIC, features, **extra)


def check_refuted(model, proof, feature: int, rising: bool, positive: int) -> None:
    trees = read_trees(model)
    first, second = proof.witness
    moved = second[feature] - first[feature]
    assert bool(moved > 0) if rising else bool(moved < 0)
    same = torch.arange(trees.features) != feature
    assert torch.equal(first[same], second[same])
    logits = trees.logits(trees.raw(proof.witness))
    margins = logits[:, positive : positive + 1] - logits
    assert bool((margins[1] < margins[0]).any())


def test_combs():
    up, down, bump = grid_tree([0, 1, 1, 3]), grid_tree([3, 1, 1, 0]), grid_tree([0, 2, 1, 3])
    assert prove_monotone(ensemble(up), 0).status is Proof.PROVEN
    assert prove_monotone(ensemble(up), 0).fall == 0.0
    assert prove_monotone(ensemble(up), 0, positive=0).status is Proof.REFUTED
    assert prove_monotone(ensemble(down), 0, rising=False).status is Proof.PROVEN
    for model, rising in ((ensemble(bump), True), (ensemble(bump), False), (ensemble(up), False)):
        proof = prove_monotone(model, 0, rising=rising)
        assert proof.status is Proof.REFUTED
        check_refuted(model, proof, 0, rising, 1)
    assert prove_monotone(ensemble(bump), 1).status is Proof.PROVEN  # nobody asks about it


def test_a_tree_that_falls_can_be_outweighed_by_another():
    falls, rises = grid_tree([0, 1, 0.5, 2]), grid_tree([0, 0, 0.75, 0.75])
    proof = prove_monotone(ensemble(falls, rises), 0)
    assert proof.status is Proof.PROVEN
    assert 0 < proof.fall < 1e-10
    half = grid_tree([0, 0, 0.25, 0.25])
    refuted = prove_monotone(ensemble(falls, half), 0)
    assert refuted.status is Proof.REFUTED
    check_refuted(ensemble(falls, half), refuted, 0, True, 1)


def test_a_fall_outside_the_input_range_does_not_count():
    bump = grid_tree([0, 2, 1, 3])
    assert prove_monotone(ensemble(bump, box=Box(0.0, 2.0)), 0).status is Proof.PROVEN
    proof = prove_monotone(ensemble(bump, box=Box(0.0, 2.5)), 0)
    assert proof.status is Proof.REFUTED
    assert bool(Box(0.0, 2.5).contains(proof.witness).all())


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_verdicts_are_those_of_every_pair_of_cells(seed, classes):
    draw = np.random.default_rng(seed)
    x = draw.integers(0, 4, (60, 2)).astype(float)
    y = np.clip((x[:, 0] + x[:, 1] * (seed % 2) + draw.normal(size=60)) // 2, 0, classes - 1).astype(int)
    x, y = np.vstack([x, [[0, 0], [3, 3], [3, 0]]]), np.append(y, [0, 1, classes - 1])
    for model in (
        RandomForestClassifier(3, max_depth=3, random_state=seed).fit(x, y),
        GradientBoostingClassifier(n_estimators=3, max_depth=2, random_state=seed).fit(x, y),
    ):
        trees = read_trees(model)
        cells = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).double()
        logits = trees.logits(trees.raw(cells)).view(4, 4, -1)
        for feature in (0, 1):
            lines = logits.movedim(feature, 0)
            for positive in range(trees.classes):
                margins = lines[:, :, positive : positive + 1] - lines
                fall = max(float((margins[i] - margins[j]).max()) for i in range(4) for j in range(i, 4))
                proof = prove_monotone(model, feature, positive=positive)
                assert proof.status is (Proof.REFUTED if fall > 1e-6 else Proof.PROVEN)
                if proof.status is Proof.REFUTED:
                    check_refuted(model, proof, feature, True, positive)


def test_what_libraries_constrain_is_proven_and_what_they_do_not_is_refuted():
    draw = np.random.default_rng(0)
    x = draw.random((400, 4))
    y = (np.sin(5 * x[:, 0]) + x[:, 1] + 0.2 * draw.normal(size=400) > 1).astype(int)
    held = HistGradientBoostingClassifier(max_iter=15, monotonic_cst=[1, 0, -1, 0], random_state=0).fit(x, y)
    assert prove_monotone(held, 0).status is Proof.PROVEN
    assert prove_monotone(held, 2, rising=False).status is Proof.PROVEN
    free = HistGradientBoostingClassifier(max_iter=15, random_state=0).fit(x, y)
    proof = prove_monotone(free, 0)
    assert proof.status is Proof.REFUTED
    check_refuted(free, proof, 0, True, 1)
    forest = RandomForestClassifier(10, max_depth=6, monotonic_cst=[1, 0, 0, 0], random_state=0).fit(x, y)
    assert prove_monotone(forest, 0).status is Proof.PROVEN


def test_too_little_time_or_room_is_unknown(monkeypatch):
    from hardpoint.bounds.trees import monotone

    falls, rises = grid_tree([0, 1, 0.5, 2]), grid_tree([0, 0, 0.75, 0.75])
    assert prove_monotone(ensemble(falls, rises), 0, seconds=1e-9).status is Proof.UNKNOWN
    monkeypatch.setattr(monotone, "_MOST_PAIRS", 1)
    proof = prove_monotone(ensemble(falls, rises), 0)
    assert proof.status is Proof.UNKNOWN
    assert proof.witness is None


def test_bad_input_is_told():
    tree = DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1])
    for settings in (
        {"feature": 1},
        {"feature": -1},
        {"feature": 0, "positive": 2},
        {"feature": 0, "positive": -1},
    ):
        with pytest.raises(DataError):
            prove_monotone(tree, **settings)
    for seconds in (0.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError):
            prove_monotone(tree, 0, seconds=seconds)
    walled = SklearnModel(tree, input_range=(0.0, 0.4))
    assert prove_monotone(walled, 0, rising=False).status is Proof.PROVEN  # constant there

"""Verdicts against every leaf region there is; bounds below the truth; rounding and ties to the safe side."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

import hardpoint as hp
from hardpoint.bounds.trees import RowBox, TreeStatus, search, tree_margins, verify_trees
from hardpoint.core.errors import ConfigError, DataError, HardpointError, ModelError, ThreatError
from hardpoint.models.trees import Link, TreeEnsemble, read_trees
from hardpoint.models.trees.ensemble import Tree
from hardpoint.threats.features import Feature, FeatureEdits, Kind, Schema

MODELS = {
    "tree": lambda: DecisionTreeClassifier(max_depth=5, random_state=0),
    "forest": lambda: RandomForestClassifier(5, max_depth=4, random_state=0),
    "extra trees": lambda: ExtraTreesClassifier(4, max_depth=4, random_state=0),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=6, max_depth=3, random_state=0),
    "histogram boosting": lambda: HistGradientBoostingClassifier(
        max_iter=6, max_leaf_nodes=8, random_state=0
    ),
}


def rows(n: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    x = draw.random((n, 3))
    score = np.stack(
        [np.sin(7 * x @ draw.normal(size=3)) + 0.3 * draw.normal(size=n) for _ in range(classes)], 1
    )
    return x, score.argmax(1)


def regions(trees: TreeEnsemble, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """One row for every combination of cells between thresholds that the box meets."""
    axes = []
    for f in range(trees.features):
        cuts = {float(t) for tree in trees.trees for t in tree.threshold[tree.feature == f]}
        ends = [float(low[f]), float(high[f])]
        values = {*ends}
        for cut in cuts:
            after = float(np.nextafter(np.float32(cut), np.float32(np.inf)))
            before = float(np.float32(cut)) if float(np.float32(cut)) <= cut else cut
            values |= {v for v in (cut, before, after, np.nextafter(cut, np.inf)) if ends[0] <= v <= ends[1]}
        # one value per cell is enough
        kept: dict[tuple[bool, ...], float] = {}
        for v in sorted(values):
            stored = float(trees.rounded(torch.tensor([v], dtype=torch.float64)))
            kept.setdefault(tuple(stored <= cut for cut in sorted(cuts)), v)
        axes.append(sorted(kept.values()))
    return torch.tensor(list(itertools.product(*axes)), dtype=torch.float64)


def true_margin(trees: TreeEnsemble, low: torch.Tensor, high: torch.Tensor, label: int) -> float:
    logits = trees.logits(trees.raw(regions(trees, low, high)))
    others = logits.clone()
    others[:, label] = -torch.inf
    return float((logits[:, label] - others.amax(1)).min())


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_verdicts_are_those_of_every_leaf_region(name, classes):
    x, y = rows(160, classes, seed=classes)
    model = MODELS[name]().fit(x, y)
    trees = read_trees(model)
    test = torch.from_numpy(rows(8, classes, seed=9)[0])
    labels = torch.from_numpy(model.predict(test.numpy()))
    seen = set()
    for eps in (0.02, 0.08, 0.25):
        found = verify_trees(model, test, labels, RowBox(test - eps, test + eps))
        bounds = [
            tree_margins(model, test, labels, RowBox(test - eps, test + eps), levels=k) for k in range(4)
        ]
        for i, status in enumerate(found.status):
            truth = true_margin(trees, test[i] - eps, test[i] + eps, int(labels[i]))
            seen.add(status)
            if truth > 1e-4:
                assert status is TreeStatus.ROBUST
            if truth < -1e-4:
                assert status is TreeStatus.VULNERABLE
            assert status is not TreeStatus.ROBUST or truth > 0
            assert float(found.lower[i]) <= truth
            if status is TreeStatus.ROBUST:
                assert float(found.lower[i]) > 0
            for loose, tight in itertools.pairwise(bounds):
                assert float(loose[i]) <= float(tight[i]) + 1e-9 <= truth + 2e-9
            if status is TreeStatus.VULNERABLE:
                z = found.witness[i]
                assert bool(((z >= test[i] - eps) & (z <= test[i] + eps)).all())
                assert model.predict(z.numpy()[None])[0] != labels[i]
            else:
                assert torch.equal(found.witness[i], test[i])
    assert TreeStatus.ROBUST in seen
    assert TreeStatus.VULNERABLE in seen


def test_enough_levels_are_exact():
    x, y = rows(160, 2, seed=4)
    model = MODELS["boosting"]().fit(x, y)
    trees, test = read_trees(model), torch.from_numpy(rows(6, 2, seed=5)[0])
    labels = trees.predict(test)
    bound = tree_margins(model, test, labels, RowBox(test - 0.1, test + 0.1), levels=3)
    for i in range(len(test)):
        truth = true_margin(trees, test[i] - 0.1, test[i] + 0.1, int(labels[i]))
        assert truth - 1e-4 <= float(bound[i]) <= truth


def test_depth_first_finds_the_same(monkeypatch):
    x, y = rows(200, 3, seed=1)
    model = RandomForestClassifier(9, max_depth=5, random_state=0).fit(x, y)
    test = torch.from_numpy(rows(12, 3, seed=2)[0])
    labels = torch.from_numpy(model.predict(test.numpy()))
    merging = verify_trees(model, test, labels, RowBox(test - 0.05, test + 0.05))
    monkeypatch.setattr(search, "_MERGE", 0)
    monkeypatch.setattr(search, "_REMEMBER", 1000)
    deep = verify_trees(model, test, labels, RowBox(test - 0.05, test + 0.05))
    assert merging.status == deep.status
    assert TreeStatus.ROBUST in deep.status
    assert TreeStatus.VULNERABLE in deep.status
    proven = deep.certified
    truth = [
        true_margin(read_trees(model), t - 0.05, t + 0.05, int(c)) for t, c in zip(test, labels, strict=True)
    ]
    assert bool((deep.lower[proven] <= torch.tensor(truth, dtype=torch.float64)[proven]).all())


def test_no_time_is_unknown_with_a_bound_that_holds(monkeypatch):
    x, y = load_wine(return_X_y=True)
    model = RandomForestClassifier(40, random_state=0).fit(x, y)
    test, labels = torch.from_numpy(x[::30]), torch.from_numpy(model.predict(x[::30]))
    width = torch.from_numpy(x.std(0)) * 0.4
    box = RowBox(test - width, test + width)
    monkeypatch.setattr(search, "_MERGE", 0)
    monkeypatch.setattr(search._Work, "dives", lambda self, groups: setattr(self, "dived", True))
    hurried = verify_trees(model, test, labels, box, seconds_per_input=1e-9)
    assert TreeStatus.UNKNOWN in hurried.status
    monkeypatch.undo()
    patient = verify_trees(model, test, labels, box)
    for quick, slow, low, exact in zip(
        hurried.status, patient.status, hurried.lower, patient.lower, strict=True
    ):
        assert quick in (slow, TreeStatus.UNKNOWN)
        if quick is TreeStatus.UNKNOWN and slow is TreeStatus.ROBUST:
            assert float(low) <= float(exact) + 1e-9


def test_random_rows_never_beat_a_proof():
    x, y = load_breast_cancer(return_X_y=True)
    model = GradientBoostingClassifier(n_estimators=30, random_state=0).fit(x[:400], y[:400])
    test, width = torch.from_numpy(x[400:420]), torch.from_numpy(x.std(0)) * 0.1
    labels = torch.from_numpy(model.predict(test.numpy()))
    found = verify_trees(model, test, labels, RowBox(test - width, test + width))
    assert int(found.certified.sum()) >= 5
    draw = np.random.default_rng(0)
    for i in found.certified.nonzero().flatten().tolist():
        u = torch.from_numpy(draw.choice([-1.0, 1.0], size=(300, x.shape[1])))
        assert bool((torch.from_numpy(model.predict((test[i] + u * width).numpy())) == labels[i]).all())


def test_linf_and_the_input_range():
    tree = DecisionTreeClassifier().fit([[0.0, 0.0], [1.0, 0.0]], [0, 1])
    x, y = torch.tensor([[0.45, 0.0], [0.05, 0.0]]), torch.tensor([0, 0])
    found = verify_trees(tree, x, y, hp.Threat(hp.Linf(0.1)))
    assert found.status == (TreeStatus.VULNERABLE, TreeStatus.ROBUST)
    assert bool(hp.Linf(0.1).around(x, read_trees(tree).box).contains(found.witness).all())
    walled = hp.models.SklearnModel(tree, input_range=(0.0, 0.5))
    assert verify_trees(walled, x, y, hp.Linf(0.3)).certified.tolist() == [True, True]


def stump(threshold: float, left: float, right: float, precision=torch.float64) -> TreeEnsemble:
    tree = Tree(
        torch.tensor([0, -1, -1]),
        torch.tensor([threshold, 0.0, 0.0], dtype=torch.float64),
        torch.tensor([1, 1, 2]),
        torch.tensor([2, 1, 2]),
        torch.tensor([[0.0], [left], [right]], dtype=torch.float64),
        torch.zeros(3, dtype=torch.bool),
    )
    return TreeEnsemble([tree], torch.zeros(1, dtype=torch.float64), Link.LOGISTIC, 1, precision)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_comparisons_are_exact_in_the_precision_of_the_ensemble(precision):
    cut = 0.1  # no float32
    trees, y = stump(cut, 1.0, -1.0, precision), torch.tensor([1])
    x = torch.tensor([[0.05]], dtype=torch.float64)
    ends = [cut, np.nextafter(cut, 1), float(np.float32(cut)), cut + 2e-9, cut - 2e-9, cut + 1e-7]
    for end in ends:
        box = RowBox(x, torch.tensor([[end]], dtype=torch.float64))
        falls = int(trees.predict(torch.tensor([[end]], dtype=torch.float64))) != 1
        expected = TreeStatus.VULNERABLE if falls else TreeStatus.ROBUST
        assert verify_trees(trees, x, y, box).status == (expected,)


def test_ties_are_neither_proven_nor_broken():
    # two trees that cancel on the far side: the sums are 0 there, and class 0 wins the tie
    both = [*stump(0.5, -1.0, -0.1).trees, *stump(0.5, -1.0, 0.1).trees]
    tied = TreeEnsemble(both, torch.zeros(1, dtype=torch.float64), Link.LOGISTIC, 1)
    x, y = torch.tensor([[0.4]], dtype=torch.float64), torch.tensor([0])
    assert int(tied.predict(torch.tensor([[0.6]], dtype=torch.float64))) == 0
    found = verify_trees(tied, x, y, hp.Linf(0.2))
    assert found.status == (TreeStatus.UNKNOWN,)
    assert -1e-6 < float(found.lower) < 0


def test_a_margin_within_the_rounding_of_float32_sums_is_not_proven():
    close = stump(0.5, 1.0, 1e-8, torch.float32)
    x, y = torch.tensor([[0.4]]), torch.tensor([1])
    assert verify_trees(close, x, y, hp.Linf(0.2)).status == (TreeStatus.UNKNOWN,)
    assert float(tree_margins(close, x, y, hp.Linf(0.2))) < 0
    assert verify_trees(stump(0.5, 1.0, 1e-8), x, y, hp.Linf(0.2)).certified.item()


def test_an_extreme_start_of_the_sums_costs_what_its_odds_round():
    odd = TreeEnsemble(
        stump(0.5, 1.0, 1e-3).trees,
        torch.tensor([12.0], dtype=torch.float64),
        Link.LOGISTIC,
        1,
        torch.float32,
    )
    calm = TreeEnsemble(
        stump(0.5, 1.0, 1e-3).trees, torch.tensor([0.0], dtype=torch.float64), Link.LOGISTIC, 1, torch.float32
    )
    x, y = torch.tensor([[0.4]]), torch.tensor([1])
    lost = [
        12.0 + 1e-3 - float(tree_margins(odd, x, y, hp.Linf(0.2))),
        1e-3 - float(tree_margins(calm, x, y, hp.Linf(0.2))),
    ]
    assert lost[0] > 0.1 > 1e-4 > lost[1] > 0


def test_table_constraints_are_held_to_by_witnesses():
    draw = np.random.default_rng(0)
    x = np.stack([draw.integers(0, 10, 300), draw.random(300), draw.integers(0, 2, 300)], 1).astype(float)
    y = ((x[:, 0] + 4 * x[:, 1] > 6) ^ (x[:, 2] > 0)).astype(int)
    model = GradientBoostingClassifier(n_estimators=12, max_depth=3, random_state=0).fit(x, y)
    schema = Schema(
        [
            Feature("count", Kind.INTEGER, 0, 10),
            Feature("share", low=0, high=1),
            Feature("flag", Kind.BINARY),
        ],
        ["flag == 0 or share <= 0.9"],
    )
    test = torch.from_numpy(x[(x[:, 2] == 0)][:25])
    labels = torch.from_numpy(model.predict(test.numpy()))
    statuses = set()
    for norm, eps in (("linf", 0.15), ("l2", 0.2), ("l1", 0.2), ("l0", 1.0)):
        edits = FeatureEdits(schema, eps, norm)
        region = edits.around(test, read_trees(model).box)
        found = verify_trees(model, test, labels, edits)
        statuses |= set(found.status)
        assert bool(region.contains(found.witness)[found.broken].all())
        assert bool((torch.from_numpy(model.predict(found.witness.numpy())) != labels)[found.broken].all())
        everything = torch.tensor(
            list(itertools.product(range(11), np.linspace(0, 1, 41), range(2))), dtype=torch.float64
        )
        said = torch.from_numpy(model.predict(everything.numpy()))
        for i in found.certified.nonzero().flatten().tolist():
            own = edits.around(test[i : i + 1].expand(len(everything), -1), read_trees(model).box)
            assert bool((said == labels[i])[own.contains(everything)].all())
    assert statuses >= {TreeStatus.ROBUST, TreeStatus.VULNERABLE}


def test_a_model_that_answers_otherwise_than_its_trees_is_refused():
    class Swapped(DecisionTreeClassifier):
        def predict(self, x):
            return 1 - super().predict(x)

    Swapped.__name__ = "DecisionTreeClassifier"
    with pytest.raises(ModelError, match="otherwise"):
        verify_trees(
            Swapped().fit([[0.0], [1.0]], [0, 1]), torch.tensor([[0.1]]), torch.tensor([1]), hp.Linf(0.01)
        )


def test_clean_errors_are_their_own_witnesses():
    tree = DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1])
    found = verify_trees(tree, torch.tensor([[0.1]]), torch.tensor([1]), hp.Linf(0.01))
    assert found.status == (TreeStatus.VULNERABLE,)
    assert torch.equal(found.witness, torch.tensor([[0.1]]))


def test_labels_are_positions_in_the_classes():
    tree = DecisionTreeClassifier().fit([[0.0], [1.0]], ["bad", "good"])
    found = verify_trees(tree, torch.tensor([[0.1], [0.45]]), torch.tensor([0, 0]), hp.Linf(0.1))
    assert found.status == (TreeStatus.ROBUST, TreeStatus.VULNERABLE)


def test_a_constant_model_is_robust_to_everything():
    x, y = torch.tensor([[0.3]], dtype=torch.float64), torch.tensor([1])
    everywhere = RowBox(torch.full((1,), -torch.inf), torch.full((1,), torch.inf))
    assert verify_trees(stump(0.5, 1.0, 1.0), x, y, everywhere).certified.item()
    assert float(tree_margins(stump(0.5, 1.0, 1.0), x, y, everywhere)) == pytest.approx(1.0)


def test_bad_input_is_told():
    tree = DecisionTreeClassifier().fit([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    x, y = torch.rand(2, 2), torch.tensor([0, 1])
    holed = torch.tensor([[0.1, torch.nan], [0.1, 0.2]])
    endless = torch.tensor([[0.1, torch.inf], [0.1, 0.2]])
    for ask in (verify_trees, tree_margins):
        for bad in (holed, endless, torch.rand(2, 3), x.long(), x[0], x.numpy()):
            with pytest.raises(DataError):
                ask(tree, bad, y, hp.Linf(0.1))
        for labels in (y[:1], y + 1, y.float(), y - 1):
            with pytest.raises(DataError):
                ask(tree, x, labels, hp.Linf(0.1))
        for threat in (hp.L2(0.1), hp.L0(1)):
            with pytest.raises(ThreatError):
                ask(tree, x, y, threat)
        for box in (RowBox(torch.zeros(3), torch.ones(3)), RowBox(torch.zeros(3, 2), torch.ones(3, 2))):
            with pytest.raises(DataError):
                ask(tree, x, y, box)
        with pytest.raises(DataError, match="row 0"):
            ask(tree, x, y, RowBox(x + 1, x + 2))
        with pytest.raises(ModelError):
            ask(LogisticRegression().fit([[0.0, 0], [1, 1]], [0, 1]), x, y, hp.Linf(0.1))
        assert (
            len(
                ask(tree, x[:0], y[:0], hp.Linf(0.1)).lower
                if ask is verify_trees
                else ask(tree, x[:0], y[:0], hp.Linf(0.1))
            )
            == 0
        )
    with pytest.raises(ThreatError, match="goal"):
        verify_trees(tree, x, y, hp.Threat(hp.Linf(0.1), goal=hp.Targeted(1)))
    for seconds in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError):
            verify_trees(tree, x, y, hp.Linf(0.1), seconds_per_input=seconds)
    for settings in ({"size": 1}, {"levels": -1}):
        with pytest.raises(ConfigError):
            tree_margins(tree, x, y, hp.Linf(0.1), **settings)
    for low, high in (
        (torch.ones(2), torch.zeros(2)),
        (torch.full((2,), torch.nan), torch.ones(2)),
        (torch.zeros(2), torch.ones(3)),
    ):
        with pytest.raises(HardpointError):
            RowBox(low, high)
    with pytest.raises(ModelError, match="minus infinity"):
        verify_trees(stump(-torch.inf, 1.0, 2.0), torch.zeros(1, 1), torch.tensor([1]), hp.Linf(0.1))

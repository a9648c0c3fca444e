"""The gate: which columns are out of reach, thresholds by brute force, and a proof that no row refutes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier
from sklearn.tree import DecisionTreeClassifier

from hardpoint import Threat
from hardpoint.attacks import CoordinateAttack
from hardpoint.core.errors import ConfigError, ModelError, ThreatError
from hardpoint.core.rng import Rng
from hardpoint.harden.tables import GatedClassifier, fixed_features, harden_estimator
from hardpoint.harden.tables.gate import thresholds
from hardpoint.models.sklearn import SklearnModel
from hardpoint.models.trees import read_trees
from hardpoint.threats.features import Feature, FeatureEdits, Kind, Mutability, Schema

HOME = [Feature(name, Kind.ONE_HOT, group="home", cost=c) for name, c in (("a", 1.0), ("b", 1.0), ("c", 3.0))]
MIXED = Schema(
    [
        Feature("flag", Kind.BINARY),
        Feature("count", Kind.INTEGER, 0, 4),
        Feature("grade", Kind.ORDINAL, levels=(0.0, 1.0, 10.0)),
        Feature("size"),
        Feature("born", mutable=Mutability.NO),
        Feature("own", high="dynamic"),
        *HOME,
    ]
)


@pytest.mark.parametrize(
    ("norm", "eps", "names"),
    [
        ("l2", 0.05, {"flag", "count", "grade", "born", "a", "b", "c"}),
        ("linf", 0.1, {"flag", "count", "born", "a", "b", "c"}),
        ("l1", 0.25, {"flag", "born", "a", "b", "c"}),
        ("l2", 1.0, {"born", "c"}),
        ("l2", np.inf, {"born"}),
        ("l0", 1, {"born"}),
        ("l0", 0, set(MIXED.names)),
    ],
)
def test_what_is_out_of_reach(norm, eps, names):
    edits = FeatureEdits(MIXED, eps, norm)
    assert {MIXED.names[i] for i in fixed_features(edits)} == names
    x = torch.tensor([[0, 2, 1, 0.5, 0.3, 0.2, 1, 0, 0], [1, 0, 10, 0.1, 0.9, 0.0, 0, 0, 1]])
    region = edits.around(x, SklearnModel(DecisionTreeClassifier().fit(x, [0, 1])).box)
    for turn in range(60):
        z = region.sample(Rng(0), torch.arange(2), turn)
        assert (z == x)[:, list(fixed_features(edits))].all()


@pytest.mark.parametrize("seed", range(6))
def test_thresholds_are_within_the_loss_and_nearly_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    n = 60
    sure, said = rng.integers(5, 11, n) / 10, rng.integers(0, 2, n)
    anchor, rest = rng.uniform(size=n) < sure, rng.uniform(size=n) < 0.9
    allowed = 0.05
    found = thresholds(sure, said, anchor, rest, 2, allowed)

    def judged(level: np.ndarray) -> tuple[float, float]:
        decided = sure >= level[said]
        return rest.mean() - np.where(decided, anchor, rest).mean(), (decided & anchor).sum()

    lost, gained = judged(found)
    assert lost <= allowed + 1e-9
    levels = [*np.unique(sure), np.inf]
    best = max(
        g
        for pair in itertools.product(levels, levels)
        for loss, g in [judged(np.array(pair))]
        if loss <= allowed
    )
    assert gained >= 0.85 * best


@pytest.fixture(scope="module")
def table():
    """The flag settles three rows in four, the rest of the table the others."""
    rng = np.random.default_rng(0)
    n = 600
    flag, easy = rng.integers(0, 2, n), rng.uniform(size=n) < 0.75
    y = np.where(easy, flag, rng.integers(0, 2, n))
    size = np.clip(0.5 + (y - 0.5) * 0.4 + rng.normal(0, 0.1, n), 0, 1)
    x = np.stack([flag, easy, size], 1).astype(np.float32)
    schema = Schema([Feature("flag", Kind.BINARY), Feature("easy", Kind.BINARY), Feature("size")])
    return torch.from_numpy(x), torch.from_numpy(y), FeatureEdits(schema, 0.5, "l2")


def test_no_change_of_what_can_be_changed_moves_a_certified_answer(table):
    x, y, edits = table
    model = GatedClassifier(
        HistGradientBoostingClassifier(max_iter=20, random_state=0), fixed_features(edits), most_lost=0.02
    ).fit(x.numpy(), y.numpy())
    proven = model.certified(x.numpy())
    assert 0.6 < proven.mean() < 0.95
    said = model.predict(x.numpy())
    for value in np.linspace(0, 1, 23):
        moved = x.numpy().copy()
        moved[:, 2] = value
        assert (model.predict(moved)[proven] == said[proven]).all()
        assert (model.certified(moved) == proven).all()
    attack = CoordinateAttack(read_trees(model.searchable))
    found = attack(SklearnModel(model), x[:80], y[:80], Threat(edits, access="scores"))
    fell = found.broken.numpy() & (said == y.numpy())[:80]
    assert fell.any()
    assert not (fell & proven[:80]).any()


def test_it_is_an_estimator(table):
    x, y, edits = table
    model = GatedClassifier(DecisionTreeClassifier(max_depth=3), fixed_features(edits), folds=3)
    again = clone(model).set_params(most_lost=0.05)
    assert (again.folds, again.most_lost, model.most_lost) == (3, 0.05, 0.01)
    again.fit(x.numpy(), y.numpy())
    shares = again.predict_proba(x.numpy())
    assert np.allclose(shares.sum(1), 1)
    assert (again.classes_[shares.argmax(1)] == again.predict(x.numpy())).all()
    assert torch.equal(SklearnModel(again).predict(x), torch.from_numpy(again.predict(x.numpy())))
    with pytest.raises(ModelError, match="no setting"):
        model.set_params(depth=3)


def test_hardening_with_a_gate(table):
    x, y, edits = table
    done = harden_estimator(
        HistGradientBoostingClassifier(max_iter=20, random_state=0),
        *(x[:400], y[:400]),
        threat=edits,
        rounds=1,
        asks=5,
        gate=0.02,
        test=(x[400:470], y[400:470]),
        progress=False,
    )
    assert isinstance(done.model, GatedClassifier)
    assert done.certified.value > 0.5
    assert done.after.robust_accuracy.value >= done.certified.value
    assert done.after.robust_accuracy.value > done.before.robust_accuracy.value + 0.3
    assert done.after.clean_accuracy.value > done.before.clean_accuracy.value - 0.1


def test_what_a_better_estimator_gains_elsewhere_is_spent_on_proofs(table):
    """A stump is right on fewer rows than boosting, so with boosting elsewhere the anchor may answer more."""
    x, y, edits = table
    stump, boosted = DecisionTreeClassifier(max_depth=1), HistGradientBoostingClassifier(max_iter=20)
    fixed = fixed_features(edits)
    alone = GatedClassifier(boosted, fixed, most_lost=0.0).fit(x.numpy(), y.numpy())
    anchored = GatedClassifier(stump, fixed, most_lost=0.0, rest=boosted).fit(x.numpy(), y.numpy())
    assert clone(anchored).rest is not boosted
    assert isinstance(anchored.searchable, HistGradientBoostingClassifier)
    assert isinstance(anchored.anchor_.estimator, DecisionTreeClassifier)
    assert np.array_equal(alone.rest_.predict(x), anchored.rest_.predict(x))
    plain = GatedClassifier(stump, fixed, most_lost=0.0).fit(x.numpy(), y.numpy())
    assert anchored.certified(x.numpy()).sum() >= plain.certified(x.numpy()).sum()
    right = (anchored.predict(x.numpy()) == y.numpy()).mean()
    assert right >= (stump.fit(x.numpy(), y.numpy()).predict(x.numpy()) == y.numpy()).mean() - 0.02
    said, proven = anchored.predict(x.numpy()), anchored.certified(x.numpy())
    for value in np.linspace(0, 1, 9):
        moved = x.numpy().copy()
        moved[:, 2] = value
        assert (anchored.predict(moved)[proven] == said[proven]).all()


def test_what_is_gained_elsewhere_is_allowed_to_be_lost(table):
    x, y, edits = table
    stump, boosted = DecisionTreeClassifier(max_depth=1), HistGradientBoostingClassifier(max_iter=20)

    class Open(GatedClassifier):
        def _cross_fitted(self, *given):
            self.known = super()._cross_fitted(*given)
            return self.known

    model = Open(stump, fixed_features(edits), most_lost=0.01, rest=boosted).fit(x.numpy(), y.numpy())
    sure, (anchor, rest, own), said = model.known
    gained = rest.mean() - own.mean()
    assert gained > 0.005
    assert np.array_equal(model.enough_, thresholds(sure, said, anchor, rest, 2, 0.01 + gained))
    assert (model.enough_ <= thresholds(sure, said, anchor, rest, 2, 0.01)).all()
    assert (model.enough_ < thresholds(sure, said, anchor, rest, 2, 0.01)).any()


def test_an_estimator_elsewhere_that_cannot_stand_in_is_refused(table):
    x, y, edits = table
    fixed, tree = fixed_features(edits), DecisionTreeClassifier(max_depth=3)
    with pytest.raises(ModelError, match="less accurate than the estimator"):
        GatedClassifier(tree, fixed, rest=DummyClassifier()).fit(x.numpy(), y.numpy())
    hard = VotingClassifier([("a", DecisionTreeClassifier()), ("b", DecisionTreeClassifier())], voting="hard")
    with pytest.raises(ModelError, match="rest cannot stand in"):
        harden_estimator(tree, x, y, threat=edits, gate=0.01, rest=hard, progress=False)
    tied = HistGradientBoostingClassifier(monotonic_cst=[0, 1])
    with pytest.raises(ModelError, match="rest cannot stand in"):
        harden_estimator(tree, x, y, threat=edits, gate=0.01, rest=tied, progress=False)


def test_an_estimator_elsewhere_needs_a_gate_and_has_to_be_one(table):
    x, y, edits = table
    tree = DecisionTreeClassifier()
    with pytest.raises(ConfigError, match="without a gate"):
        harden_estimator(tree, x, y, threat=edits, rest=tree, progress=False)
    with pytest.raises(ModelError, match="cannot be fitted"):
        harden_estimator(tree, x, y, threat=edits, gate=0.01, rest="a forest", progress=False)


def test_what_makes_no_sense_is_refused(table):
    x, y, _ = table
    tree = DecisionTreeClassifier()
    with pytest.raises(ThreatError, match="every feature"):
        GatedClassifier(tree, ()).fit(x.numpy(), y.numpy())
    for wrong in ({"folds": 1}, {"most_lost": 1.0}):
        with pytest.raises(ModelError, match="GatedClassifier"):
            GatedClassifier(tree, (0,), **wrong).fit(x.numpy(), y.numpy())


def test_what_a_gate_cannot_be_fitted_on_is_said() -> None:
    from sklearn.tree import DecisionTreeClassifier

    x, y = np.random.default_rng(0).random((40, 3)), np.arange(40) % 2
    tied = DecisionTreeClassifier(monotonic_cst=[0, 1, 0])
    with pytest.raises(ModelError, match="fixed columns alone"):
        GatedClassifier(tied, fixed=(0,)).fit(x, y)
    with pytest.raises(ModelError, match="number the classes"):
        GatedClassifier(DecisionTreeClassifier(), fixed=(0,)).fit(x, 2 * y)
    with pytest.raises(ModelError, match="columns are"):
        GatedClassifier(DecisionTreeClassifier(), fixed=(7,)).fit(x, y)
    with pytest.raises(ModelError, match="not fitted"):
        GatedClassifier(DecisionTreeClassifier(), fixed=(0,)).predict(x)
    with pytest.raises(ModelError, match="rows of shape"):
        GatedClassifier(DecisionTreeClassifier(), fixed=(0,)).fit(x, y).predict(x[0])

"""Refitting on constrained examples: every one is valid, the kept round holds better, and nothing else changes."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

import hardpoint as hp
from hardpoint.assess.groups import by_group
from hardpoint.attacks import MOEVA
from hardpoint.core.errors import ConfigError, DataError, ModelError, ThreatError
from hardpoint.core.rng import Rng
from hardpoint.evidence.rate import Rate
from hardpoint.harden.tables import harden_estimator, worst_rows
from hardpoint.harden.tables.examples import Examples
from hardpoint.harden.tables.fitting import fitted
from hardpoint.harden.tables.result import Round, best_round
from hardpoint.models.sklearn import SklearnModel
from hardpoint.threats.features import Feature, FeatureEdits, Kind, Mutability, Schema

SCHEMA = Schema(
    [
        Feature("age", Kind.INTEGER, 18, 90, Mutability.NO),
        Feature("owed", Kind.INTEGER, 0, 60),
        Feature("paid", Kind.INTEGER, 0, 60, cost=2.0),
        Feature("late", Kind.INTEGER, 0, 8, Mutability.INCREASE),
        Feature("own", Kind.ONE_HOT, group="home"),
        Feature("rent", Kind.ONE_HOT, group="home"),
        Feature("ratio", Kind.REAL, 0, 1),
        Feature("grade", Kind.ORDINAL, levels=(1, 2, 4)),
    ],
    ["paid <= owed", "late > 3 implies ratio > 0.2"],
)
EDITS = FeatureEdits(SCHEMA, 0.3, "l2")


def rows(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Age says much and cannot be changed; the ratio says more, and can."""
    rng = np.random.default_rng(seed)
    age, owed, own = rng.integers(18, 91, n), rng.integers(0, 61, n), rng.integers(0, 2, n)
    y = (age + rng.normal(0, 12, n) > 54).astype(np.int64)
    ratio = np.clip(0.5 + (y - 0.5) * 0.24 + rng.normal(0, 0.05, n), 0, 1)
    late, grade = rng.integers(0, 9, n), rng.choice([1, 2, 4], n)
    late = np.where(ratio > 0.25, late, np.minimum(late, 3))
    paid = (owed * rng.uniform(0, 1, n)).astype(int)
    x = np.stack([age, owed, paid, late, own, 1 - own, ratio, grade], 1).astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy(y)


@pytest.fixture(scope="module")
def loans():
    x, y = rows(400, 0)
    assert SCHEMA.check(x).all()
    return x, y, *rows(70, 1)


@pytest.fixture(scope="module")
def boosted(loans):
    x, y, x_test, y_test = loans
    estimator = HistGradientBoostingClassifier(max_iter=10, random_state=0)
    done = harden_estimator(
        estimator, x, y, threat=EDITS, rounds=2, most_lost=0.2, test=(x_test, y_test), progress=False
    )
    return estimator, done


@pytest.mark.parametrize(
    ("norm", "eps"), [("l2", 0.3), ("linf", 0.1), ("l1", 0.5), ("l0", 2), ("l2", np.inf)]
)
@pytest.mark.parametrize("limit", [None, 2])
def test_every_row_found_is_allowed_and_none_is_easier(loans, norm, eps, limit):
    x, y, *_ = loans
    x, y = x[:80], y[:80]
    model = fitted(DecisionTreeClassifier(max_depth=5, random_state=0), *loans[:2])
    edits = FeatureEdits(SCHEMA, eps, norm, limit)
    z, lead = worst_rows(model, x, y, edits, loans[0], asks=10, rng=Rng(0))
    assert edits.around(x, model.box).contains(z).all()
    assert (z[:, 0] == x[:, 0]).all()
    assert (z[:, 3] >= x[:, 3]).all()
    right = model.predict(x) == y
    assert ((lead >= 0) | (model.predict(z) == y)).all()
    assert (model.predict(z)[right] != y[right]).any()


def test_a_row_is_searched_alike_in_any_company(loans, monkeypatch):
    x, y, *_ = loans
    model = fitted(RandomForestClassifier(5, max_depth=4, random_state=0), x, y)
    whole = worst_rows(model, x[:50], y[:50], EDITS, x, asks=5, rng=Rng(3))
    monkeypatch.setattr(sys.modules["hardpoint.harden.tables.mixing"], "_AT_ONCE", 7)
    parts = worst_rows(model, x[:50], y[:50], EDITS, x, asks=5, rng=Rng(3))
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


def test_what_is_not_valid_stays(loans):
    x, y, *_ = loans
    broken = x[:4].clone()
    broken[:, 2] = broken[:, 1] + 1
    model = fitted(DecisionTreeClassifier(max_depth=5, random_state=0), x, y)
    z, _ = worst_rows(model, broken, y[:4], EDITS, x, asks=5, rng=Rng(0))
    assert torch.equal(z, broken)


def test_hardening_helps_and_says_so(boosted, loans):
    estimator, done = boosted
    assert not hasattr(estimator, "classes_")  # the one given is as it was
    assert len(done.history) == 3
    assert done.kept in done.history
    assert done.kept.number > 0
    assert all(known.refused == 0 for known in done.history)
    assert done.history[-1].examples > 400
    assert done.after.robust_accuracy.value > done.before.robust_accuracy.value + 0.2
    assert done.after.success < done.before.success
    assert "robust accuracy" in repr(done)
    x_test, y_test = loans[2:]
    fell = torch.from_numpy(done.after.outcomes.status == 1)
    assert SCHEMA.check(done.after.adversarial).all()
    assert (SklearnModel(done.model).predict(done.after.adversarial)[fell] != y_test[fell]).all()
    assert (EDITS.around(x_test, SklearnModel(done.model).box).distance(done.after.adversarial) <= 0.3).all()
    table = by_group(done.after, {"home": x_test[:, 4]})
    assert len(table.of("home")) == 2


def test_the_same_twice(boosted, loans):
    x, y, *_ = loans
    again = harden_estimator(
        HistGradientBoostingClassifier(max_iter=10, random_state=0),
        *(x, y),
        threat=EDITS,
        rounds=2,
        most_lost=0.2,
        progress=False,
    )
    for one, other in zip(again.history, boosted[1].history, strict=True):
        assert (one.examples, one.fallen, one.clean, one.robust) == (
            *(other.examples, other.fallen, other.clean, other.robust),
        )
    assert np.array_equal(again.model.predict_proba(x.numpy()), boosted[1].model.predict_proba(x.numpy()))


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        KNeighborsClassifier(),  # takes no weights
        LinearSVC(),  # gives no probabilities
        RandomForestClassifier(5, max_depth=4, random_state=0),
    ],
    ids=lambda e: type(e).__name__,
)
def test_other_estimators(estimator, loans):
    x, y, *_ = loans
    done = harden_estimator(
        estimator, x[:200], y[:200], threat=EDITS, rounds=1, asks=5, validation=0.1, progress=False
    )
    assert len(done.history) == 2
    assert done.model.predict(x[:3].numpy()).shape == (3,)
    assert (done.before, done.after) == (None, None)


def test_one_that_is_fitted_is_what_comes_before(loans):
    x, y, x_test, y_test = loans
    poor = DecisionTreeClassifier(max_depth=1).fit(x.numpy(), y.numpy())
    done = harden_estimator(
        SklearnModel(poor), x, y, threat=EDITS, rounds=0, test=(x_test, y_test), progress=False
    )
    assert done.before.clean_accuracy.count == int((poor.predict(x_test.numpy()) == y_test.numpy()).sum())
    assert done.kept.examples == 0


def test_a_further_attack_and_a_budget(loans):
    x, y, *_ = loans
    tree = DecisionTreeClassifier(max_depth=4, random_state=0)
    settings = {"threat": EDITS, "rounds": 1, "asks": 2, "progress": False}
    without = harden_estimator(tree, x, y, **settings)
    attack = MOEVA(generations=3)
    more = harden_estimator(tree, x, y, attack=attack, attacked=40, **settings)
    assert without.history[1].examples < more.history[1].examples <= without.history[1].examples + 40
    none = harden_estimator(tree, x, y, budget=hp.Budget(seconds=1e-9), **settings)
    assert len(none.history) == 1
    fewer = harden_estimator(tree, x, y, budget=hp.Budget(queries=1), **settings)
    assert fewer.history[1].fallen <= without.history[1].fallen


def test_only_one_class_evades(loans):
    x, y, x_test, y_test = loans
    tree = DecisionTreeClassifier(max_depth=4, random_state=0)
    done = harden_estimator(
        tree, x, y, threat=EDITS, rounds=1, asks=5, evading=1, test=(x_test, y_test), progress=False
    )
    assert 0 < done.history[1].examples <= int((y == 1).sum())
    for measured in (done.before, done.after):
        assert (y_test.numpy()[measured.outcomes.status == 1] == 1).all()
    assert done.before.success > 0
    with pytest.raises(DataError, match="that evades"):
        harden_estimator(tree, x, y, threat=EDITS, evading=2, progress=False)


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 1, 1]])
def test_examples_leave_each_class_its_weight(labels):
    seen = []

    class Told(DecisionTreeClassifier):
        def fit(self, x, y, sample_weight=None):
            seen.append([float(sample_weight[y == label].sum()) for label in (0, 1)])
            return super().fit(x, y, sample_weight)

    x, y = torch.arange(8.0).unsqueeze(1), torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])
    some = Examples.none(x).and_those(x[:3], torch.tensor(labels), torch.arange(3), torch.ones(3).bool())
    some.learned(Told(), x, y, weight=0.5)
    assert seen == [pytest.approx([9.0, 3.0])]


def test_the_choice_of_a_round():
    def known(number: int, clean: int, robust: int) -> Round:
        return Round(number, 0, 0, 0.0, Rate.of(clean, 100), Rate.of(robust, 100), 0.0)

    history = (known(0, 90, 10), known(1, 88, 40), known(2, 85, 60), known(3, 89, 40))
    assert best_round(history, 0.02).number == 3
    assert best_round(history, 0.05).number == 2
    assert best_round(history, 0.0).number == 0


def test_weights_of_rows_that_an_estimator_does_not_take(loans):
    x, y, *_ = loans
    weight = torch.cat([torch.ones(50), torch.full((100,), 0.25)])
    neighbours = fitted(KNeighborsClassifier(), x[:150], y[:150], weight)
    assert neighbours.estimator.n_samples_fit_ == 75


def test_what_cannot_be_done_is_refused(loans):
    x, y, *_ = loans
    tree = DecisionTreeClassifier()
    for threat in (hp.Linf(0.1), hp.Threat(EDITS, goal=hp.Targeted(1)), FeatureEdits(SCHEMA, 0.0)):
        with pytest.raises(ThreatError):
            harden_estimator(tree, x, y, threat=threat, progress=False)
    for wrong in ({"rounds": -1}, {"asks": 0}, {"weight": 0.0}, {"validation": 0.0}, {"most_lost": 1.0}):
        with pytest.raises(ConfigError):
            harden_estimator(tree, x, y, threat=EDITS, progress=False, **wrong)
    with pytest.raises(ModelError, match="hp.harden"):
        harden_estimator(torch.nn.Linear(8, 2), x, y, threat=EDITS, progress=False)
    with pytest.raises(DataError, match="no row is valid"):
        harden_estimator(tree, x + 0.5, y, threat=EDITS, progress=False)
    with pytest.raises(DataError, match="rows of a table"):
        harden_estimator(tree, x.unsqueeze(1), y, threat=EDITS, progress=False)


def test_the_rows_to_assess_on_are_not_those_to_learn_from() -> None:
    from sklearn.tree import DecisionTreeClassifier

    x = torch.rand(60, 2, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0.5).long()
    edits = FeatureEdits(Schema([Feature("a"), Feature("b")]), eps=0.1)
    with pytest.raises(DataError, match="are among those"):
        harden_estimator(DecisionTreeClassifier(), x, y, threat=edits, rounds=0, test=(x, y), progress=False)

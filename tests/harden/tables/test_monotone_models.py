"""Monotone constraints: the right setting for each library, and a guarantee that a grid cannot refute."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

from hardpoint.core.errors import ModelError, ThreatError
from hardpoint.harden.tables import check_monotone, monotone_constraints
from hardpoint.harden.tables.monotone import _combinations
from hardpoint.threats.features import Feature, Kind, Mutability, Schema

NAMES = ("words", "links", "age")


@pytest.fixture(scope="module")
def mails():
    """Spam has few good words, but very many too: an unconstrained model learns that the wrong way round."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (600, 3)).astype(np.float32)
    noise = rng.normal(0, 0.25, 600)
    return x, (x[:, 1] + np.cos(6 * x[:, 0]) + noise > 0.5).astype(int)


def test_directions_come_from_the_schema_or_from_names():
    schema = Schema(
        [
            Feature("words", mutable=Mutability.INCREASE),
            Feature("links", mutable=Mutability.DECREASE),
            Feature("age", mutable=Mutability.NO),
        ]
    )
    rules = monotone_constraints(schema)
    assert (rules.signs, rules.guarded, rules.is_complete) == ((1, -1, 0), ("words", "links"), True)
    assert rules.signs == monotone_constraints(NAMES, increase=["words"], decrease=["links"]).signs
    half = monotone_constraints(Schema([*schema.features, Feature("tone")]))
    assert half.free == ("tone",)
    assert not half.is_complete
    assert monotone_constraints(Schema([*schema.features, Feature("tone")]), increase=["tone"]).is_complete


def test_each_library_gets_its_own_setting():
    rules = monotone_constraints(NAMES, increase=["words"], decrease=["age"])
    assert rules.settings(HistGradientBoostingClassifier()) == {"monotonic_cst": [1, 0, -1]}
    assert rules.applied(RandomForestClassifier(7)).get_params()["n_estimators"] == 7
    other = monotone_constraints(NAMES, increase=["words"], decrease=["age"], positive=0)
    assert other.settings(DecisionTreeClassifier()) == {"monotonic_cst": [-1, 0, 1]}

    def of(library: str) -> object:
        return type("Classifier", (), {"__module__": f"{library}.sklearn"})()

    assert rules.settings(of("lightgbm")) == {"monotone_constraints": [1, 0, -1]}
    assert rules.settings(of("xgboost")) == {"monotone_constraints": (1, 0, -1)}
    for wrong in (LogisticRegression(), make_pipeline(HistGradientBoostingClassifier())):
        with pytest.raises(ModelError, match="monotone"):
            rules.settings(wrong)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_other_libraries_keep_the_guarantee(library, mails):
    boosting = pytest.importorskip(library)
    quiet = {"verbose": -1} if library == "lightgbm" else {}
    kind = boosting.LGBMClassifier if library == "lightgbm" else boosting.XGBClassifier
    x, y = mails
    rules = monotone_constraints(NAMES, increase=["words"])
    model = rules.applied(kind(n_estimators=30, n_jobs=1, **quiet)).fit(x, y)
    assert check_monotone(model, x[:100], rules).holds
    assert not check_monotone(kind(n_estimators=30, n_jobs=1, **quiet).fit(x, y), x[:100], rules).holds


@pytest.mark.parametrize(
    "estimator",
    [
        HistGradientBoostingClassifier(max_iter=30, random_state=0),
        RandomForestClassifier(10, max_depth=5, random_state=0),
        DecisionTreeClassifier(max_depth=5, random_state=0),
    ],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.parametrize("positive", [0, 1])
def test_a_grid_refutes_plain_models_and_no_constrained_one(estimator, positive, mails):
    x, y = mails
    rules = monotone_constraints(NAMES, increase=["words"], decrease=["links"], positive=positive)
    held = check_monotone(rules.applied(estimator).fit(x, y), x[:80], rules)
    assert held.holds
    assert (held.asked, held.deepest) == (80 * 25, pytest.approx(0, abs=1e-9))
    plain = check_monotone(estimator.fit(x, y), x[:80], rules)
    assert len(plain.fallen) > 0
    assert len(plain.hidden) > 0
    assert plain.deepest > 0


def test_the_grid_reaches_the_ends_that_the_schema_gives():
    # positive below 0.5, and positive again far outside what the rows show
    step = DecisionTreeClassifier().fit([[0.0], [1.0], [9.0]], [1, 1, 0])
    rules = monotone_constraints(["a"], increase=["a"])
    assert check_monotone(step, torch.tensor([[0.2], [1.0]]), rules).holds
    wide = Schema([Feature("a", Kind.REAL, 0, 10, Mutability.INCREASE)])
    assert check_monotone(step, torch.tensor([[0.2], [1.0]]), rules, wide).hidden.tolist() == [0, 1]


def test_combinations_begin_at_the_row_itself():
    assert _combinations(2, 3, 100).tolist()[:2] == [[0, 0], [0, 0.5]]
    few = _combinations(30, 3, 100)
    assert len(few) == 30 * 3 + 3
    assert few[0].tolist() == [0.0] * 30
    assert few[-1].tolist() == [1.0] * 30


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ThreatError, match="no column 'word'"):
        monotone_constraints(NAMES, increase=["word"])
    with pytest.raises(ThreatError, match="both"):
        monotone_constraints(NAMES, increase=["words"], decrease=["words"])
    with pytest.raises(ThreatError, match="positive class is 2"):
        monotone_constraints(NAMES, increase=["words"], positive=2)
    with pytest.raises(ThreatError, match="no column can only"):
        monotone_constraints(Schema([Feature("a")]))
    three = DecisionTreeClassifier().fit([[0.0], [1.0], [2.0]], [0, 1, 2])
    with pytest.raises(ModelError, match="two classes"):
        check_monotone(three, [[0.0]], monotone_constraints(["a"], increase=["a"]))

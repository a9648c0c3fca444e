"""Flat trees answer what their library answers, on both sides of every threshold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier

from hardpoint.core.box import Box
from hardpoint.core.errors import DataError, ModelError
from hardpoint.models import SklearnModel, load_model
from hardpoint.models.trees import TreeEnsemble, read_trees

DATA = {"two": load_breast_cancer(return_X_y=True), "three": load_wine(return_X_y=True)}
MODELS = {
    "tree": lambda: DecisionTreeClassifier(random_state=0),
    "random tree": lambda: ExtraTreeClassifier(random_state=0),
    "forest": lambda: RandomForestClassifier(8, random_state=0),
    "extra trees": lambda: ExtraTreesClassifier(8, random_state=0),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=8, random_state=0),
    "boosting from zero": lambda: GradientBoostingClassifier(n_estimators=4, init="zero", random_state=0),
    "histogram boosting": lambda: HistGradientBoostingClassifier(max_iter=8, random_state=0),
}


def at_thresholds(ensemble: TreeEnsemble, x: np.ndarray, dtype) -> np.ndarray:
    """Rows of which some values lie on a threshold, or on the next number of either precision beside it."""
    draw = np.random.default_rng(0)
    leaves = ensemble.leaves
    cut = np.isfinite(leaves.high.numpy())
    feature, high = leaves.feature.numpy()[cut], leaves.high.numpy()[cut]
    rows = x[draw.integers(len(x), size=400)].copy()
    for row in rows:
        for k in draw.integers(len(high), size=4):
            near = np.float32(high[k])
            beside = [high[k], np.nextafter(high[k], np.inf), near, np.nextafter(near, np.float32(np.inf))]
            beside += [np.nextafter(near, np.float32(-np.inf)), (float(near) + float(beside[3])) / 2]
            row[feature[k]] = beside[draw.integers(len(beside))]
    return rows.astype(dtype)


def agree(model, ensemble: TreeEnsemble, rows: np.ndarray, tolerance: float = 1e-12) -> None:
    expected = model.predict_proba(rows)
    assert np.abs(ensemble.probabilities(torch.from_numpy(rows)).numpy() - expected).max() <= tolerance
    # where the two best classes tie, the library's label depends on how its own sums round
    top = np.sort(expected, axis=1)
    clear = top[:, -1] - top[:, -2] > 10 * tolerance
    labels = model.classes_[ensemble.predict(torch.from_numpy(rows)).numpy()]
    assert (labels == model.predict(rows))[clear].all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", MODELS)
def test_scikit_learn(name, data, dtype):
    x, y = DATA[data]
    model = MODELS[name]().fit(x, y)
    ensemble = read_trees(model)
    agree(model, ensemble, at_thresholds(ensemble, x, dtype))


def test_exponential_loss_and_classes_with_names():
    x, y = DATA["two"]
    model = GradientBoostingClassifier(loss="exponential", n_estimators=6).fit(x, np.where(y, "good", "bad"))
    ensemble = read_trees(model)
    agree(model, ensemble, at_thresholds(ensemble, x, np.float64))


@pytest.mark.parametrize("name", ["tree", "forest", "histogram boosting"])
def test_missing_values_go_where_the_library_sends_them(name):
    x, y = DATA["two"]
    x = x.copy()
    x[::3, ::2] = np.nan
    model = MODELS[name]().fit(x, y)
    agree(model, read_trees(model), x)


@pytest.mark.parametrize("data", DATA)
def test_lightgbm(data):
    lightgbm = pytest.importorskip("lightgbm")
    x, y = DATA[data]
    bagged = {"boosting_type": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}
    for settings in ({}, bagged, {"sigmoid": 2.0}):
        model = lightgbm.LGBMClassifier(n_estimators=8, verbose=-1, n_jobs=1, **settings).fit(x, y)
        for ensemble in (read_trees(model), read_trees(model.booster_)):
            agree(model, ensemble, at_thresholds(ensemble, x, np.float64), 1e-9)
    holed = x.copy()
    holed[::3, ::2] = np.nan
    model = lightgbm.LGBMClassifier(n_estimators=8, verbose=-1, n_jobs=1).fit(holed, y)
    agree(model, read_trees(model), holed, 1e-9)
    coarse = x.round()
    model = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1, n_jobs=1)
    model.fit(coarse, y, categorical_feature=list(range(x.shape[1])))
    with pytest.raises(ModelError, match="by category"):
        read_trees(model)


@pytest.mark.parametrize("data", DATA)
def test_xgboost(data):
    xgboost = pytest.importorskip("xgboost")
    x, y = DATA[data]
    for kind in (xgboost.XGBClassifier, xgboost.XGBRFClassifier):
        model = kind(n_estimators=8, n_jobs=1).fit(x, y)
        for ensemble in (read_trees(model), read_trees(model.get_booster())):
            for dtype in (np.float32, np.float64):
                agree(model, ensemble, at_thresholds(ensemble, x, dtype), 1e-6)
    early = xgboost.XGBClassifier(n_estimators=60, early_stopping_rounds=2, learning_rate=1.0, n_jobs=1)
    early.fit(x[::2], y[::2], eval_set=[(x[1::2], y[1::2])], verbose=False)
    agree(early, read_trees(early), x, 1e-6)
    with pytest.raises(ModelError, match="dart"):
        read_trees(xgboost.XGBClassifier(n_estimators=2, booster="dart", n_jobs=1).fit(x, y))


def test_every_leaf_is_its_box():
    x, y = DATA["two"]
    ensemble = read_trees(RandomForestClassifier(4, random_state=0).fit(x, y))
    rows = torch.tensor(x[:50])
    leaves, values = ensemble.leaves, ensemble.rounded(rows)
    held = (values[:, leaves.feature] > leaves.low) & (values[:, leaves.feature] <= leaves.high)
    missed = torch.zeros(50, len(leaves.tree), dtype=torch.int64).index_add_(1, leaves.leaf, (~held).long())
    inside = (missed == 0).double()
    per_tree = torch.zeros(50, 4, dtype=torch.float64).index_add_(1, leaves.tree, inside)
    assert (per_tree == 1).all()
    assert torch.allclose(inside @ leaves.value + ensemble.base, ensemble.raw(rows), atol=1e-12)


def test_trees_are_a_model_of_their_own():
    x, y = DATA["three"]
    model = RandomForestClassifier(5, random_state=0).fit(x, y)
    ensemble = read_trees(SklearnModel(model, input_range=(0.0, 2000.0)))
    assert load_model(ensemble) is ensemble
    assert (ensemble.box, ensemble.classes) == (Box(0.0, 2000.0), 3)
    rows = torch.tensor(x)
    assert torch.allclose(ensemble.scores(rows), SklearnModel(model).scores(rows))
    assert ensemble.describe()["sha256"] == read_trees(model).describe()["sha256"]
    other = RandomForestClassifier(5, random_state=1).fit(x, y)
    assert ensemble.describe()["sha256"] != read_trees(other).describe()["sha256"]
    assert ensemble.raw(rows[:0]).shape == (0, 3)
    with pytest.raises(DataError, match="13 features"):
        ensemble.scores(torch.zeros(2, 3))


def test_what_thresholds_cannot_express_is_refused():
    x, y = DATA["two"]
    coarse = np.clip(x.round(), 0, 200)
    categorical = HistGradientBoostingClassifier(max_iter=2, categorical_features=[0]).fit(coarse, y)
    with pytest.raises(ModelError, match="categorical features"):
        read_trees(categorical)
    with pytest.raises(ModelError, match="LogisticRegression is no ensemble"):
        read_trees(LogisticRegression().fit(x[:, :2], y))
    with pytest.raises(ModelError, match="AdaBoost"):
        read_trees(AdaBoostClassifier(n_estimators=2).fit(x, y))
    started = GradientBoostingClassifier(n_estimators=2, init=LogisticRegression(max_iter=5000))
    with pytest.raises(ModelError, match="starts from"):
        read_trees(started.fit(x[:, :2], y))
    with pytest.raises(ModelError, match="labels at once"):
        read_trees(DecisionTreeClassifier().fit(x, np.stack([y, y], 1)))

"""scikit-learn's classifiers through one face."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hardpoint.core.access import Access
from hardpoint.core.errors import AccessDenied, DataError, ModelError
from hardpoint.models import Differentiable, Model, SklearnModel

pytest.importorskip("sklearn")
from sklearn.cluster import KMeans
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Perceptron, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

ZOO: dict[str, Any] = {
    "logistic": LogisticRegression(),
    "svc": SVC(),
    "linear-svc": LinearSVC(),
    "boosting": HistGradientBoostingClassifier(max_iter=5),
    "forest": RandomForestClassifier(5, random_state=0),
    "tree": DecisionTreeClassifier(max_depth=3, random_state=0),
    "bayes": GaussianNB(),
    "neighbours": KNeighborsClassifier(3),
    "perceptron": Perceptron(random_state=0),
    "ridge": RidgeClassifier(),
    "pipeline": make_pipeline(StandardScaler(), SVC()),
    "search": GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2),
}


def table(classes: int, rows: int = 90) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    y = np.arange(rows) % classes
    return draw.normal(size=(rows, 4)) + np.eye(4)[y] * 1.5, y


@pytest.mark.parametrize("names", [False, True], ids=["numbers", "names"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", ZOO)
def test_zoo(name: str, classes: int, names: bool) -> None:
    x, numbers = table(classes)
    y = np.array(["cat", "dog", "owl"])[numbers] if names else numbers + 5
    estimator = ZOO[name].fit(x, y)
    model = SklearnModel(estimator)
    assert isinstance(model, Model)
    assert not isinstance(model, Differentiable)
    assert model.access == Access.SCORES
    inputs = torch.from_numpy(x)
    scores, labels = model.scores(inputs), model.predict(inputs)
    assert scores.shape == (len(x), classes)
    assert torch.isfinite(scores).all()
    assert torch.equal(scores.argmax(1), labels)
    assert (model.classes[labels.numpy()] == estimator.predict(x)).all()
    assert torch.equal(model.encode(y), torch.from_numpy(numbers))
    for rows in (1, 0):
        assert model.scores(inputs[:rows]).shape == (rows, classes)
        assert model.predict(inputs[:rows]).shape == (rows,)


def test_scores_are_what_the_estimator_says() -> None:
    x, y = table(3)
    logistic = LogisticRegression().fit(x, y)
    ours = SklearnModel(logistic).scores(torch.from_numpy(x))
    np.testing.assert_allclose(ours.numpy(), np.log(logistic.predict_proba(x)))
    x, y = table(2)
    svc = SVC().fit(x, y)
    ours = SklearnModel(svc).scores(torch.from_numpy(x))
    np.testing.assert_allclose(ours[:, 1].numpy(), svc.decision_function(x))
    np.testing.assert_allclose(ours[:, 0].numpy(), -svc.decision_function(x))


def test_label_wins_over_scores_that_contradict_it() -> None:
    class Stubborn:
        classes_ = np.array([0, 1, 2])
        n_features_in_ = 1

        def predict(self, x: np.ndarray) -> np.ndarray:
            return np.full(len(x), 2)

        def decision_function(self, x: np.ndarray) -> np.ndarray:
            return np.tile([3.0, 1.0, 2.0], (len(x), 1))

    assert SklearnModel(Stubborn()).scores(torch.zeros(2, 1)).tolist() == [[2.0, 1.0, 3.0]] * 2


def test_pairwise_columns_are_not_class_scores() -> None:
    x, y = table(3)
    model = SklearnModel(SVC(decision_function_shape="ovo").fit(x, y))
    assert model.access == Access.LABELS
    with pytest.raises(AccessDenied):
        model.scores(torch.from_numpy(x))


def test_labels_only() -> None:
    class Oracle:
        classes_ = np.array(["a", "b"])

        def predict(self, x: np.ndarray) -> np.ndarray:
            return np.where(x[:, 0] > 0, "b", "a")

    model = SklearnModel(Oracle())
    assert model.access == Access.LABELS
    assert model.predict(torch.tensor([[1.0], [-1.0]])).tolist() == [1, 0]
    x, y = table(2)
    lowered = SklearnModel(LogisticRegression().fit(x, y), access=Access.LABELS)
    with pytest.raises(AccessDenied):
        lowered.scores(torch.from_numpy(x))


def test_images_are_flattened_and_precision_is_kept() -> None:
    x, y = table(2)
    model = SklearnModel(DecisionTreeClassifier(random_state=0).fit(x, y))
    square = torch.from_numpy(x).view(-1, 2, 2)
    assert torch.equal(model.predict(square), torch.from_numpy(y))
    seen: list[Any] = []

    class Spy:
        classes_ = np.array([0, 1])

        def predict(self, rows: np.ndarray) -> np.ndarray:
            seen.append(rows.dtype)
            return np.zeros(len(rows), int)

    for kind in (torch.float32, torch.float64):
        SklearnModel(Spy()).predict(torch.zeros(1, 1, dtype=kind))
    assert seen == [np.float32, np.float64]


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (LogisticRegression(), "is not fitted"),
        (make_pipeline(StandardScaler(), SVC()), "is not fitted"),
        (RandomForestClassifier(), "is not fitted"),
        (LogisticRegression, "is a class"),
        (LinearRegression().fit(*table(2)), "no classifier"),
        (KMeans(2, n_init=1, random_state=0).fit(table(2)[0]), "no classifier"),
        (StandardScaler(), "no predict"),
        (
            MultiOutputClassifier(LogisticRegression()).fit(table(2)[0], np.stack([table(2)[1]] * 2, 1)),
            "at once",
        ),
    ],
)
def test_estimators_that_cannot_be_assessed(estimator: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        SklearnModel(estimator)
    assert caught.value.cure


def test_features_and_labels_are_checked() -> None:
    x, y = table(2)
    model = SklearnModel(LogisticRegression().fit(x, y))
    with pytest.raises(DataError, match="3 features, LogisticRegression was fitted on 4"):
        model.scores(torch.zeros(2, 3))
    with pytest.raises(DataError, match="label 7 of row 1"):
        model.encode([0, 7])


def test_identity() -> None:
    x, y = table(2)
    first = SklearnModel(LogisticRegression().fit(x, y)).describe()
    assert first == SklearnModel(LogisticRegression().fit(x, y)).describe()
    assert first["sha256"] != SklearnModel(LogisticRegression(C=0.01).fit(x, y)).describe()["sha256"]
    assert first["sha256"] != SklearnModel(LogisticRegression().fit(-x, y)).describe()["sha256"]
    assert first["kind"] == "sklearn"


def test_classifier_without_scores() -> None:
    x, y = table(3)
    model = SklearnModel(NearestCentroid().fit(x, y))
    assert (model.predict(torch.from_numpy(x)).numpy() == model.estimator.predict(x)).all()

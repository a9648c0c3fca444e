"""From a fitted model of any of the libraries to flat trees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hardpoint.core.box import Box
from hardpoint.core.errors import ModelError
from hardpoint.models.sklearn import SklearnModel
from hardpoint.models.trees.ensemble import TreeEnsemble
from hardpoint.models.trees.lightgbm import read_lightgbm
from hardpoint.models.trees.sklearn import READERS
from hardpoint.models.trees.xgboost import read_xgboost

_KNOWN = (
    "scikit-learn's DecisionTree, ExtraTree, RandomForest, ExtraTrees, GradientBoosting and HistGradientBoosting "
    "classifiers, LightGBM and XGBoost"
)


def read_trees(model: Any, input_range: Box | tuple[float, float] | None = None) -> TreeEnsemble:
    """The trees of a fitted classifier, whose scores are those of the library.

    Args:
        model: an estimator of scikit-learn (a decision tree, a forest, extra trees, gradient boosting), an
            ``LGBMClassifier`` or ``XGBClassifier``, a ``Booster`` of either, a ``SklearnModel`` around one of
            these, or trees that have been read already.
        input_range: inputs the model accepts; that of a ``SklearnModel`` by default, else without ends.

    Raises:
        ModelError: for other models, and for what a threshold cannot express: splits by category, linear
            leaves, and starts from another model.

    >>> import torch
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> tree = read_trees(DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1]))
    >>> tree.probabilities(torch.tensor([[0.2], [0.8]]))
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)
    """
    if isinstance(model, TreeEnsemble):
        return model
    estimator = model
    if isinstance(model, SklearnModel):
        estimator, input_range = model.estimator, model.box if input_range is None else input_range
    ensemble = _read(estimator)
    return ensemble if input_range is None else replace(ensemble, box=Box.of(input_range))


def _read(estimator: Any) -> TreeEnsemble:
    name, library = type(estimator).__name__, type(estimator).__module__.partition(".")[0]
    if library == "lightgbm" and name in ("LGBMClassifier", "Booster"):
        return read_lightgbm(estimator if name == "Booster" else estimator.booster_, name)
    if library == "xgboost" and name in ("XGBClassifier", "XGBRFClassifier", "Booster"):
        return read_xgboost(estimator if name == "Booster" else estimator.get_booster(), name)
    if name in READERS:
        return READERS[name](estimator)
    raise ModelError(f"{name} is no ensemble of trees that can be read", f"known are {_KNOWN}")

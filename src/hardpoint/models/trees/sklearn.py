"""Trees of scikit-learn's classifiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardpoint.core.errors import ModelError
from hardpoint.models.trees.ensemble import Link, Tree, TreeEnsemble

_PLAIN_STARTS = {"DummyClassifier", "str", "NoneType"}


def _one_tree(tree: Any, value: Tensor) -> Tree:
    """A ``sklearn.tree._tree.Tree`` with the leaf values given."""
    left = torch.tensor(tree.children_left, dtype=torch.int64)
    feature = torch.tensor(tree.feature, dtype=torch.int64)
    return Tree(
        feature=torch.where(left < 0, -1, feature),
        threshold=torch.tensor(tree.threshold, dtype=torch.float64),
        left=left,
        right=torch.tensor(tree.children_right, dtype=torch.int64),
        value=value,
        missing_left=torch.tensor(np.asarray(tree.missing_go_to_left), dtype=torch.bool),
    )


def _averaged(estimator: Any, members: Sequence[Any]) -> TreeEnsemble:
    """Trees whose leaves hold class shares, averaged."""
    if estimator.n_outputs_ != 1:
        raise ModelError(
            f"{type(estimator).__name__} answers {estimator.n_outputs_} labels at once",
            "assess one output at a time",
        )
    trees = []
    for member in members:
        counts = torch.tensor(member.tree_.value[:, 0, :], dtype=torch.float64)
        share = counts / counts.sum(1, keepdim=True).clamp_min(1e-300)
        trees.append(_one_tree(member.tree_, share / len(members)))
    base = torch.zeros(trees[0].value.shape[1], dtype=torch.float64)
    return TreeEnsemble(
        trees, base, Link.PROBABILITY, estimator.n_features_in_, torch.float32, type(estimator).__name__
    )


def _forest(estimator: Any) -> TreeEnsemble:
    return _averaged(estimator, estimator.estimators_)


def _single(estimator: Any) -> TreeEnsemble:
    return _averaged(estimator, [estimator])


def _boosted(
    estimator: Any, stages: Sequence[Sequence[Any]], read: Callable[[Any, int, int], Tree], dtype: torch.dtype
) -> TreeEnsemble:
    """Sums of one tree per stage and output; ``read(tree, output, outputs)`` gives each."""
    outputs = len(stages[0])
    trees = [read(tree, output, outputs) for stage in stages for output, tree in enumerate(stage)]
    link = Link.LOGISTIC if outputs == 1 else Link.SOFTMAX
    # the exponential loss answers p = 1 / (1 + exp(-2 score))
    double = link is Link.LOGISTIC and getattr(estimator, "loss", "log_loss") == "exponential"
    scale = 2.0 if double else 1.0
    trees = [Tree(**{**vars(tree), "value": tree.value * scale}) for tree in trees]
    name, features = type(estimator).__name__, estimator.n_features_in_
    bare = TreeEnsemble(trees, torch.zeros(outputs, dtype=torch.float64), link, features, dtype, name)
    # the sums start from a constant that no public attribute holds: what is left of one row's score
    row = torch.zeros(1, features, dtype=torch.float64)
    names = getattr(estimator, "feature_names_in_", None)
    said = estimator.decision_function(row.numpy() if names is None else _frame(row, names))
    base = scale * torch.tensor(np.asarray(said), dtype=torch.float64).view(-1) - bare.raw(row)[0]
    return TreeEnsemble(trees, base, link, features, dtype, name)


def _frame(row: Tensor, names: Any) -> Any:
    import importlib

    pandas: Any = importlib.import_module("pandas")  # fitted on a data frame, so it is there
    return pandas.DataFrame(row.numpy(), columns=names)


def _gradient_boosting(estimator: Any) -> TreeEnsemble:
    start = type(estimator.init_).__name__
    if start not in _PLAIN_STARTS or getattr(estimator.init_, "strategy", "prior") in (
        "stratified",
        "uniform",
    ):
        raise ModelError(
            f"{type(estimator).__name__} starts from the scores of {start}", "leave init at its default"
        )

    def read(member: Any, output: int, outputs: int) -> Tree:
        value = torch.zeros(member.tree_.node_count, outputs, dtype=torch.float64)
        value[:, output] = estimator.learning_rate * torch.tensor(member.tree_.value[:, 0, 0])
        return _one_tree(member.tree_, value)

    return _boosted(estimator, [list(stage) for stage in estimator.estimators_], read, torch.float32)


def _hist_gradient_boosting(estimator: Any) -> TreeEnsemble:
    name = type(estimator).__name__

    def read(predictor: Any, output: int, outputs: int) -> Tree:
        nodes = predictor.nodes
        leaf = torch.tensor(nodes["is_leaf"].astype(bool))
        if nodes["is_categorical"].any():
            raise ModelError(
                f"{name} splits by category, which no threshold expresses",
                "fit it with categorical_features=None on encoded columns",
            )
        value = torch.zeros(len(nodes), outputs, dtype=torch.float64)
        value[:, output] = torch.tensor(nodes["value"])
        return Tree(
            feature=torch.where(leaf, -1, torch.tensor(nodes["feature_idx"].astype(np.int64))),
            threshold=torch.where(leaf, 0.0, torch.tensor(nodes["num_threshold"])),
            left=torch.tensor(nodes["left"].astype(np.int64)),
            right=torch.tensor(nodes["right"].astype(np.int64)),
            value=value,
            missing_left=torch.tensor(nodes["missing_go_to_left"].astype(bool)),
        )

    categorical = getattr(estimator, "is_categorical_", None)
    if categorical is not None and np.any(categorical):
        raise ModelError(
            f"{name} has categorical features, which it renumbers before it splits",
            "fit it with categorical_features=None on encoded columns",
        )
    return _boosted(estimator, estimator._predictors, read, torch.float64)


READERS: dict[str, Callable[[Any], TreeEnsemble]] = {
    "DecisionTreeClassifier": _single,
    "ExtraTreeClassifier": _single,
    "RandomForestClassifier": _forest,
    "ExtraTreesClassifier": _forest,
    "GradientBoostingClassifier": _gradient_boosting,
    "HistGradientBoostingClassifier": _hist_gradient_boosting,
}
"""By the estimator's class name, so that scikit-learn need not be imported."""

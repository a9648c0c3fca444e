"""Trees of XGBoost, from its JSON format."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardpoint.core.errors import ModelError
from hardpoint.models.trees.ensemble import Link, Tree, TreeEnsemble

_LOGISTIC, _SOFTMAX = ("binary:logistic",), ("multi:softprob", "multi:softmax")


def read_xgboost(booster: Any, name: str) -> TreeEnsemble:
    """The trees of an ``xgboost.Booster``, up to its best iteration where training stopped early.

    XGBoost compares ``x < threshold`` in float32, which is ``x <= `` the float32 before the threshold.

    Raises:
        ModelError: for objectives without class probabilities, boosters without plain trees, categorical splits.
    """
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    kind, objective = learner["gradient_booster"]["name"], learner["objective"]["name"]
    if kind != "gbtree":
        raise ModelError(f"{name} is a {kind} booster", "train it with booster='gbtree'")
    if objective not in (*_LOGISTIC, *_SOFTMAX):
        raise ModelError(
            f"{name} has the objective {objective!r}", f"train it with {_LOGISTIC[0]!r} or {_SOFTMAX[0]!r}"
        )
    link = Link.LOGISTIC if objective in _LOGISTIC else Link.SOFTMAX
    parameters, model = learner["learner_model_param"], learner["gradient_booster"]["model"]
    outputs = max(1, int(parameters["num_class"]))
    count = len(model["trees"])
    best = learner.get("attributes", {}).get("best_iteration")
    if best is not None:
        per_round = int(model["gbtree_model_param"].get("num_parallel_tree", "1")) * outputs
        count = min(count, (int(best) + 1) * per_round)
    trees = [
        _tree(tree, output, outputs, name)
        for tree, output in zip(model["trees"][:count], model["tree_info"][:count], strict=True)
    ]
    base = _base(str(parameters["base_score"]), link, outputs)
    return TreeEnsemble(trees, base, link, int(parameters["num_feature"]), torch.float32, name)


def _base(text: str, link: Link, outputs: int) -> Tensor:
    """The start of the sums; newer versions write one number per class, older ones a single number."""
    numbers = [float(number) for number in text.strip("[]").split(",")]
    base = torch.tensor(numbers, dtype=torch.float64).expand(outputs).clone()
    return torch.logit(base) if link is Link.LOGISTIC else base


def _tree(tree: dict[str, Any], output: int, outputs: int, name: str) -> Tree:
    if any(tree["split_type"]):
        raise ModelError(
            f"{name} splits by category, which no threshold expresses",
            "train it with enable_categorical=False on encoded columns",
        )
    if int(tree["tree_param"]["size_leaf_vector"]) > 1:
        raise ModelError(
            f"{name} has vectors in its leaves", "train it with multi_strategy='one_output_per_tree'"
        )
    left = torch.tensor(tree["left_children"], dtype=torch.int64)
    numbers = np.asarray(tree["split_conditions"], dtype=np.float32)
    leaf = left < 0
    value = torch.zeros(len(left), outputs, dtype=torch.float64)
    # a leaf's value stands in the place of its threshold
    value[:, output] = torch.where(leaf, torch.from_numpy(numbers.astype(np.float64)), 0.0)
    before = np.nextafter(numbers, np.float32(-np.inf)).astype(np.float64)
    return Tree(
        feature=torch.where(leaf, -1, torch.tensor(tree["split_indices"], dtype=torch.int64)),
        threshold=torch.where(leaf, 0.0, torch.from_numpy(before)),
        left=left,
        right=torch.tensor(tree["right_children"], dtype=torch.int64),
        value=value,
        missing_left=torch.tensor(tree["default_left"]).bool(),
    )

"""Trees of LightGBM, from its JSON dump."""

from __future__ import annotations

from typing import Any

import torch

from hardpoint.core.errors import ModelError
from hardpoint.models.trees.ensemble import Link, Tree, TreeEnsemble


def read_lightgbm(booster: Any, name: str) -> TreeEnsemble:
    """The trees of a ``lightgbm.Booster``, up to its best iteration.

    Raises:
        ModelError: for objectives without class probabilities, categorical splits, linear leaves, or zeros read
            as missing.
    """
    dump = booster.dump_model()
    word, *options = str(dump.get("objective", "")).split()
    outputs = int(dump["num_tree_per_iteration"])
    if word not in ("binary", "multiclass"):
        raise ModelError(f"{name} has the objective {word!r}", "train it with 'binary' or 'multiclass'")
    scale = 1.0
    for option in options:
        key, _, value = option.partition(":")
        scale = float(value) if key == "sigmoid" else scale
    members = dump["tree_info"]
    if dump.get("average_output", False):
        scale /= max(1, len(members) // outputs)
    trees = [
        _tree(member["tree_structure"], number % outputs, outputs, scale, name)
        for number, member in enumerate(members)
    ]
    base = torch.zeros(outputs, dtype=torch.float64)
    link = Link.LOGISTIC if word == "binary" else Link.SOFTMAX
    return TreeEnsemble(trees, base, link, int(dump["max_feature_idx"]) + 1, torch.float64, name)


def _tree(root: dict[str, Any], output: int, outputs: int, scale: float, name: str) -> Tree:
    feature: list[int] = []
    threshold: list[float] = []
    left: list[int] = []
    right: list[int] = []
    value: list[list[float]] = []
    missing: list[bool] = []
    todo: list[tuple[dict[str, Any], int, list[int] | None]] = [(root, 0, None)]
    while todo:
        node, parent, side = todo.pop()
        here = len(feature)
        if side is not None:
            side[parent] = here
        split = "split_feature" in node
        if split and node["decision_type"] != "<=":
            raise ModelError(
                f"{name} splits by category, which no threshold expresses",
                "train it without categorical_feature on encoded columns",
            )
        if node.get("leaf_coeff"):
            raise ModelError(f"{name} has linear models in its leaves", "train it with linear_tree=False")
        if split and node["missing_type"] == "Zero":
            raise ModelError(f"{name} reads zeros as missing values", "train it with zero_as_missing=False")
        cut = float(node["threshold"]) if split else 0.0
        feature.append(int(node["split_feature"]) if split else -1)
        threshold.append(cut)
        # where training met no NaN, it is read as 0
        missing.append(split and (node["default_left"] if node["missing_type"] == "NaN" else cut >= 0.0))
        row = [0.0] * outputs
        row[output] = 0.0 if split else scale * float(node["leaf_value"])
        value.append(row)
        left.append(here)
        right.append(here)
        if split:
            todo += [(node["right_child"], here, right), (node["left_child"], here, left)]
    return Tree(
        torch.tensor(feature),
        torch.tensor(threshold, dtype=torch.float64),
        torch.tensor(left),
        torch.tensor(right),
        torch.tensor(value, dtype=torch.float64),
        torch.tensor(missing),
    )

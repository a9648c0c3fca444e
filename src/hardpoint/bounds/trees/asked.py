"""What the checks of an ensemble share: reading it, and refusing what nothing can be said about."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardpoint.bounds.inputs import refuse_inputs, refuse_labels
from hardpoint.bounds.trees.cliques import Numbers
from hardpoint.bounds.trees.rounding import allowances
from hardpoint.core.errors import DataError, ModelError
from hardpoint.models.base import Model
from hardpoint.models.loading import load_model
from hardpoint.models.sklearn import SklearnModel
from hardpoint.models.trees import TreeEnsemble, read_trees


def _judge_of(model: Any, trees: TreeEnsemble) -> Model:
    """What a witness is tried on: the library's own classifier where it is one, else the trees that were read."""
    if isinstance(model, SklearnModel | TreeEnsemble):
        return model
    return load_model(model) if hasattr(model, "classes_") else trees


def asked(model: Any, x: Tensor, y: Tensor) -> tuple[TreeEnsemble, Model]:
    """The trees, and what witnesses are tried on, where rows ``x`` ``[n, d]`` and labels ``y`` ``[n]`` are for them.

    Raises:
        ModelError: for a model that is no ensemble of trees, or one that answers a row otherwise than its trees.
        DataError: for rows or labels that are not for it.
    """
    trees = read_trees(model)
    refuse_inputs(x, trees.box)
    refuse_labels(y, len(x))
    if x.dim() != 2 or x.shape[1] != trees.features:
        raise DataError(
            f"the rows have shape {tuple(x.shape)}, {trees.name} was fitted on {trees.features} features",
            "give one row of feature values per input, columns as it was fitted on",
        )
    if len(y) and int(y.max()) >= trees.classes:
        raise DataError(
            f"there is a label {int(y.max())}, the model has {trees.classes} classes",
            "give positions in its classes",
        )
    judge = _judge_of(model, trees)
    if judge is not trees and len(x):
        _refuse_others(trees, judge, x)
    return trees, judge


def _refuse_others(trees: TreeEnsemble, judge: Model, x: Tensor) -> None:
    """Raise where the trees as they were read answer otherwise than the model, by more than rounding."""
    logits, said, slack = trees.logits(trees.raw(x)), judge.predict(x).cpu(), allowances(trees)
    own = logits.argmax(1)
    for row in (own != said).nonzero().flatten().tolist():
        first, second = int(own[row]), int(said[row])
        if float(logits[row, first] - logits[row, second]) > slack(first, second):
            raise ModelError(
                f"{trees.name} answers row {row} otherwise than its trees do",
                "give the bare fitted classifier",
            )


def as_compared(trees: TreeEnsemble, values: Tensor) -> Numbers:
    """float64: values as the trees compare them."""
    rounded: Numbers = trees.rounded(values.double()).numpy()
    return rounded


def inside(low: Numbers, high: Numbers, wish: Numbers) -> Numbers:
    """The point of a box nearest to ``wish``, finite where that is."""
    point: Numbers = np.minimum(np.maximum(wish, low), high)
    return point


def row_of(values: Numbers) -> Tensor:
    """float64 ``[1, d]``."""
    return torch.from_numpy(values).unsqueeze(0)

"""Fitting copies of a user's estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardpoint.core.errors import HardpointError, MissingExtra, ModelError
from hardpoint.models.sklearn import SklearnModel


def unfitted(estimator: Any) -> Any:
    """A copy of ``estimator`` that has not been fitted, by scikit-learn's rules.

    Raises:
        ModelError: for what has no settings to copy.
        MissingExtra: without scikit-learn.
    """
    try:
        from sklearn.base import clone
    except ImportError:
        raise MissingExtra("sklearn", "hardening an estimator") from None
    if isinstance(estimator, SklearnModel):
        estimator = estimator.estimator
    if isinstance(estimator, type) or not hasattr(estimator, "fit") or not hasattr(estimator, "get_params"):
        raise ModelError(
            f"{estimator!r} cannot be fitted again".replace("\n", " "),
            "give an estimator of scikit-learn, LightGBM or XGBoost; a torch module goes to hp.harden",
        )
    return clone(estimator)


def is_fitted(estimator: Any) -> bool:
    """Whether ``estimator`` answers already."""
    try:
        wrapped(estimator)
    except HardpointError:
        return False
    return True


def wrapped(estimator: Any) -> SklearnModel:
    """A fitted estimator as a model; raises ``ModelError`` for one that is not fitted."""
    return estimator if isinstance(estimator, SklearnModel) else SklearnModel(estimator)


def fitted(estimator: Any, x: Tensor, y: Tensor, weight: Tensor | None = None) -> SklearnModel:
    """A copy of ``estimator`` fitted on rows ``x`` ``[n, d]`` with labels ``y``, which weigh ``weight``.

    One that takes no weights is fitted on fewer rows instead: of rows that weigh w < 1, on about the share w, spread
    evenly; a weight above 1 counts as 1.
    """
    own = unfitted(estimator)
    if weight is None or bool((weight == 1).all()):
        return SklearnModel(own.fit(x.numpy(), y.numpy()))
    word = _weight_word(own)
    if word is not None:
        return SklearnModel(own.fit(x.numpy(), y.numpy(), **{word: weight.double().numpy()}))
    passed = weight.clamp(max=1.0).double().cumsum(0).add(1e-9).floor()  # one row at each whole number passed
    kept = torch.diff(passed, prepend=passed.new_zeros(1)) > 0
    return SklearnModel(own.fit(x[kept].numpy(), y[kept].numpy()))


def _weight_word(estimator: Any) -> str | None:
    """How ``fit`` wants the weights of rows called; None where it takes none."""
    from sklearn.utils.validation import has_fit_parameter

    if getattr(estimator, "steps", None):  # a pipeline hands them to the step that is named
        name, last = estimator.steps[-1]
        return f"{name}__sample_weight" if has_fit_parameter(last, "sample_weight") else None
    return "sample_weight" if has_fit_parameter(estimator, "sample_weight") else None


def probabilities(model: SklearnModel, x: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """``[n, K]``: the shares of the classes."""
    return torch.softmax(model.scores(x).double(), 1).numpy()

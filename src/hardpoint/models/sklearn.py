"""A fitted scikit-learn classifier as a model."""

from __future__ import annotations

import hashlib
import importlib
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardpoint.core.access import Access
from hardpoint.core.box import UNBOUNDED, Box
from hardpoint.core.errors import AccessDenied, BadModelOutput, DataError, ModelError
from hardpoint.core.rng import Rng

# Classifiers whose label is by construction the class of the largest probability.
_LABEL_IS_LARGEST = {
    "DecisionTreeClassifier",
    "ExtraTreeClassifier",
    "ExtraTreesClassifier",
    "HistGradientBoostingClassifier",
    "LogisticRegression",
    "MLPClassifier",
    "RandomForestClassifier",
}


@dataclass(frozen=True, eq=False, repr=False)
class SklearnModel:
    """A fitted classifier with scikit-learn's interface as a model.

    Scores are the logarithm of ``predict_proba``, or else ``decision_function`` (two columns for two classes);
    with neither, the model offers labels only. Labels are positions in ``classes_``; ``encode`` makes them from
    the original ones. Where the label an estimator answers is not the largest of its scores (support vector
    machines break ties by votes), these two scores change places, so that scores and labels never disagree.
    Inputs reach the estimator with the precision they have, as rows ``[n, features]``.

    Args:
        estimator: any fitted classifier or pipeline with ``predict`` and ``classes_``.
        input_range: ``(low, high)`` of valid inputs; tables have none by default.
        access: the highest rung to offer; an estimator without scores offers labels.
        name: shown in reports; the class name by default.

    Raises:
        ModelError: when the estimator is not fitted, or is no classifier.
    """

    estimator: Any
    input_range: Box | tuple[float | Tensor, float | Tensor] = UNBOUNDED
    access: Access = Access.SCORES
    name: str | None = None
    box: Box = field(init=False)
    classes: NDArray[Any] = field(init=False)

    def __post_init__(self) -> None:
        classes = _classes(self.estimator)
        offered = Access.SCORES if _score_method(self.estimator) else Access.LABELS
        object.__setattr__(self, "classes", classes)
        object.__setattr__(self, "access", min(Access.parse(self.access), offered))
        object.__setattr__(self, "box", Box.of(self.input_range))

    def __repr__(self) -> str:
        return f"SklearnModel({self._name}, access={self.access.word})"

    @property
    def features(self) -> int | None:
        """How many features the estimator was fitted on, where it says so."""
        count = getattr(self.estimator, "n_features_in_", None)
        return None if count is None else int(count)

    def encode(self, y: Iterable[Any]) -> Tensor:
        """int64 ``[n]``: the positions in ``classes_`` of the original labels ``y``.

        Raises:
            DataError: naming the first label that the estimator does not know.
        """
        place = {value: i for i, value in enumerate(self.classes.tolist())}
        labels = y.tolist() if isinstance(y, Tensor | np.ndarray) else list(y)
        for row, label in enumerate(labels):
            if label not in place:
                known = ", ".join(repr(c) for c in list(place)[:10])
                raise DataError(f"label {label!r} of row {row} is unknown to the model", f"it knows {known}")
        return torch.tensor([place[label] for label in labels], dtype=torch.int64)

    def scores(self, x: Tensor) -> Tensor:
        if self.access < Access.SCORES:
            raise AccessDenied(f"{self._name} offers labels only", 'use a threat with access="labels"')
        method = _score_method(self.estimator)
        raw = np.asarray(self._call(method, x), dtype=np.float64)
        if method == "predict_proba":
            values = np.log(np.clip(raw, np.finfo(np.float64).tiny, None))
        else:
            values = np.stack([-raw, raw], axis=1) if raw.ndim == 1 else raw
        if values.shape != (len(x), len(self.classes)):
            raise BadModelOutput(
                f"{method} of {self._name} returned shape {raw.shape} for {len(x)} inputs and "
                f"{len(self.classes)} classes",
                "use a single-output classifier",
            )
        scores = torch.from_numpy(values)
        if type(_last_step(self.estimator)).__name__ not in _LABEL_IS_LARGEST:
            scores = _with_label_first(scores, self.predict(x).cpu())
        return scores.to(x.device)

    def predict(self, x: Tensor) -> Tensor:
        labels = np.asarray(self._call("predict", x))
        if labels.shape != (len(x),):
            raise BadModelOutput(
                f"predict of {self._name} returned shape {labels.shape}", "use a single-output classifier"
            )
        return self.encode(labels).to(x.device)

    def _call(self, method: str, x: Tensor) -> Any:
        rows = x.detach().cpu().flatten(1).numpy()
        if self.features is not None and rows.shape[1] != self.features:
            raise DataError(
                f"inputs have {rows.shape[1]} features, {self._name} was fitted on {self.features}",
                "give the columns it was fitted on, in that order",
            )
        if not len(rows):
            empty = {"predict": self.classes[:0]}
            return empty.get(method, np.zeros((0, len(self.classes))))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*valid feature names")
            return getattr(self.estimator, method)(self._table(rows))

    def _table(self, rows: NDArray[Any]) -> Any:
        """``rows`` with the column names of the fit, which pipelines may select by."""
        names = getattr(self.estimator, "feature_names_in_", None)
        if names is None:
            return rows
        try:
            pandas: Any = importlib.import_module("pandas")
        except ImportError:
            return rows
        return pandas.DataFrame(rows, columns=names)

    @property
    def _name(self) -> str:
        return self.name or type(self.estimator).__name__

    @cached_property
    def _sha256(self) -> str:
        """Over parameters, classes and the labels of 64 random inputs: equal models agree, and few others do."""
        parameters = self.estimator.get_params() if hasattr(self.estimator, "get_params") else {}
        text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(sorted(parameters.items())))
        digest = hashlib.sha256(f"{text};{self.classes.tolist()!r};{self.features}".encode())
        if self.features is not None:
            u = Rng(0).fork("grid").uniform(torch.arange(64), (self.features,), dtype=torch.float64)
            low, high = self.box.low, self.box.high
            if self.box.is_bounded and not isinstance(low, Tensor) and not isinstance(high, Tensor):
                grid = low + u * (high - low)
            else:
                grid = (2 * u - 1) * 10.0 ** torch.arange(-1, 3).repeat(16).unsqueeze(1)
            digest.update(self.predict(grid).numpy().tobytes())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "sklearn",
            "name": self._name,
            "sha256": self._sha256,
            "sha256_of": "parameters, classes and labels of 64 random inputs",
            "parameters": None,
            "access": self.access.word,
            "classes": [str(c) for c in self.classes.tolist()],
            "input_range": self.box.describe(),
        }


def _last_step(estimator: Any) -> Any:
    """The estimator that decides, inside pipelines and searches."""
    while True:
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif getattr(estimator, "steps", None):
            estimator = estimator.steps[-1][1]
        else:
            return estimator


def _score_method(estimator: Any) -> str:
    """The method that gives one score per class; empty if there is none."""
    for method in ("predict_proba", "decision_function"):
        if not hasattr(estimator, method):
            continue
        pairs = getattr(_last_step(estimator), "decision_function_shape", "ovr") == "ovo"
        if method == "decision_function" and pairs and len(estimator.classes_) > 2:
            continue  # one column per pair of classes: no score of a class
        return method
    return ""


def _classes(estimator: Any) -> NDArray[Any]:
    name = type(estimator).__name__
    if isinstance(estimator, type):
        raise ModelError(f"{estimator.__name__} is a class", "pass a fitted instance of it")
    if not hasattr(estimator, "predict"):
        raise ModelError(f"{name} has no predict method", "pass a fitted classifier")
    classes = getattr(estimator, "classes_", None)
    if classes is None:
        if not getattr(estimator, "__sklearn_is_fitted__", lambda: True)() or not _has_fitted_attribute(
            _last_step(estimator)
        ):
            raise ModelError(f"{name} is not fitted", "call fit(x, y) before assessing it")
        raise ModelError(f"{name} is no classifier: it has no classes_", "pass a fitted classifier")
    if isinstance(classes, list) and classes and not np.isscalar(classes[0]):
        raise ModelError(f"{name} answers {len(classes)} labels at once", "assess one output at a time")
    known = np.asarray(classes)
    if known.ndim != 1 or len(known) < 2:
        raise ModelError(f"{name} knows {known.size} class(es)", "fit it on at least two classes")
    return known


def _has_fitted_attribute(estimator: Any) -> bool:
    return any(name.endswith("_") and not name.startswith("_") for name in vars(estimator))


def _with_label_first(scores: Tensor, labels: Tensor) -> Tensor:
    """``scores`` in which the label's is the largest: it changes places with the largest where it is not."""
    rows = torch.arange(len(scores))
    best = scores.argmax(1)
    fixed = scores.clone()
    fixed[rows, labels], fixed[rows, best] = scores[rows, best], scores[rows, labels]
    # an exact tie is broken towards the label
    tied = (best != labels) & (scores[rows, best] == scores[rows, labels])
    infinity = torch.tensor(torch.inf, dtype=scores.dtype)
    fixed[rows[tied], labels[tied]] = torch.nextafter(scores[rows, best], infinity)[tied]
    return fixed

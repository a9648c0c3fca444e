"""A gate: where what the attacker cannot change suffices to answer, nothing else is asked."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardpoint.assess.assess import as_dataset
from hardpoint.core.errors import ModelError, ThreatError
from hardpoint.core.rng import Rng
from hardpoint.harden.tables.examples import Examples
from hardpoint.harden.tables.fitting import fitted, probabilities
from hardpoint.threats.features import Feature, FeatureEdits, Kind, Mutability, Norm

_PRICES = np.geomspace(1e-3, 1e3, 121)
_TRIED = 1000
"""Rows on which another estimator is tried out before the long work begins."""


def fixed_features(edits: FeatureEdits) -> tuple[int, ...]:
    """The columns that no allowed edit changes: those that are not mutable, and those whose smallest step costs more
    than the whole budget.

    >>> from hardpoint.threats.features import Schema
    >>> flag, length = Feature("flag", Kind.BINARY), Feature("length", Kind.INTEGER, 0, 100)
    >>> fixed_features(FeatureEdits(Schema([flag, length]), eps=0.5, norm="l2"))
    (0,)
    """
    features = edits.schema.features
    fixed = []
    for column, feature in enumerate(features):
        group = [features[i] for i in edits.schema.groups.get(feature.group or "", ())]
        step = _smallest_step(feature, group)
        dear = step > edits.eps * (1 + 1e-6) and edits.norm is not Norm.L0
        none = min(edits.eps, edits.eps if edits.max_changed is None else edits.max_changed) == 0
        if feature.mutable is Mutability.NO or feature.range == 0 or dear or none:
            fixed.append(column)
    return tuple(fixed)


def _smallest_step(feature: Feature, group: list[Feature]) -> float:
    """What the smallest change of a feature costs; 0 where any change is possible or it depends on the row."""
    if group:
        others = sorted(other.cost for other in group if other is not feature)
        return (feature.cost + others[0]) / 2
    width = feature.range
    if width is None or width == 0:
        return 0.0
    if feature.whole:
        return feature.cost / width
    if feature.kind is Kind.ORDINAL:
        return min(b - a for a, b in itertools.pairwise(feature.levels)) * feature.cost / width
    return 0.0


class GatedClassifier:
    """Two estimators. One, the anchor, sees only columns that the attacker cannot change; where it is sure enough, it
    answers. Elsewhere the other answers, which sees all.

    Whatever an attacker does to a row that the anchor answers, the answer stays: the anchor does not see it. So
    ``certified`` is a proof, under any search, known or not. How sure is sure enough is set for each class on
    predictions for rows that neither was fitted on (cross-fitting): the largest share that is answered right by the
    anchor at a loss of accuracy of at most ``most_lost`` on these rows; on others it may be somewhat more or less, the
    more so the fewer rows there are.

    Args:
        estimator: what the anchor is a copy of, and the other too where there is no ``rest``.
        fixed: the columns that the attacker cannot change, from ``fixed_features``.
        most_lost: the accuracy that may be lost against ``estimator`` alone, as a share of the rows.
        folds: parts into which the rows are cut for cross-fitting.
        seed: of the cut.
        rest: what answers elsewhere, where that is to be another estimator. What it is more accurate by, such as an
            ensemble of members that differ, can be spent on proofs.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> x = np.array([[0, 0.1], [0, 0.2], [1, 0.8], [1, 0.9]] * 10)
    >>> model = GatedClassifier(DecisionTreeClassifier(random_state=0), fixed=(0,)).fit(x, x[:, 0].astype(int))
    >>> model.certified(x).all(), model.predict([[1, -5.0]])
    (np.True_, array([1]))
    """

    def __init__(
        self,
        estimator: Any,
        fixed: tuple[int, ...],
        most_lost: float = 0.01,
        folds: int = 5,
        seed: int = 0,
        rest: Any = None,
    ) -> None:
        self.estimator, self.fixed, self.most_lost = estimator, fixed, most_lost
        self.folds, self.seed, self.rest = folds, seed, rest

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings, by scikit-learn's rules for copying an estimator."""
        words = ("estimator", "fixed", "most_lost", "folds", "seed", "rest")
        return {word: getattr(self, word) for word in words}

    def set_params(self, **settings: Any) -> GatedClassifier:
        """Change settings."""
        for word, value in settings.items():
            if word not in self.get_params():
                raise ModelError(f"GatedClassifier has no setting {word!r}", "see its documentation")
            setattr(self, word, value)
        return self

    def fit(self, x: Any, y: Any, examples: Examples | None = None, weight: float = 1.0) -> GatedClassifier:
        """Fit on rows ``x`` ``[n, d]`` with labels ``y``.

        Args:
            x, y: training rows and their labels.
            examples: further rows, made from those, that the one which sees all learns from.
            weight: of all examples together, the clean rows being 1.

        Raises:
            ThreatError: when the attacker can change every feature.
            ModelError: for settings that make no sense, labels that are not numbered from 0, estimators with settings
                for single columns, such as monotone constraints, and a ``rest`` that cannot stand in for the estimator
                or is less accurate by more than ``most_lost``.
        """
        data = as_dataset(x, y)
        rows, labels = data.rows(torch.arange(len(data)))
        self.check(rows, labels)
        columns = list(self.fixed)
        more = Examples.none(rows) if examples is None else examples
        sure, (anchor_right, rest_right, own_right), said = self._cross_fitted(rows, labels, more, weight)
        gained = float(rest_right.mean() - own_right.mean())
        spare = self.most_lost + gained
        if spare < 0:
            raise ModelError(
                f"rest is {-100 * gained:.1f} points less accurate than the estimator on rows that were held back",
                "give one that is more accurate, or none",
            )
        self.anchor_ = fitted(self.estimator, rows[:, columns], labels)
        self.rest_ = more.learned(self._rest, rows, labels, weight)
        self.classes_, self.n_features_in_ = self.rest_.classes, rows.shape[1]
        self.enough_ = thresholds(sure, said, anchor_right, rest_right, len(self.classes_), spare)
        return self

    @property
    def _rest(self) -> Any:
        return self.estimator if self.rest is None else self.rest

    def check(self, x: Tensor, y: Tensor) -> None:
        """Raise where the gate cannot be fitted on rows ``x`` ``[n, d]`` with labels ``y``, see ``fit``."""
        n, d = x.shape
        if not self.fixed:
            raise ThreatError(
                "the attacker can change every feature: there is nothing to hold on to",
                "harden without a gate, or say in the schema what an attacker cannot change",
            )
        if not 2 <= self.folds <= n or not 0 <= self.most_lost < 1:
            raise ModelError(
                f"GatedClassifier(most_lost={self.most_lost}, folds={self.folds}) on {n} rows",
                "give 0 ≤ most_lost < 1 and from 2 folds to as many as there are rows",
            )
        if not all(isinstance(column, int) and 0 <= column < d for column in self.fixed):
            raise ModelError(f"the fixed columns are {self.fixed}, of {d}", "give numbers of columns")
        if sorted(set(y.tolist())) != list(range(int(y.max()) + 1)):
            raise ModelError(f"the labels are {sorted(set(y.tolist()))}", "number the classes from 0")
        if self.rest is not None:
            _try_out(self.rest, x, y)
        try:
            fitted(self.estimator, x[:, list(self.fixed)], y)
        except (IndexError, TypeError, ValueError) as error:
            raise ModelError(
                f"the estimator cannot be fitted on the fixed columns alone ({str(error).splitlines()[0]})",
                "give one without settings for single columns, or no gate",
            ) from None

    def _cross_fitted(
        self, x: Tensor, y: Tensor, examples: Examples, weight: float
    ) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[Any]]:
        """How sure the anchor is of each row; whether it, the rest and the estimator alone are right; the anchor's
        class."""
        columns = list(self.fixed)
        part = Rng(self.seed).fork("folds").integers(torch.arange(len(x)), self.folds)
        sure, said = np.zeros(len(x)), np.zeros(len(x), dtype=np.int64)
        right = np.zeros((3, len(x)), dtype=bool)
        for fold in range(self.folds):
            out = part == fold
            if not bool(out.any()):
                continue
            others = examples.only(~out[examples.source])
            rest = others.learned(self._rest, x[~out], y[~out], weight)
            right[1:, out.numpy()] = (rest.predict(x[out]) == y[out]).numpy()
            if self.rest is not None:
                own = others.learned(self.estimator, x[~out], y[~out], weight)
                right[2, out.numpy()] = (own.predict(x[out]) == y[out]).numpy()
            anchor = fitted(self.estimator, x[~out][:, columns], y[~out])
            shares = probabilities(anchor, x[out][:, columns])
            sure[out.numpy()], said[out.numpy()] = shares.max(1), np.asarray(anchor.classes)[shares.argmax(1)]
            right[0, out.numpy()] = said[out.numpy()] == y[out].numpy()
        return sure, right, said

    def certified(self, x: Any) -> NDArray[np.bool_]:
        """Bool ``[n]``: the rows that the anchor answers; no edit of the other columns changes what it says."""
        mine = self._anchored(x)
        shares = probabilities(self.anchor_, mine)
        decided: NDArray[np.bool_] = shares.max(1) >= self.enough_[shares.argmax(1)]
        return decided

    def predict_proba(self, x: Any) -> NDArray[np.float64]:
        """``[n, K]``: the anchor's shares where it answers, elsewhere the rest's."""
        rows, mine = torch.as_tensor(np.asarray(x)), self._anchored(x)
        anchored = probabilities(self.anchor_, mine)
        decided = anchored.max(1) >= self.enough_[anchored.argmax(1)]
        return np.where(decided[:, None], anchored, probabilities(self.rest_, rows))

    def predict(self, x: Any) -> NDArray[Any]:
        """``[n]``: the classes."""
        shares = self.predict_proba(x)
        answers: NDArray[Any] = self.classes_[shares.argmax(1)]
        return answers

    @property
    def searchable(self) -> Any:
        """The estimator that an attack has to mislead: only rows that it answers can fall."""
        return self.rest_.estimator

    def _anchored(self, x: Any) -> Tensor:
        rows = torch.as_tensor(np.asarray(x))
        if not hasattr(self, "anchor_"):
            raise ModelError("the classifier is not fitted", "call its fit() before")
        if rows.dim() != 2 or rows.shape[1] != self.n_features_in_:
            raise ModelError(f"rows of shape {tuple(rows.shape)}", f"give [n, {self.n_features_in_}]")
        return rows[:, list(self.fixed)]


def _try_out(rest: Any, x: Tensor, y: Tensor) -> None:
    """Raise ``ModelError`` where ``rest`` cannot be fitted on some of the rows ``x``, or gives no probabilities."""
    few = torch.linspace(0, len(x) - 1, min(len(x), _TRIED), dtype=torch.float64).long()
    try:
        probabilities(fitted(rest, x[few], y[few]), x[:1])
    except (AttributeError, IndexError, TypeError, ValueError, ModelError) as error:
        raise ModelError(
            f"rest cannot stand in for the estimator ({str(error).splitlines()[0]})",
            "give a classifier that takes these rows and tells probabilities; VotingClassifier does with "
            'voting="soft"',
        ) from None


def thresholds(
    sure: NDArray[np.float64],
    said: NDArray[np.int64],
    anchor_right: NDArray[np.bool_],
    rest_right: NDArray[np.bool_],
    classes: int,
    most_lost: float,
) -> NDArray[np.float64]:
    """``[K]``: how sure the anchor must be of each class, so that it answers as many rows right as it can while at most
    a share ``most_lost`` of all rows is lost to it.

    What classes gain and lose adds up, so each takes its best threshold at a common price of a lost row; the price is
    the one at which the most are gained. Then each class is moved as far as what is left allows.

    >>> rows = np.array([0.9, 0.8, 0.7]), np.array([0, 0, 0]), np.array([1, 1, 0]) > 0, np.array([1, 1, 1]) > 0
    >>> thresholds(*rows, classes=2, most_lost=0.0)
    array([0.8, inf])
    """
    curves = []
    for name in range(classes):
        mine = np.flatnonzero(said == name)
        mine = mine[np.argsort(-sure[mine], kind="stable")]
        levels = sure[mine]
        ends = np.flatnonzero(np.diff(levels, append=-np.inf) != 0)  # equally sure rows go together
        gained = anchor_right[mine].cumsum()[ends]
        lost = (rest_right[mine].astype(int) - anchor_right[mine]).cumsum()[ends]
        curves.append([np.append(a, b) for a, b in ((np.inf, levels[ends]), (0, gained), (0, lost))])
    allowed = most_lost * len(sure) + 1e-9
    best, most = [0] * classes, -1
    for price in _PRICES:
        picks = [int(np.argmax(gain - price * loss)) for _, gain, loss in curves]
        gain = sum(curve[1][pick] for curve, pick in zip(curves, picks, strict=True))
        loss = sum(curve[2][pick] for curve, pick in zip(curves, picks, strict=True))
        if loss <= allowed and gain > most:
            best, most = picks, gain
    for name, (_, gain, loss) in enumerate(curves):
        others = sum(c[2][p] for k, (c, p) in enumerate(zip(curves, best, strict=True)) if k != name)
        best[name] = int(np.argmax(np.where(others + loss <= allowed, gain, -1)))
    return np.array([curve[0][pick] for curve, pick in zip(curves, best, strict=True)])

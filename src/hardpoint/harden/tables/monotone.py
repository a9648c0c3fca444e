"""Monotone models: pushing features the only way an attacker can push them never helps him."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardpoint.core.access import Access
from hardpoint.core.errors import ModelError, ThreatError
from hardpoint.core.suggest import did_you_mean
from hardpoint.harden.tables.fitting import unfitted
from hardpoint.models.sklearn import SklearnModel
from hardpoint.threats.features import DYNAMIC, Mutability, Schema

_SCIKIT_LEARN = (
    *("HistGradientBoostingClassifier", "DecisionTreeClassifier", "ExtraTreeClassifier"),
    *("RandomForestClassifier", "ExtraTreesClassifier"),
)


@dataclass(frozen=True)
class MonotoneConstraints:
    """In which direction the score of the positive class may move with each column.

    **Guarantee.** Let every column that the attacker can change be among ``guarded``. Then no change he can make turns
    a positive into a negative: each column moves only in the direction in which the score of the positive class cannot
    fall, so the score of the changed row is at least that of the original, whatever he searches. This needs no
    attack to be run. It says nothing about negatives, nor about columns in ``free``, which the attacker can move both
    ways: while there are any, ``is_complete`` is False and nothing is guaranteed against somebody who moves them.

    Attributes:
        names: of the columns.
        signs: +1 where the score may only rise with the column, -1 where it may only fall, 0 for any.
        free: columns that the attacker can move both ways.
        positive: the class, 0 or 1, that must not be hidden.
    """

    names: tuple[str, ...]
    signs: tuple[int, ...]
    free: tuple[str, ...]
    positive: int

    @property
    def guarded(self) -> tuple[str, ...]:
        """The columns that are constrained."""
        return tuple(name for name, sign in zip(self.names, self.signs, strict=True) if sign)

    @property
    def is_complete(self) -> bool:
        """Whether every column that the attacker can change is guarded. Of a list of names, those that are not said to
        increase or decrease count as fixed; a schema says which are."""
        return not self.free

    def settings(self, estimator: Any) -> dict[str, Any]:
        """The estimator's own setting for these constraints.

        Raises:
            ModelError: for estimators that know no such constraints, and pipelines, whose steps may rename, scale or
                mix columns.
        """
        own = estimator.estimator if isinstance(estimator, SklearnModel) else estimator
        name, library = type(own).__name__, type(own).__module__.partition(".")[0]
        # libraries constrain the score of the second of two classes
        signs = [sign if self.positive == 1 else -sign for sign in self.signs]
        if name in _SCIKIT_LEARN:
            return {"monotonic_cst": signs}
        if library == "lightgbm":
            return {"monotone_constraints": signs}
        if library == "xgboost":
            return {"monotone_constraints": tuple(signs)}
        raise ModelError(
            f"{name} takes no monotone constraints",
            "use scikit-learn's HistGradientBoosting, a tree or a forest, LightGBM or XGBoost, without a pipeline",
        )

    def applied(self, estimator: Any) -> Any:
        """A copy of ``estimator``, not fitted, that keeps to the constraints; ``harden_estimator`` keeps them too."""
        settings = self.settings(estimator)
        return unfitted(estimator).set_params(**settings)


def monotone_constraints(
    table: Schema | Sequence[str],
    *,
    increase: Sequence[str] = (),
    decrease: Sequence[str] = (),
    positive: int = 1,
) -> MonotoneConstraints:
    """Constraints against an attacker who hides positives by changes in one direction: who can add words to a mail or
    make payments, and not take them back.

    Args:
        table: a schema, whose mutability says what can only increase or decrease; or the names of all columns.
        increase, decrease: columns that the attacker can only increase or decrease, where ``table`` does not say so;
            they overrule the schema.
        positive: the class, 0 or 1, that must not be hidden.

    Raises:
        ThreatError: for names that are unknown or on both sides, and where there is nothing to constrain.

    After Incer, Theodorides, Afroz and Wagner, "Adversarially robust malware detection using monotonic
    classification" (IWSPA 2018).

    >>> rules = monotone_constraints(["sender_age", "good_words", "links"], increase=["good_words"])
    >>> rules.signs, rules.is_complete
    ((0, 1, 0), True)
    """
    names = table.names if isinstance(table, Schema) else tuple(table)
    for name in (*increase, *decrease):
        if name not in names:
            raise ThreatError(f"there is no column {name!r}", did_you_mean(name, names))
        if name in increase and name in decrease:
            raise ThreatError(
                f"{name!r} can both increase and decrease", "leave it out: no direction is safe"
            )
    if positive not in (0, 1):
        raise ThreatError(f"the positive class is {positive!r}", "give 0 or 1: two classes are needed")
    moves = dict.fromkeys(names, Mutability.NO)
    if isinstance(table, Schema):
        moves = {feature.name: feature.mutable for feature in table.features}
    moves |= dict.fromkeys(increase, Mutability.INCREASE) | dict.fromkeys(decrease, Mutability.DECREASE)
    sign = {Mutability.INCREASE: 1, Mutability.DECREASE: -1}
    signs = tuple(sign.get(moves[name], 0) for name in names)
    if not any(signs):
        raise ThreatError(
            "no column can only increase or only decrease", "say which: increase=[…], or mutable = 'increase'"
        )
    free = tuple(name for name in names if moves[name] is Mutability.YES)
    return MonotoneConstraints(names, signs, free, positive)


@dataclass(frozen=True)
class MonotoneCheck:
    """What a search of a grid found.

    Attributes:
        asked: how many points were looked at.
        fallen: int64 ``[k]``, rows whose positive score falls somewhere in the safe directions.
        hidden: int64 ``[h]``, rows that are positive and negative somewhere there.
        deepest: the largest fall of the score, 0 where there is none.
    """

    asked: int
    fallen: Tensor
    hidden: Tensor
    deepest: float

    @property
    def holds(self) -> bool:
        """Whether nothing was found: evidence for the guarantee from outside the library that gives it."""
        return len(self.fallen) == 0 and len(self.hidden) == 0


def check_monotone(
    model: Any,
    x: Any,
    constraints: MonotoneConstraints,
    schema: Schema | None = None,
    *,
    points: int = 5,
    most: int = 4096,
) -> MonotoneCheck:
    """Ask a fitted ``model`` about a grid of rows that an attacker can reach in the safe directions.

    Around each row, all combinations of ``points`` evenly spaced values of the guarded columns are asked about, from
    the row's own value to the end of the column; where these are more than ``most``, each column alone, and all
    together.

    Args:
        model: a fitted classifier of two classes.
        x: rows ``[n, d]`` to start from.
        constraints: what the model should keep to.
        schema: gives the columns' ends; without it they are those of ``x``.
        points: values per column.
        most: combinations per row.

    Raises:
        ModelError: for a model with other than two classes, or without scores.
    """
    adapter = model if isinstance(model, SklearnModel) else SklearnModel(model)
    if len(adapter.classes) != 2 or adapter.access < Access.SCORES:
        raise ModelError(
            f"{adapter!r} gives no scores of two classes", "give a classifier with predict_proba"
        )
    rows = torch.as_tensor(x)
    rows = rows if rows.is_floating_point() else rows.float()
    low, high = rows.amin(0), rows.amax(0)
    if schema is not None:
        low = torch.tensor([low[i] if f.low == DYNAMIC else f.low for i, f in enumerate(schema.features)])
        high = torch.tensor([high[i] if f.high == DYNAMIC else f.high for i, f in enumerate(schema.features)])
    columns = [column for column, sign in enumerate(constraints.signs) if sign]
    combinations = _combinations(len(columns), points, most)
    share = torch.zeros(len(combinations), rows.shape[1], dtype=rows.dtype)
    share[:, columns] = combinations.to(rows.dtype)
    rises = torch.tensor([sign > 0 for sign in constraints.signs])
    ends = torch.where(rises, torch.maximum(high.to(rows), rows), torch.minimum(low.to(rows), rows))
    sign = 1.0 if constraints.positive == 1 else -1.0
    fallen, hidden, deepest = [], [], 0.0
    for number, (row, end) in enumerate(zip(rows, ends, strict=True)):
        scores = adapter.scores(torch.lerp(row.expand_as(share), end.expand_as(share), share))
        score = sign * (scores[:, 1] - scores[:, 0])
        fall = float(score[0] - score.min())  # the first combination is the row itself
        deepest = max(deepest, fall)
        if fall > 1e-6 * (1 + abs(float(score[0]))):
            fallen.append(number)
        if float(score[0]) > 0 >= float(score.min()):
            hidden.append(number)
    return MonotoneCheck(
        len(rows) * len(share),
        torch.tensor(fallen, dtype=torch.int64),
        torch.tensor(hidden, dtype=torch.int64),
        deepest,
    )


def _combinations(columns: int, points: int, most: int) -> Tensor:
    """float64 ``[k, columns]``: shares of the way to the ends, the first of all zeros."""
    steps = torch.linspace(0, 1, max(2, points), dtype=torch.float64)
    if len(steps) ** columns <= most:
        return torch.tensor(list(itertools.product(steps.tolist(), repeat=columns)), dtype=torch.float64)
    alone = torch.cat(
        [steps.unsqueeze(1) * torch.eye(columns, dtype=torch.float64)[i] for i in range(columns)]
    )
    return torch.cat([alone, steps.unsqueeze(1).expand(-1, columns)])

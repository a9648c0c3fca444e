"""Looks for schemas that say something else than meant, with the data they describe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from hardpoint.core.errors import DataError
from hardpoint.core.rng import Rng
from hardpoint.threats.features.feature import Feature, Mutability
from hardpoint.threats.features.relations import Relation, Rows
from hardpoint.threats.features.schema import Schema

_SAMPLES = 8192


class LintKind(Enum):
    """What is amiss; the value says so in a few words."""

    VACUOUS_RELATION = "no row breaks the relation"
    BROKEN_RELATION = "clean rows break the relation"
    OUT_OF_BOUNDS = "clean rows lie outside the bounds"
    NOT_WHOLE = "clean rows hold fractions in a whole column"
    WRONG_LEVEL = "clean rows hold values that are no levels"
    NOT_ONE_HOT = "clean rows have not exactly one 1 in a group"
    NOT_FINITE = "clean rows hold NaN or infinity"
    ALL_MUTABLE = "every feature can be changed"
    NONE_MUTABLE = "no feature can be changed"
    CONSTANT = "the feature has one value in the data"
    EMPTY_RANGE = "the bounds leave one value"


@dataclass(frozen=True)
class LintIssue:
    """One thing a person should look at.

    Attributes:
        kind: what kind of thing.
        subject: the relation, feature or group it is about.
        message: what was found.
        cure: what to do about it.
        measured: the number it rests on: a share of rows, or a count of features or random rows.
    """

    kind: LintKind
    subject: str
    message: str
    cure: str
    measured: float


def lint(schema: Schema, x: Tensor, tolerated: float = 0.01) -> list[LintIssue]:
    """What in ``schema`` contradicts the clean rows ``x`` ``[n, d]`` or says nothing.

    A relation counts as vacuous when none of 8192 random rows breaks it (values drawn from the bounds, half of them
    at an end): strong evidence, not a proof. A relation may be broken by up to ``tolerated`` of the clean rows; a
    bound or kind by none.

    Raises:
        DataError: for rows of another shape, or none.

    >>> from hardpoint.threats.features.feature import Kind
    >>> schema = Schema([Feature("a", Kind.INTEGER, 0, 9)], ["a >= 0 or a > 3"])
    >>> [issue.kind.name for issue in lint(schema, torch.tensor([[1.0], [2.0]]))]
    ['ALL_MUTABLE', 'VACUOUS_RELATION']
    """
    rows = schema.rows(x)
    if len(x) == 0:
        raise DataError("there are no rows to compare the schema with", "give some clean rows")
    issues = _features(schema, rows) + _values(schema, x, rows)
    low, high = _bounds(schema, rows)
    for relation in schema.relations:
        issues += _relation(schema, relation, rows, low, high, tolerated)
    return issues


def _features(schema: Schema, rows: Rows) -> list[LintIssue]:
    count = len(schema.features)
    mutable = sum(feature.mutable is not Mutability.NO for feature in schema.features)
    issues = []
    if mutable == count:
        message, cure = (
            f"all {count} features can be changed",
            "set mutable = 'no' where an attacker has no hand",
        )
        issues.append(LintIssue(LintKind.ALL_MUTABLE, "schema", message, cure, float(count)))
    if mutable == 0:
        message, cure = (
            f"none of {count} features can be changed",
            "set mutable = 'yes' where an attacker can",
        )
        issues.append(LintIssue(LintKind.NONE_MUTABLE, "schema", message, cure, 0.0))
    for name, feature in zip(schema.names, schema.features, strict=True):
        column = rows.column(name)
        if feature.range == 0:
            message, cure = (
                f"{name} has low = high = {feature.low}",
                "widen its bounds, or set mutable = 'no'",
            )
            issues.append(LintIssue(LintKind.EMPTY_RANGE, name, message, cure, 0.0))
        elif len(column) > 1 and bool((column == column[0]).all()):
            message = f"{name} is {column[0].item():g} in all {len(column)} rows"
            cure = "a model cannot have learnt from it; set mutable = 'no', or give rows where it varies"
            issues.append(LintIssue(LintKind.CONSTANT, name, message, cure, float(len(column))))
    return issues


def _values(schema: Schema, x: Tensor, rows: Rows) -> list[LintIssue]:
    """Clean rows that break a bound or a kind."""
    low, high = schema.limits(x)
    outside = (rows.values < low) | (rows.values > high)
    finite = torch.isfinite(rows.values)
    issues: list[LintIssue] = []

    def note(kind: LintKind, subject: str, wrong: Tensor, what: Callable[[int], str], cure: str) -> None:
        if bool(wrong.any()):
            first = int(wrong.int().argmax())
            message = f"{int(wrong.sum())} of {len(wrong)} rows, first row {first}: {what(first)}"
            issues.append(LintIssue(kind, subject, message, cure, float(wrong.double().mean())))

    for column, feature in enumerate(schema.features):
        name, value = feature.name, rows.values[:, column]

        def found(row: int, name: str = name, value: Tensor = value) -> str:
            return f"{name} is {value[row].item():g}"

        def bounded(row: int, feature: Feature = feature, value: Tensor = value) -> str:
            return f"{feature.name} is {value[row].item():g}, bounds [{feature.low}, {feature.high}]"

        whole, ok = value == value.round(), finite[:, column]
        note(LintKind.NOT_FINITE, name, ~ok, found, "drop the rows or impute the value")
        note(
            LintKind.OUT_OF_BOUNDS,
            name,
            ok & outside[:, column],
            bounded,
            "widen the bounds or correct the rows",
        )
        if feature.whole:
            note(LintKind.NOT_WHOLE, name, ok & ~whole, found, "make the feature real, or correct the rows")
        elif feature.levels:
            wrong = schema.faults(x)[f"{name} is none of its levels"]
            note(LintKind.WRONG_LEVEL, name, ok & wrong, found, "list the level, or correct the rows")
    for group, columns in schema.groups.items():
        wrong = rows.values[:, list(columns)].sum(1) != 1

        def summed(row: int, group: str = group, columns: tuple[int, ...] = columns) -> str:
            return f"the columns of {group} sum to {rows.values[row, list(columns)].sum().item():g}"

        note(LintKind.NOT_ONE_HOT, group, wrong, summed, "correct the group's members or the rows")
    return issues


def _bounds(schema: Schema, rows: Rows) -> tuple[Tensor, Tensor]:
    """``[d]`` ends for random rows: the schema's bounds, those of the data where they depend on the row."""
    finite = torch.where(torch.isfinite(rows.values), rows.values, torch.nan)
    seen = finite.nan_to_num(torch.inf).amin(0), finite.nan_to_num(-torch.inf).amax(0)
    ends = []
    for bounds, data in zip(
        ([f.low for f in schema.features], [f.high for f in schema.features]), seen, strict=True
    ):
        ends.append(
            torch.tensor(
                [d if isinstance(b, str) else b for b, d in zip(bounds, data.tolist(), strict=True)],
                dtype=torch.float64,
            ).nan_to_num(0.0, 0.0, 0.0)
        )
    return ends[0], torch.maximum(ends[0], ends[1])


def _random_rows(schema: Schema, relation: Relation, low: Tensor, high: Tensor) -> Rows:
    """Random rows in the features a relation looks at; the others are at their low end."""
    index = torch.arange(_SAMPLES)
    rng = Rng(0).fork("lint").fork(relation.text)
    values = low.expand(_SAMPLES, -1).clone()
    for name in relation.features:
        column = schema.index(name)
        feature, draw = schema.features[column], rng.fork(name)
        end = draw.fork("end").uniform(index, (), 0, torch.float64)
        u = draw.fork("value").uniform(index, (), 0, torch.float64)
        value = low[column] + u * (high[column] - low[column])
        value = torch.where(end < 0.25, low[column], torch.where(end < 0.5, high[column], value))
        if feature.levels:
            levels = torch.tensor(feature.levels, dtype=torch.float64)
            value = levels[(u * len(levels)).long()]
        values[:, column] = value.round() if feature.whole else value
    for group, columns in schema.groups.items():
        u = rng.fork("group").fork(group).uniform(index, (len(columns),), 0, torch.float64)
        values[:, list(columns)] = torch.zeros_like(u).scatter(1, u.argmax(1, keepdim=True), 1.0)
    return Rows(values, {name: column for column, name in enumerate(schema.names)})


def _relation(
    schema: Schema, relation: Relation, rows: Rows, low: Tensor, high: Tensor, tolerated: float
) -> list[LintIssue]:
    issues = []
    random = _random_rows(schema, relation, low, high)
    if bool(relation.check(random).all()) and bool(relation.check(rows).all()):
        message = f"'{relation}' holds on all of {_SAMPLES} random rows within the bounds"
        cure = "correct the relation or the bounds, or remove it"
        issues.append(LintIssue(LintKind.VACUOUS_RELATION, relation.text, message, cure, float(_SAMPLES)))
    broken = ~relation.check(rows)
    share = float(broken.double().mean())
    if share > tolerated:
        first = int(broken.int().argmax())
        shown = ", ".join(f"{name} = {rows.column(name)[first].item():g}" for name in relation.features[:6])
        message = (
            f"'{relation}' is broken by {int(broken.sum())} of {len(broken)} rows, first row {first}: {shown}"
        )
        cure = "correct the relation, or leave these rows out: nothing is allowed around them"
        issues.append(LintIssue(LintKind.BROKEN_RELATION, relation.text, message, cure, share))
    return issues

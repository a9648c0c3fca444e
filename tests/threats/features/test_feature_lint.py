"""Lint finds what it should, and says nothing of a sound schema."""

from __future__ import annotations

import pytest
import torch

from hardpoint.core.errors import DataError
from hardpoint.threats.features import Feature, Kind, LintKind, Mutability, Schema, lint

FIXED = Feature("fixed", Kind.REAL, 0, 1, Mutability.NO)


def _kinds(schema: Schema, rows: list[list[float]]) -> list[tuple[LintKind, str]]:
    return [(issue.kind, issue.subject) for issue in lint(schema, torch.tensor(rows))]


def test_a_sound_schema_has_no_issue():
    schema = Schema([Feature("a", Kind.INTEGER, 0, 9), Feature("b", Kind.INTEGER, 0, 9), FIXED], ["a <= b"])
    assert _kinds(schema, [[1, 2, 0.1], [3, 3, 0.2]]) == []


@pytest.mark.parametrize(
    ("relation", "vacuous"),
    [
        ("a >= 0 or b > 0", True),
        ("a > 9 implies b > 3", True),
        ("a <= b + 9", True),
        ("a - b == a - b", True),
        ("a > 0 implies b > 0", False),
        ("a <= b + 8", False),
        ("a == b", False),
        ("share == 0 implies a == 0", False),
        ("red == 1 implies green == 0", True),
        ("red == 1 implies a <= 8", False),
        ("own <= 7", True),
        ("own <= 4", False),
    ],
)
def test_vacuous_relations_are_those_no_row_in_bounds_breaks(relation, vacuous):
    schema = Schema(
        [
            Feature("a", Kind.INTEGER, 0, 9),
            Feature("b", Kind.INTEGER, 0, 9),
            Feature("share", Kind.REAL, 0, 1),
            Feature("red", Kind.ONE_HOT, group="colour"),
            Feature("green", Kind.ONE_HOT, group="colour"),
            Feature("own", Kind.INTEGER, "dynamic", "dynamic"),
        ],
        [relation],
    )
    rows = torch.tensor([[0.0, 0.0, 0.5, 1, 0, 2], [0.0, 0.0, 0.2, 0, 1, 7]])
    found = [issue for issue in lint(schema, rows) if issue.kind is LintKind.VACUOUS_RELATION]
    assert [issue.subject for issue in found] == ([relation] if vacuous else [])


def test_relations_broken_by_clean_rows_are_measured():
    schema = Schema([Feature("a", Kind.INTEGER, 0, 9), FIXED], ["a <= 5"])
    rows = torch.zeros(200, 2)
    rows[:, 0] = torch.arange(200) % 5
    rows[:, 1] = torch.linspace(0, 1, 200)
    rows[7, 0], rows[8, 0] = 9, 8
    assert lint(schema, rows) == []
    (issue,) = lint(schema, rows, tolerated=0.005)
    assert issue.kind is LintKind.BROKEN_RELATION
    assert issue.measured == 0.01
    assert "2 of 200 rows, first row 7: a = 9" in issue.message


@pytest.mark.parametrize(
    ("feature", "values", "kind"),
    [
        (Feature("a", Kind.REAL, 0, 1), [0.5, 1.5], LintKind.OUT_OF_BOUNDS),
        (Feature("a", Kind.INTEGER, 0, 9), [1, 1.5], LintKind.NOT_WHOLE),
        (Feature("a", Kind.ORDINAL, levels=(0, 2, 4)), [0, 3], LintKind.WRONG_LEVEL),
        (Feature("a", Kind.REAL, 0, 1), [0.5, float("nan")], LintKind.NOT_FINITE),
        (Feature("a", Kind.REAL, 0, 1), [0.5, 0.5], LintKind.CONSTANT),
        (Feature("a", Kind.REAL, 1, 1), [1, 1], LintKind.EMPTY_RANGE),
    ],
)
def test_columns_that_contradict_their_feature(feature, values, kind):
    schema = Schema([feature, FIXED])
    assert _kinds(schema, [[values[0], 0.1], [values[1], 0.2]]) == [(kind, "a")]


def test_one_hot_rows_and_mutability():
    group = [Feature(name, Kind.ONE_HOT, group="g") for name in ("p", "q")]
    assert _kinds(Schema(group), [[1, 0], [0, 0], [0, 1]]) == [
        (LintKind.ALL_MUTABLE, "schema"),
        (LintKind.NOT_ONE_HOT, "g"),
    ]
    assert _kinds(Schema([FIXED]), [[0.1], [0.2]]) == [(LintKind.NONE_MUTABLE, "schema")]


def test_no_rows_is_an_error():
    with pytest.raises(DataError):
        lint(Schema([FIXED]), torch.zeros(0, 1))

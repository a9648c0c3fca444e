"""Schemas: what is valid, what is refused, what is proposed from data."""

from __future__ import annotations

import pytest
import torch

from hardpoint.core.errors import DataError, ThreatError
from hardpoint.threats.features import Feature, Kind, Mutability, Schema

COLOUR = [Feature(name, Kind.ONE_HOT, group="colour") for name in ("red", "green")]
SCHEMA = Schema(
    [
        Feature("size", Kind.INTEGER, 0, 9),
        Feature("share", Kind.REAL, 0, 0.7),
        Feature("flag", Kind.BINARY),
        *COLOUR,
        Feature("grade", Kind.ORDINAL, levels=(1, 2.5, 7)),
        Feature("age", Kind.INTEGER, "dynamic", 99),
    ],
    ["flag == 1 implies size > 2"],
)
GOOD = [3.0, 0.5, 1.0, 0.0, 1.0, 2.5, 40.0]


@pytest.mark.parametrize(
    ("column", "value", "complaint"),
    [
        (0, 10.0, "size is outside"),
        (0, 3.5, "size is not whole"),
        (1, -0.1, "share is outside"),
        (2, 0.5, "flag is not whole"),
        (3, 1.0, "colour has not exactly one 1"),
        (4, 0.0, "colour has not exactly one 1"),
        (5, 2.0, "grade is none of its levels"),
        (6, 100.0, "age is outside"),
        (0, 2.0, "relation 'flag == 1 implies size > 2' is broken"),
    ],
)
def test_each_fault_is_named(column, value, complaint):
    rows = torch.tensor([GOOD, GOOD])
    rows[1, column] = value
    assert SCHEMA.check(rows).tolist() == [True, False]
    good, bad = SCHEMA.violations(rows)
    assert good == ()
    assert len(bad) == 1
    assert complaint in bad[0]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_no_column_may_hold_what_is_no_number(value):
    rows = torch.tensor([GOOD] * len(GOOD))
    rows.fill_diagonal_(value)
    assert not SCHEMA.check(rows).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_value_at_its_bound_or_level_is_valid_however_it_is_stored(dtype):
    schema = Schema([Feature("a", Kind.REAL, 0.1, 0.7), Feature("b", Kind.ORDINAL, levels=(0.1, 0.3))])
    x = torch.tensor([[0.1, 0.3], [0.7, 0.1]], dtype=torch.float64).to(dtype)
    assert schema.check(x).all()
    assert schema.check(x.double()).all()
    assert not schema.check(torch.tensor([[0.0999999, 0.3], [0.5, 0.30001]], dtype=dtype)).any()


@pytest.mark.parametrize(
    ("build", "what", "cure"),
    [
        (lambda: Feature("a", Kind.REAL, 2, 1), "low 2 above high 1", "swap"),
        (lambda: Feature("a", Kind.REAL, 0, float("inf")), "high of feature 'a'", "finite"),
        (lambda: Feature("a", Kind.REAL, float("nan"), 1), "low of feature 'a'", "finite"),
        (lambda: Feature("a", cost=0), "cost of feature 'a'", "above 0"),
        (lambda: Feature("a", Kind.BINARY, 0, 2), "binary", "integer"),
        (lambda: Feature("a", Kind.ONE_HOT), "without a group", "group"),
        (lambda: Feature("a", Kind.REAL, group="g"), "with a group", "group"),
        (lambda: Feature("a", Kind.ORDINAL), "without levels", "levels"),
        (lambda: Feature("a", Kind.ORDINAL, levels=(2, 1)), "levels", "low to high"),
        (lambda: Feature("a", Kind.ONE_HOT, mutable=Mutability.INCREASE, group="g"), "only increase", "yes"),
        (lambda: Feature(""), "name", "rename"),
        (lambda: Feature("a`b"), "backtick", "rename"),
        (lambda: Schema([]), "no features", "column"),
        (lambda: Schema([Feature("a"), Feature("a")]), "'a' appears twice", "own name"),
        (lambda: Schema([Feature("a", Kind.ONE_HOT, group="g")]), "one member", "binary"),
        (lambda: Schema([Feature("length")], ["lenght > 0"]), "'lenght'", "did you mean 'length'"),
        (lambda: Schema([Feature("a")]).index("b"), "'b'", "use one of: a"),
    ],
)
def test_contradictions_are_refused_with_a_cure(build, what, cure):
    with pytest.raises(ThreatError) as caught:
        build()
    assert what in caught.value.what
    assert cure in caught.value.cure


def test_a_half_mutable_one_hot_group_is_refused():
    frozen = Feature("blue", Kind.ONE_HOT, mutable=Mutability.NO, group="colour")
    with pytest.raises(ThreatError, match="mutable in part"):
        Schema([*COLOUR, frozen])


def test_rows_of_another_width_are_refused():
    with pytest.raises(DataError, match="7 features"):
        SCHEMA.check(torch.zeros(2, 3))


def test_freedom_follows_mutability_and_dynamic_bounds():
    features = [Feature(word.value, Kind.REAL, 0, 10, word) for word in Mutability]
    schema = Schema(
        [*features, Feature("own", Kind.REAL, "dynamic", 10), Feature("top", Kind.REAL, 0, "dynamic")]
    )
    low, high = schema.freedom(torch.full((1, 6), 4.0))
    assert dict(zip(schema.names, zip(low[0].tolist(), high[0].tolist(), strict=True), strict=True)) == {
        "no": (4.0, 4.0),
        "yes": (0.0, 10.0),
        "increase": (4.0, 10.0),
        "decrease": (0.0, 4.0),
        "own": (4.0, 10.0),
        "top": (0.0, 4.0),
    }


def test_learnt_schemas_accept_the_rows_they_were_learnt_from():
    generator = torch.Generator().manual_seed(0)
    n = 50
    hot = torch.nn.functional.one_hot(torch.randint(3, (n,), generator=generator), 3)
    both = torch.stack([torch.ones(n), torch.zeros(n)], 1)
    x = torch.cat(
        [
            torch.rand(n, 1, generator=generator),
            torch.randint(5, (n, 1), generator=generator),
            hot,
            torch.randint(2, (n, 2), generator=generator),
            both[:, :1],
        ],
        dim=1,
    )
    names = ["share", "count", "os_mac", "os_win", "os_lin", "is_a", "is_b", "always"]
    schema = Schema.learn(x, names)
    assert [f.kind for f in schema.features] == [
        Kind.REAL,
        Kind.INTEGER,
        *([Kind.ONE_HOT] * 3),
        Kind.BINARY,
        Kind.BINARY,
        Kind.INTEGER,
    ]
    assert schema.groups == {"os": (2, 3, 4)}
    assert schema.check(x).all()
    assert schema.check(x.double()).all()


def test_learning_refuses_nan_naming_the_place():
    with pytest.raises(DataError, match="row 1, column 'b'"):
        Schema.learn(torch.tensor([[1.0, 2.0], [1.0, torch.nan]]), ["a", "b"])


def test_equal_schemas_share_hash_and_digest_and_others_do_not():
    again = Schema(SCHEMA.features, SCHEMA.relations)
    assert (again, hash(again), again.sha256) == (SCHEMA, hash(SCHEMA), SCHEMA.sha256)
    assert SCHEMA.with_relations("size < 9").sha256 != SCHEMA.sha256

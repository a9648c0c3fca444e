"""Relations against an independent reading of the same trees, on random trees and rows."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.threats.features.expression import (
    And,
    Call,
    Compare,
    Count,
    Function,
    Implies,
    Negative,
    Not,
    Number,
    Op,
    Or,
    Product,
    Quotient,
    Ref,
    Sum,
    names,
    normal,
    text,
)
from hardpoint.threats.features.parser import parse_condition
from hardpoint.threats.features.relations import Relation, Rows, hinge, holds

# the random trees are described at length nowhere but in a failure
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")
NAMES = ("a", "b", "has space", "not", "sum")
INDEX = {name: column for column, name in enumerate(NAMES)}

numbers = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]).map(Number)
leaves = st.one_of(numbers, st.sampled_from(NAMES).map(Ref))


def _composite(values, conditions):
    pair = st.tuples(values, values)
    several = st.lists(values, min_size=2, max_size=3).map(tuple)
    return st.one_of(
        values.filter(lambda v: not isinstance(v, Number)).map(Negative),
        several.map(Sum),
        pair.map(lambda p: Product(*p)),
        pair.map(lambda p: Quotient(*p)),
        values.map(lambda v: Call(Function.ABS, (v,))),
        several.map(lambda v: Call(Function.MIN, v)),
        several.map(lambda v: Call(Function.MAX, v)),
        st.lists(conditions, min_size=1, max_size=3).map(lambda c: Count(tuple(c))),
    )


def _conditions(values):
    return st.builds(Compare, st.sampled_from(Op), values, values)


simple = st.deferred(lambda: _simple)
values = st.deferred(lambda: _values)
conditions = st.deferred(lambda: _all_conditions)
_simple = _composite(leaves, _conditions(leaves))
_values = st.one_of(leaves, simple, _composite(st.one_of(leaves, simple), _conditions(simple)))
_all_conditions = st.recursive(
    _conditions(values),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda p: And(tuple(p))),
        st.lists(inner, min_size=2, max_size=3).map(lambda p: Or(tuple(p))),
        inner.map(Not),
        st.tuples(inner, inner).map(lambda p: Implies(*p)),
    ),
    max_leaves=5,
)
tables = st.lists(
    st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 5.0]), min_size=5, max_size=5),
    min_size=1,
    max_size=6,
)


def read(node, row):
    """What a node means for one row, in plain Python."""
    match node:
        case Number(value):
            return value
        case Ref(name):
            return row[INDEX[name]]
        case Negative(part):
            return -read(part, row)
        case Sum(terms):
            total = read(terms[0], row)
            for term in terms[1:]:
                total = total + read(term, row)
            return total
        case Product(left, right):
            return read(left, row) * read(right, row)
        case Quotient(left, right):
            below = read(right, row)
            return read(left, row) / below if below != 0 else 0.0
        case Call(Function.ABS, (value,)):
            return abs(read(value, row))
        case Call(Function.MIN, args):
            return min(read(arg, row) for arg in args)
        case Call(Function.MAX, args):
            return max(read(arg, row) for arg in args)
        case Count(parts):
            return float(sum(read(part, row) for part in parts))
        case Compare(op, first, second):
            left, right = read(first, row), read(second, row)
            near = abs(left - right) <= 1e-6 * max(1.0, abs(left), abs(right))
            return {
                Op.LE: left <= right,
                Op.LT: left < right,
                Op.GE: left >= right,
                Op.GT: left > right,
                Op.EQ: near,
                Op.NE: not near,
            }[op]
        case And(parts):
            return all(read(part, row) for part in parts)
        case Or(parts):
            return any(read(part, row) for part in parts)
        case Not(part):
            return not read(part, row)
        case Implies(premise, conclusion):
            return (not read(premise, row)) or read(conclusion, row)
    raise AssertionError(node)


@settings(max_examples=150, deadline=None)
@given(conditions, tables)
def test_check_agrees_with_plain_python_and_hinge_is_zero_exactly_there(condition, table):
    x = torch.tensor(table, dtype=torch.float64)
    expected = torch.tensor([read(condition, row) for row in table])
    assert torch.equal(holds(condition, Rows(x, INDEX)), expected)
    assert torch.equal(holds(normal(condition), Rows(x, INDEX)), expected)
    assert torch.equal(holds(normal(condition, negate=True), Rows(x, INDEX)), ~expected)
    x.requires_grad_(True)
    loss = hinge(condition, Rows(x, INDEX))
    assert torch.equal(loss == 0, expected)
    assert bool((loss >= 0).all())
    if loss.requires_grad:
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        assert bool(torch.isfinite(gradient).all())
        assert bool((gradient[expected] == 0).all())


@settings(max_examples=150, deadline=None)
@given(conditions)
def test_text_reads_back_to_the_same_tree(condition):
    assert parse_condition(text(condition)) == condition
    assert set(names(condition)) <= set(NAMES)


def test_hinge_is_the_distance_for_plain_comparisons():
    rows = Rows(torch.tensor([[7.0, 4.0], [1.0, 4.0]]), {"a": 0, "b": 1})
    for relation, expected in [
        ("a <= b", [3.0, 0.0]),
        ("a < b", [3.0 + 1e-6, 0.0]),
        ("a == b", [3.0, 3.0]),
        ("a >= b", [0.0, 3.0]),
        ("a <= b and a <= 2 * b - 2", [4.0, 0.0]),
        ("a <= b or b >= 5", [1.0, 0.0]),
        ("a > 5 implies b > 4", [1e-6, 0.0]),
        ("log(a) <= 0", [math.log(7.0), 0.0]),
    ]:
        torch.testing.assert_close(
            Relation(relation).hinge(rows), torch.tensor(expected, dtype=torch.float64)
        )


def test_count_lets_a_gradient_through():
    x = torch.tensor([[1.0, 4.0, 0.0]], requires_grad=True)
    rows = Rows(x, {"a": 0, "b": 1, "c": 2})
    loss = Relation("count(a > 0, b > 0, c) <= 1").hinge(rows)
    assert loss.tolist() == [1.0]
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert gradient.tolist()[0][:2] == [1.0, 1.0]


def test_equality_tolerates_float32_rounding_and_no_more():
    x = torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.2, 0.30001]])
    rows = Rows(x, {"a": 0, "b": 1, "c": 2})
    assert Relation("a + b == c").check(rows).tolist() == [True, False]
    assert Relation("a + b != c").check(rows).tolist() == [False, True]


@pytest.mark.parametrize("relation", ["a <= 1", "a > 1", "not a <= 1", "a == a", "a != a", "a / a >= 0"])
def test_nan_satisfies_nothing(relation):
    rows = Rows(torch.tensor([[torch.nan]]), {"a": 0})
    assert not Relation(relation).check(rows).any()
    assert bool((Relation(relation).hinge(rows) > 0).all())


def test_infinity_is_equal_to_nothing():
    rows = Rows(torch.tensor([[torch.inf]]), {"a": 0})
    assert not Relation("a == 5").check(rows).any()
    assert bool((Relation("a == 5").hinge(rows) > 0).all())


def test_division_by_zero_gives_zero_and_log_is_total():
    rows = Rows(torch.tensor([[3.0, 0.0]]), {"a": 0, "b": 1})
    assert Relation("a / b == 0").check(rows).all()
    assert Relation("log(b) < -27").check(rows).all()
    assert Relation("log(0 - a) < -27").check(rows).all()

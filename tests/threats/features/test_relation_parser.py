"""The grammar, and errors that name the position and the cure."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.core.errors import ThreatError
from hardpoint.threats.features.expression import (
    And,
    Compare,
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
)
from hardpoint.threats.features.parser import parse_condition

A, B, C = Ref("a"), Ref("b"), Ref("c")
POSITIVE = Compare(Op.GT, A, Number(0.0))
B_POSITIVE = Compare(Op.GT, B, Number(0.0))
C_POSITIVE = Compare(Op.GT, C, Number(0.0))


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a <= b", Compare(Op.LE, A, B)),
        ("a + b * c <= 1", Compare(Op.LE, Sum((A, Product(B, C))), Number(1.0))),
        ("(a + b) * c <= 1", Compare(Op.LE, Product(Sum((A, B)), C), Number(1.0))),
        ("a - b - 3 == 0", Compare(Op.EQ, Sum((A, Negative(B), Number(-3.0))), Number(0.0))),
        ("a / b / c < 1e-3", Compare(Op.LT, Quotient(Quotient(A, B), C), Number(1e-3))),
        ("sum(a, b) != --c", Compare(Op.NE, Sum((A, B)), Negative(Negative(C)))),
        ("0 <= a <= b", And((Compare(Op.LE, Number(0.0), A), Compare(Op.LE, A, B)))),
        ("a>0 and b>0 or c>0", Or((And((POSITIVE, B_POSITIVE)), C_POSITIVE))),
        ("a > 0 implies b > 0 implies c > 0", Implies(POSITIVE, Implies(B_POSITIVE, C_POSITIVE))),
        ("not a > 0 and b > 0", And((Not(POSITIVE), B_POSITIVE))),
        ("((a > 0))", POSITIVE),
        ("`a` > 0", POSITIVE),
        ("`and` > 0", Compare(Op.GT, Ref("and"), Number(0.0))),
        ("count > 0", Compare(Op.GT, Ref("count"), Number(0.0))),
        ("größe > 0", Compare(Op.GT, Ref("größe"), Number(0.0))),
    ],
)
def test_what_text_means(text, tree):
    assert parse_condition(text) == tree


def test_names_are_listed_once_in_order():
    assert names(parse_condition("b + a <= `x y` or count(a > 0, c) == 1")) == ("b", "a", "x y", "c")


@pytest.mark.parametrize(
    ("text", "position", "cure"),
    [
        ("", 1, "write a relation"),
        ("a", 1, "compare it"),
        ("a <=", 5, "write a relation"),
        ("a = b", 3, "write =="),
        ("a > 0 && b > 0", 7, "write 'and'"),
        ("a > 0 | b > 0", 7, "write 'or'"),
        ("a ** 2 < b", 3, "product instead of a power"),
        ("a b <= c", 3, "backticks"),
        ("a <= `b", 6, "close the backtick"),
        ("a <= ``", 6, "write a relation"),
        ("(a <= b", 8, "write a relation"),
        ("a <= b)", 7, "write a relation"),
        ("a and b > 0", 1, "compare it"),
        ("(a > 0) + 1 > 0", 1, "count it"),
        ("eval(a) > 0", 1, "abs, count, log, max, min, sum"),
        ("abs(a, b) > 0", 1, "one value"),
        ("a > 1e999", 5, "smaller"),
        ("a > 0 implies", 14, "write a relation"),
        ("a > 0; import os", 6, "write a relation"),
        ("a.real > 0", 2, "write a relation"),
        ("sum() > 0", 5, "write a relation"),
    ],
)
def test_errors_name_the_position_and_the_cure(text, position, cure):
    with pytest.raises(ThreatError) as caught:
        parse_condition(text)
    assert f"position {position}:" in caught.value.what
    assert cure in caught.value.cure


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000 + "a" + ")" * 5000 + " > 0",
        "a > 0 implies " * 3000 + "a > 0",
        "not " * 3000 + "a > 0",
        "-" * 3000 + "a > 0",
        "a" + " * a" * 3000 + " > 0",
    ],
)
def test_deep_nesting_is_an_error_not_a_crash(text):
    with pytest.raises(ThreatError, match="nested too deeply"):
        parse_condition(text)


def test_long_flat_relations_are_fine():
    assert len(names(parse_condition(" + ".join(f"f{i}" for i in range(2000)) + " <= 1"))) == 2000


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab1.<>=!&|()+-*/, `andortimples\t\n\x00é", max_size=30))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ThreatError):
        assert names(parse_condition(text)) is not None

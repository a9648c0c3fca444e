"""Texts in VNN-LIB mean what they say; what is not understood is refused with its line."""

from __future__ import annotations

import gzip
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.bounds.vnnlib import Case, Property, holds, parse_vnnlib, read_vnnlib
from hardpoint.bounds.vnnlib.reading import MAX_CASES, MAX_DEPTH
from hardpoint.core.errors import DataError


def text(*asserts: str, inputs: int = 2, outputs: int = 2, box: bool = True) -> str:
    lines = [f"(declare-const X_{i} Real)" for i in range(inputs)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    if box:
        lines += [f"(assert (<= X_{i} 1))\n(assert (>= X_{i} 0))" for i in range(inputs)]
    return "\n".join([*lines, *(f"(assert {formula})" for formula in asserts)])


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def boxes(said: Property) -> list[tuple[list[float], list[float]]]:
    return [(case.low.tolist(), case.high.tolist()) for case in said.cases]


def rows(case: Case) -> list[list[float]]:
    return torch.cat([case.rows, case.offset.view(-1, 1)], 1).tolist()


def test_comparisons_become_rows_whatever_their_order():
    said = parse_vnnlib(text("(<= Y_0 Y_1)", "(>= Y_0 2.5)", "(<= 2 Y_1)", "(>= -1 (- Y_1))"))
    (case,) = said.cases
    assert rows(case) == [[1, -1, 0], [-1, 0, 2.5], [0, -1, 2], [0, -1, 1]]
    assert boxes(said) == [([0, 0], [1, 1])]
    assert not case.strict.any()


def test_two_conjunctions_are_asserted_together():
    """One reader of this format makes two cases of them, each with half a box."""
    said = parse_vnnlib(
        text(
            "(and (>= X_0 0.25) (<= X_0 0.5))",
            "(and (>= X_1 0.125) (<= X_1 0.75))",
            "(<= Y_0 Y_1)",
            box=False,
        )
    )
    assert boxes(said) == [([0.25, 0.125], [0.5, 0.75])]
    assert rows(said.cases[0]) == [[1, -1, 0]]


def test_nested_ors_and_ands_are_all_ways_to_be_unsafe():
    said = parse_vnnlib(
        text("(or (and (<= Y_1 Y_0) (or (<= Y_2 0) (<= Y_2 Y_1))) (>= Y_2 7))", "(or (<= Y_0 1))", outputs=3)
    )
    first, other = [0, 0, 1, 0], [0, -1, 1, 0]
    assert [rows(case) for case in said.cases] == [
        [[1, 0, 0, -1], [-1, 1, 0, 0], first],
        [[1, 0, 0, -1], [-1, 1, 0, 0], other],
        [[1, 0, 0, -1], [0, 0, -1, 7]],
    ]
    assert len(said.grouped()) == 1
    assert all(case.low is said.cases[0].low for case in said.cases)  # one box, held once


def test_inputs_of_several_boxes_are_cases_of_their_own():
    said = parse_vnnlib(
        text(
            "(or (and (<= X_0 0.5) (>= X_0 -3)) (and (>= X_0 0.75)) (>= X_0 2))",
            "(or (and (<= Y_0 Y_1)) (and (<= Y_1 0)))",
        )
    )
    assert boxes(said) == 2 * [([0, 0], [0.5, 1])] + 2 * [([0.75, 0], [1, 1])]  # the third box is empty
    assert [len(group) for group in said.grouped()] == [2, 2]
    assert [end.tolist() for end in said.hull()] == [[0, 0], [1, 1]]


def test_boxes_hold_the_decimals_and_are_no_wider_than_they_must():
    said = parse_vnnlib(text("(<= X_0 0.1)", "(>= X_0 0.1)", "(>= X_1 0.3)", "(<= X_1 0.5)", "(<= Y_0 0.1)"))
    (case,) = said.cases
    for place, (low, high) in enumerate([("0.1", "0.1"), ("0.3", "0.5")]):
        ends = float(case.low[place]), float(case.high[place])
        assert Fraction(ends[0]) <= Fraction(low) < Fraction(math.nextafter(ends[0], 9))
        assert Fraction(math.nextafter(ends[1], -9)) < Fraction(high) <= Fraction(ends[1])
    assert float(case.high[1]) == 0.5  # a float64 already
    assert float(case.high[0]) > float(case.low[0])
    assert (
        Fraction(float(case.offset[0]))
        <= Fraction("-0.1")
        < Fraction(float(torch.nextafter(case.offset, f64(9))[0]))
    )


def test_linear_terms_are_summed_exactly():
    said = parse_vnnlib(
        text("(<= (+ (* 2 Y_0) (* 3 (- Y_1 1)) Y_0) (- 0.5))", "(>= (* 0.1 Y_0) (+ (* 0.3 Y_1) 0.5))")
    )
    second = [-0.5, 1.5, 2.5]  # tenths are no float64: five times the row is
    assert rows(said.cases[0]) == [[3, 3, -2.5], second]
    said = parse_vnnlib(text("(<= (* 2 X_0) 1.5)", "(>= (+ X_1 X_1 1) 1.5)", "(<= Y_0 0)"))
    assert boxes(said) == [([0, 0.25], [0.75, 1])]


def test_what_is_true_or_false_by_itself():
    assert len(parse_vnnlib(text("(<= 1 2)", "(<= Y_0 0)")).cases) == 1
    assert not parse_vnnlib(text("(or (<= 2 1) (< 1 1))", "(<= Y_0 0)")).cases
    assert not parse_vnnlib(text("(<= X_0 -0.5)", "(<= Y_0 0)")).cases  # no input is there
    assert parse_vnnlib(text()).cases[0].rows.shape == (0, 2)  # every input is unsafe


def test_strict_comparisons_of_outputs_are_closed_for_proofs_and_not_for_witnesses():
    said = parse_vnnlib(text("(< Y_0 0.5)", "(> Y_1 Y_0)"))
    assert rows(said.cases[0]) == [[1, 0, -0.5], [1, -1, 0]]
    x = f64(0.5, 0.5)
    assert holds(said, x, f64(0.25, 0.5))
    assert not holds(said, x, f64(0.5, 1.0))
    assert not holds(said, x, f64(0.25, 0.25))


def _formulas() -> st.SearchStrategy:
    sides = st.sampled_from(["Y_0", "Y_1", "Y_2", "1", "-0.5"])
    atoms = st.tuples(st.sampled_from(["<=", ">=", "<", ">"]), sides, sides)
    return st.recursive(
        atoms,
        lambda parts: st.tuples(st.sampled_from(["and", "or"]), st.lists(parts, min_size=1, max_size=3)),
        max_leaves=8,
    )


def _written(formula) -> str:
    if formula[0] in ("and", "or"):
        return f"({formula[0]} {' '.join(_written(part) for part in formula[1])})"
    return "(" + " ".join(formula) + ")"


def _is_true(formula, values: dict[str, float]) -> bool:
    if formula[0] in ("and", "or"):
        return (all if formula[0] == "and" else any)(_is_true(part, values) for part in formula[1])
    first, second = (values[side] if side in values else float(side) for side in formula[1:])
    return {"<=": first <= second, ">=": first >= second, "<": first < second, ">": first > second}[
        formula[0]
    ]


@given(
    st.lists(_formulas(), min_size=1, max_size=3),
    st.lists(st.sampled_from([-1.0, -0.5, 0.0, 1.0, 2.0]), min_size=3, max_size=3),
)
def test_a_formula_is_unsafe_exactly_where_it_is_true(formulas, answer):
    said = parse_vnnlib(text(*map(_written, formulas), outputs=3))
    true = all(_is_true(formula, {f"Y_{i}": value for i, value in enumerate(answer)}) for formula in formulas)
    assert holds(said, f64(0.5, 0.5), f64(*answer)) is true


WRONG = {
    "deep": ("(" * (MAX_DEPTH + 1), "line 1: parentheses nest"),
    "very deep": ("(assert " + "(and " * 200_000, "nest"),
    "open": ("(assert (<= 1 2)\n", "line 1: .*never closed"),
    "closed twice": ("(declare-const X_0 Real)\n)", "line 2: '\\)' stands outside"),
    "word": ("hello", "'hello' stands outside"),
    "nothing": ("; only a comment", "no input X_0"),
    "empty part": ("()", "does not begin"),
    "binary": ("\x00\xff(assert)", "outside"),
    "huge": (text("(<= Y_0 1e999999999)"), "line 9: the number"),
    "long": (text(f"(<= Y_0 {'9' * 5000})"), "too many digits"),
    "input beyond float64": (text("(<= X_0 -1e309)", "(>= X_0 -1e310)", box=False, inputs=1), "beyond the largest"),
    "offset beyond float64": (text("(<= Y_0 1e400)"), "beyond the largest float64"),
    "powers": (text("(<= Y_0 (* " + "1e400 " * 3000 + "))"), "thousands of digits"),
    "NaN": (text("(<= Y_0 NaN)"), "'NaN' is no variable"),
    "infinity": (text("(<= X_0 inf)"), "'inf' is no variable"),
    "missing input": (text().replace("(declare-const X_0 Real)", ""), "'X_0' is not declared"),
    "gap": ("(declare-const X_0 Real)(declare-const X_2 Real)(declare-const Y_0 Real)", "X_2 is declared and X_1"),
    "far": ("(declare-const X_999999999 Real)(declare-const Y_0 Real)", "X_0 is not"),
    "twice": (text().replace("X_1", "X_0"), "line 2: X_0 is declared twice"),
    "no outputs": ("(declare-const X_0 Real)", "no output Y_0"),
    "integers": ("(declare-const X_0 Int)", "not of a Real"),
    "other letter": ("(declare-const Z_0 Real)", "not of a Real"),
    "no upper bound": (text("(>= X_0 0)", "(<= X_0 1)", "(>= X_1 0)", box=False), "X_1 has no upper bound"),
    "no lower bound": (text("(<= X_0 0)", "(<= X_1 0)", box=False), "X_0 has no lower bound"),
    "bound in one case alone": (
        text("(<= X_0 1)", "(<= X_1 1)", "(>= X_1 0)", "(or (>= X_0 0) (<= Y_0 0))", box=False),
        "X_0 has no lower bound",
    ),
    "undeclared output": (text("(<= Y_2 0)"), "line 9: 'Y_2' is not declared"),
    "not": (text("(not (<= Y_0 0))"), "'not' is not understood"),
    "equality": (text("(= Y_0 0)"), "'=' is not understood"),
    "chain": (text("(<= 0 Y_0 1)"), "two terms, not 3"),
    "inputs of one another": (text("(<= X_0 X_1)"), "bounded by something else"),
    "inputs and outputs": (text("(<= X_0 Y_1)"), "bounded by something else"),
    "open box": (text("(< X_0 1)"), "bounded by something else"),
    "product": (text("(<= (* Y_0 Y_1) 1)"), "multiplies variables"),
    "formula as number": (text("(<= (and (<= Y_0 1)) 1)"), "formula stands where a number"),
    "number as formula": (text("(and Y_0)"), "and takes comparisons"),
    "bare and": (text("(and)"), "and takes comparisons"),
    "two formulas": (text("(<= Y_0 1) (<= Y_1 1)"), "one formula, not 2"),
    "formula alone": (text() + "(<= Y_0 1)", "only declare-const and assert"),
    "command": ("(check-sat)", "'check-sat' is not understood"),
    "third": (text("(<= (+ (* 0.1 Y_0) (* 1e-200 Y_1)) 1)"), "cannot be written as float64"),
    "cases": (text(*["(or (<= Y_0 1) (<= Y_1 1))"] * 20), f"more than {MAX_CASES}"),
    "comparisons": (text(*["(<= Y_0 1)"] * 20, "(and " + " ".join(["(or (<= Y_0 1) (<= Y_1 1) (<= Y_1 2))"] * 12) + ")"), "more than"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_understood_is_refused_with_its_line(what):
    written, why = WRONG[what]
    with pytest.raises(DataError, match=r"the property cannot be read at line \d+") as caught:
        parse_vnnlib(written)
    assert caught.match(why)
    assert caught.value.cure


def test_deep_nesting_is_no_problem_within_its_limit():
    deep = MAX_DEPTH - 3
    said = parse_vnnlib(text("(and " * deep + "(<= Y_0 1)" + ")" * deep))
    assert rows(said.cases[0]) == [[1, 0, -1]]


def test_files_may_be_packed(tmp_path):
    plain, packed = tmp_path / "a.vnnlib", tmp_path / "a.vnnlib.gz"
    plain.write_text(text("(<= Y_0 1)"))
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for path in (plain, str(packed)):
        assert rows(read_vnnlib(path).cases[0]) == [[1, 0, -1]]


def test_files_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("hardpoint.bounds.vnnlib.files.MAX_BYTES", 1 << 20)
    broken = {
        "missing.vnnlib": None,
        "bomb.vnnlib.gz": gzip.compress(b"(" * (1 << 21)),
        "cut.vnnlib.gz": gzip.compress(text("(<= Y_0 1)").encode())[:-9],
        "damaged.vnnlib.gz": b"\x1f\x8b" + b"\x08\x00" + b"\xff" * 40,
        "long.vnnlib": b";" * ((1 << 20) + 1),
        "empty.vnnlib": b"",
    }
    for name, content in broken.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name.split(".")[0]):
            read_vnnlib(tmp_path / name)
    with pytest.raises(DataError, match="cannot read"):
        read_vnnlib(tmp_path)

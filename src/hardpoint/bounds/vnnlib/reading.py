"""The VNN-LIB format, version 1: parts in parentheses that say where inputs lie and which answers are unsafe.

Demirovic et al., "VNN-LIB: the verification of neural networks library" (www.vnnlib.org), as the competitions VNN-COMP
2020 to 2025 use it: ``declare-const`` of ``X_i`` and ``Y_i``, and ``assert`` of ``and``, ``or``, comparisons and linear
terms. Several asserts hold together. What else a file says is refused with its line.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from hardpoint.bounds.vnnlib.cases import Bound, Conjunction, Disjunction, Row, cases
from hardpoint.bounds.vnnlib.property import Property
from hardpoint.bounds.vnnlib.terms import (
    Linear,
    Malformed,
    difference,
    number,
    product,
    total,
    with_exact_factors,
)
from hardpoint.core.errors import DataError

MAX_CASES = 20_000
"""The most cases that nested ``and`` and ``or`` may expand to."""
MAX_DEPTH = 1000
"""How deep parentheses may nest."""
MAX_WORK = 20_000_000
"""How many comparisons all cases together may hold."""

_TOKEN = re.compile(r";[^\n]*|[()]|[^\s();]+")
_VARIABLE = re.compile(r"([XY])_(0|[1-9][0-9]{0,8})")
_COMPARISONS = ("<=", ">=", "<", ">")
_ONE = Fraction(1)


def parse_vnnlib(text: str, name: str = "the property") -> Property:
    """The property that ``text`` writes.

    Args:
        text: what a ``.vnnlib`` file holds.
        name: of the file, for messages.

    Raises:
        DataError: for what is not understood, with its line.

    >>> said = parse_vnnlib('''(declare-const X_0 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
    ... (assert (and (>= X_0 0.25) (<= X_0 0.5)))
    ... (assert (or (<= Y_0 Y_1) (>= Y_0 10)))''')
    >>> [(case.rows.tolist(), case.offset.tolist()) for case in said.cases]
    [([[1.0, -1.0]], [0.0]), ([[-1.0, 0.0]], [10.0])]
    """
    reader, offset = _Reader(), 0
    try:
        for offset, token in _tokens(text):
            reader.take(offset, token)
        offset = reader.open[-1].offset if reader.open else len(text)
        if reader.open:
            raise Malformed("a parenthesis is never closed")
        return reader.property()
    except Malformed as wrong:
        line = text.count("\n", 0, offset) + 1
        raise DataError(
            f"{name} cannot be read at line {line}: {wrong}",
            "write it in VNN-LIB 1, as hardpoint.bounds.vnnlib says",
        ) from None


def _tokens(text: str) -> Iterator[tuple[int, str]]:
    return ((found.start(), found[0]) for found in _TOKEN.finditer(text) if found[0][0] != ";")


@dataclass(frozen=True)
class _Said:
    """An assert or a declaration that was taken note of."""


_Part = str | Linear | Disjunction | _Said


class _Open:
    """A part whose parenthesis is not closed yet, and what it holds so far."""

    def __init__(self, offset: int) -> None:
        self.offset, self.parts = offset, list[_Part]()


class _Reader:
    """Reads tokens one after the other; each part is understood when its parenthesis closes, so nothing recurs."""

    def __init__(self) -> None:
        self.open: list[_Open] = []
        self.declared: dict[str, set[int]] = {"X": set(), "Y": set()}
        self.fixed: list[Bound | Row] = []
        self.choices: list[Disjunction] = []
        self.work = 0

    def take(self, offset: int, token: str) -> None:
        if token == "(":
            if len(self.open) == MAX_DEPTH:
                raise Malformed(f"parentheses nest more than {MAX_DEPTH} deep")
            self.open.append(_Open(offset))
        elif not self.open:
            raise Malformed(f"{token[:30]!r} stands outside parentheses")
        elif token == ")":
            part = self._understood(self.open.pop().parts)
            if self.open:
                self.open[-1].parts.append(part)
            elif not isinstance(part, _Said):
                raise Malformed("only declare-const and assert may stand alone")
        else:
            self.open[-1].parts.append(token)

    def property(self) -> Property:
        for letter, what in (("X", "input"), ("Y", "output")):
            found = self.declared[letter]
            if not found:
                raise Malformed(f"no {what} {letter}_0 is declared")
            if max(found) >= len(found):
                missing = next(i for i in range(len(found)) if i not in found)
                raise Malformed(f"{letter}_{max(found)} is declared and {letter}_{missing} is not")
        inputs, outputs = len(self.declared["X"]), len(self.declared["Y"])
        return Property(inputs, outputs, cases(inputs, outputs, self.fixed, self._all(self.choices)))

    def _understood(self, parts: list[_Part]) -> _Part:
        head, *rest = parts or [""]
        if not isinstance(head, str) or not head:
            raise Malformed("a part does not begin with a word")
        if head == "declare-const":
            return self._declare(rest)
        if head == "assert":
            (formula,) = self._formulas(head, rest) if len(rest) == 1 else [None]
            if formula is None:
                raise Malformed(f"assert takes one formula, not {len(rest)}")
            if len(formula) == 1:
                self.fixed.extend(formula[0])
            else:
                self.choices.append(formula)
            return _Said()
        if head == "and":
            return self._all(self._formulas(head, rest))
        if head == "or":
            return self._any(self._formulas(head, rest))
        if head in _COMPARISONS:
            return self._comparison(head, rest)
        if head in ("+", "-", "*"):
            return self._term(head, rest)
        raise Malformed(f"{head[:30]!r} is not understood")

    def _declare(self, rest: list[_Part]) -> _Said:
        found = _VARIABLE.fullmatch(rest[0]) if len(rest) == 2 and isinstance(rest[0], str) else None
        if found is None or rest[1] != "Real":
            raise Malformed("a declaration is not of a Real X_i or Y_i")
        letter, place = found[1], int(found[2])
        if place in self.declared[letter]:
            raise Malformed(f"{found[0]} is declared twice")
        self.declared[letter].add(place)
        return _Said()

    def _formulas(self, head: str, rest: list[_Part]) -> list[Disjunction]:
        found = [part for part in rest if isinstance(part, tuple)]
        if not rest or len(found) < len(rest):
            raise Malformed(f"{head} takes comparisons, and, or")
        return found

    def _all(self, formulas: list[Disjunction]) -> Disjunction:
        """Every way for all of them to be true."""
        fixed = tuple(itertools.chain.from_iterable(formula[0] for formula in formulas if len(formula) == 1))
        choices = [formula for formula in formulas if len(formula) != 1]
        count = math.prod(len(formula) for formula in choices)
        self._spend(count, count * len(fixed))
        made = (tuple(itertools.chain(fixed, *chosen)) for chosen in itertools.product(*choices))
        return self._counted(made)

    def _any(self, formulas: list[Disjunction]) -> Disjunction:
        count = sum(len(formula) for formula in formulas)
        self._spend(count, count)
        return tuple(itertools.chain.from_iterable(formulas))

    def _counted(self, made: Iterator[Conjunction]) -> Disjunction:
        kept = []
        for conjunction in made:
            self._spend(0, len(conjunction))
            kept.append(conjunction)
        return tuple(kept)

    def _spend(self, count: int, work: int) -> None:
        self.work += work
        if count > MAX_CASES:
            raise Malformed(f"its ands and ors expand to {count} cases, more than {MAX_CASES}")
        if self.work > MAX_WORK:
            raise Malformed(f"its ands and ors expand to more than {MAX_WORK} comparisons")

    def _comparison(self, head: str, rest: list[_Part]) -> Disjunction:
        if len(rest) != 2:
            raise Malformed(f"{head} compares two terms, not {len(rest)}")
        first, second = (self._linear(part) for part in rest)
        said, sign = difference(first, second), 1 if head[0] == "<" else -1  # said <= 0, or >= 0
        strict, letters = len(head) == 1, {letter for letter, _ in said.terms}
        if not letters:
            true = said.constant * sign < 0 or (said.constant == 0 and not strict)
            return ((),) if true else ()
        if letters == {"Y"}:
            exact = with_exact_factors(said.times(Fraction(sign)))
            return (
                (Row({place: factor for (_, place), factor in exact.terms.items()}, exact.constant, strict),),
            )
        if len(said.terms) > 1 or strict:
            raise Malformed("inputs are bounded by something else than <= and >= with one number")
        (((_, place), factor),) = said.terms.items()
        end = -said.constant if factor == 1 else -said.constant / factor
        return ((Bound(place, end, factor * sign > 0),),)

    def _term(self, head: str, rest: list[_Part]) -> Linear:
        parts = [self._linear(part) for part in rest]
        if not parts:
            raise Malformed(f"{head} has nothing to act on")
        if head == "*":
            return product(parts)
        if head == "-":
            parts = [
                part.times(Fraction(-1)) if i or len(parts) == 1 else part for i, part in enumerate(parts)
            ]
        return total(parts)

    def _linear(self, part: _Part) -> Linear:
        if isinstance(part, Linear):
            return part
        if isinstance(part, str):
            found = _VARIABLE.fullmatch(part)
            if found is not None and int(found[2]) in self.declared[found[1]]:
                return Linear({(found[1], int(found[2])): _ONE})
            value = number(part) if found is None else None
            if value is not None:
                return Linear(constant=value)
            raise Malformed(f"{part[:30]!r} is " + ("not declared" if found else "no variable and no number"))
        raise Malformed("a formula stands where a number should")

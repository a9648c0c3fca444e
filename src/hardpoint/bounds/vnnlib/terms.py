"""Numbers and linear terms of a property, exactly; and how they become float64 without losing an unsafe point."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE]([-+]?[0-9]+))?")
_MAX_DIGITS, _MAX_EXPONENT, _MAX_BITS = (
    1000,
    400,
    20_000,
)  # a short text must not make a number that fills memory


class Malformed(Exception):
    """What is wrong with a part of a text; the reader adds where."""


@dataclass(frozen=True)
class Linear:
    """``constant`` and multiples of variables, summed.

    Attributes:
        terms: the factor of each variable, by its letter and number; no zeros.
        constant: what is added.
    """

    terms: Mapping[tuple[str, int], Fraction] = field(default_factory=dict)
    constant: Fraction = Fraction(0)

    def times(self, factor: Fraction) -> Linear:
        terms = {name: checked(factor * value) for name, value in self.terms.items() if factor}
        return Linear(terms, checked(factor * self.constant))


def total(parts: list[Linear]) -> Linear:
    """The sum."""
    terms: dict[tuple[str, int], Fraction] = {}
    constant = Fraction(0)
    for part in parts:
        constant = checked(constant + part.constant)
        for name, value in part.terms.items():
            terms[name] = checked(terms.get(name, Fraction(0)) + value)
    return Linear({name: value for name, value in terms.items() if value}, constant)


def difference(first: Linear, second: Linear) -> Linear:
    """``first - second``."""
    if not second.terms and not first.constant:  # nearly all comparisons of a file are of this kind
        return Linear(first.terms, -second.constant)
    return total([first, second.times(Fraction(-1))])


def product(parts: list[Linear]) -> Linear:
    """The product, of which at most one factor may have variables.

    Raises:
        Malformed: where several have.
    """
    varying = [part for part in parts if part.terms]
    if len(varying) > 1:
        raise Malformed("it multiplies variables")
    factor = Fraction(1)
    for part in parts:
        if not part.terms:
            factor = checked(factor * part.constant)
    return (varying[0] if varying else Linear(constant=Fraction(1))).times(factor)


@lru_cache(maxsize=4096)  # most of an image's pixels have the same ends
def number(text: str) -> Fraction | None:
    """The decimal that ``text`` writes, exactly; None if it writes none.

    Raises:
        Malformed: for numbers far beyond those of float64.
    """
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    if len(text) > _MAX_DIGITS or (found[1] and abs(int(found[1])) > _MAX_EXPONENT):
        raise Malformed(f"the number {text[:30]} has too many digits or too large an exponent")
    return Fraction(text)


def checked(value: Fraction) -> Fraction:
    """The value; raises ``Malformed`` where it has become too long to reckon with."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise Malformed("it makes a number with thousands of digits")
    return value


def nearest(value: Fraction) -> float:
    """The nearest float64; raises ``Malformed`` beyond the largest."""
    try:
        return float(value)
    except OverflowError:
        raise Malformed("a number is beyond the largest float64") from None


def below(value: Fraction) -> float:
    """The largest float64 that is not above the value."""
    found = nearest(value)
    return _finite(found if Fraction(found) <= value else math.nextafter(found, -math.inf))


def above(value: Fraction) -> float:
    """The least float64 that is not below the value."""
    return -below(-value)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise Malformed("a number is beyond the largest float64")
    return value


def with_exact_factors(linear: Linear) -> Linear:
    """A positive multiple whose factors are all float64: ``0.1 Y_0`` is none, ten times that is.

    Raises:
        Malformed: where there is none.
    """
    odd = 1
    for value in linear.terms.values():
        denominator = value.denominator
        while denominator % 2 == 0:
            denominator //= 2
        odd = math.lcm(odd, denominator)
    scaled = linear.times(checked(Fraction(odd)))
    if any(Fraction(nearest(value)) != value for value in scaled.terms.values()):
        raise Malformed("its factors cannot be written as float64 numbers")
    return scaled

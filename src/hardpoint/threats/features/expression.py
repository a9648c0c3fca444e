"""What a relation between features is made of: a small tree of values and conditions.

Every operation is total, so that a relation has an answer for every finite row: dividing by zero gives 0, and
``log`` reads anything below 1e-12 as 1e-12.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import Enum
from typing import TypeAlias


class Function(Enum):
    """The functions a relation may call on values; ``sum`` and ``count`` have nodes of their own."""

    ABS = "abs"
    MIN = "min"
    MAX = "max"
    LOG = "log"


class Op(Enum):
    """How a comparison compares."""

    LE = "<="
    LT = "<"
    GE = ">="
    GT = ">"
    EQ = "=="
    NE = "!="

    @property
    def opposite(self) -> Op:
        """The comparison that holds exactly where this one does not."""
        return _OPPOSITE[self]


_OPPOSITE = {Op.LE: Op.GT, Op.GT: Op.LE, Op.LT: Op.GE, Op.GE: Op.LT, Op.EQ: Op.NE, Op.NE: Op.EQ}


@dataclass(frozen=True)
class Number:
    """A constant."""

    value: float


@dataclass(frozen=True)
class Ref:
    """The value of a feature."""

    name: str


@dataclass(frozen=True)
class Negative:
    """The part with its sign changed."""

    part: Value


@dataclass(frozen=True)
class Sum:
    """The terms added up, left to right."""

    terms: tuple[Value, ...]


@dataclass(frozen=True)
class Product:
    """Left times right."""

    left: Value
    right: Value


@dataclass(frozen=True)
class Quotient:
    """Left divided by right; 0 where right is 0."""

    left: Value
    right: Value


@dataclass(frozen=True)
class Call:
    """A function of one (abs, log) or more (min, max) values."""

    function: Function
    args: tuple[Value, ...]


@dataclass(frozen=True)
class Count:
    """How many of the conditions hold."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Compare:
    """A comparison of two values."""

    op: Op
    left: Value
    right: Value


@dataclass(frozen=True)
class And:
    """All parts hold."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Or:
    """At least one part holds."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Not:
    """The part does not hold."""

    part: Condition


@dataclass(frozen=True)
class Implies:
    """Where the premise holds, so does the conclusion."""

    premise: Condition
    conclusion: Condition


Value: TypeAlias = Number | Ref | Negative | Sum | Product | Quotient | Call | Count
Condition: TypeAlias = Compare | And | Or | Not | Implies
Node: TypeAlias = Value | Condition
CONDITIONS = (Compare, And, Or, Not, Implies)


def children(node: Node) -> Iterator[Node]:
    """The nodes directly below, left to right."""
    for field in fields(node):
        value = getattr(node, field.name)
        if isinstance(value, tuple):
            yield from value
        elif not isinstance(value, (str, float, int, Enum)):
            yield value


def depth(node: Node) -> int:
    """How many nodes the longest path down from ``node`` has; does not recurse, so any tree will do."""
    deepest, todo = 0, [(node, 1)]
    while todo:
        current, level = todo.pop()
        deepest = max(deepest, level)
        todo.extend((child, level + 1) for child in children(current))
    return deepest


def names(node: Node) -> tuple[str, ...]:
    """The features the tree refers to, each once, in order of appearance.

    >>> names(Compare(Op.LE, Ref("b"), Sum((Ref("a"), Ref("b")))))
    ('b', 'a')
    """
    if isinstance(node, Ref):
        return (node.name,)
    return tuple(dict.fromkeys(name for child in children(node) for name in names(child)))


def normal(condition: Condition, negate: bool = False) -> Compare | And | Or:
    """The same condition (or its negation) without ``not`` and ``implies``.

    >>> text(normal(Not(Implies(Compare(Op.GT, Ref("a"), Number(0)), Compare(Op.GT, Ref("b"), Number(0))))))
    'a > 0 and b <= 0'
    """
    match condition:
        case Compare(op, left, right):
            return Compare(op.opposite, left, right) if negate else condition
        case And(parts) | Or(parts):
            flipped = tuple(normal(part, negate) for part in parts)
            return And(flipped) if isinstance(condition, And) != negate else Or(flipped)
        case Not(part):
            return normal(part, not negate)
        case Implies(premise, conclusion):
            return normal(Or((Not(premise), conclusion)), negate)


def affine(value: Value) -> tuple[dict[str, float], float] | None:
    """The coefficients and the constant of a value that is affine in the features, else ``None``.

    >>> affine(Sum((Product(Number(3), Ref("a")), Negative(Ref("b")), Number(1))))
    ({'a': 3.0, 'b': -1.0}, 1.0)
    """
    match value:
        case Number(constant):
            return {}, float(constant)
        case Ref(name):
            return {name: 1.0}, 0.0
        case Negative(part):
            return _scaled(affine(part), -1.0)
        case Sum(terms):
            total: dict[str, float] = {}
            offset = 0.0
            for form in map(affine, terms):
                if form is None:
                    return None
                offset += form[1]
                for name, factor in form[0].items():
                    total[name] = total.get(name, 0.0) + factor
            return total, offset
        case Product(left, right):
            first, second = affine(left), affine(right)
            if first is not None and not first[0]:
                return _scaled(second, first[1])
            return _scaled(first, second[1]) if second is not None and not second[0] else None
        case Quotient(left, right):
            divisor = affine(right)
            if divisor is None or divisor[0]:
                return None
            return _scaled(affine(left), 1.0 / divisor[1] if divisor[1] else 0.0)
        case Call() | Count():
            return None


def _scaled(
    form: tuple[dict[str, float], float] | None, factor: float
) -> tuple[dict[str, float], float] | None:
    return None if form is None else ({name: factor * c for name, c in form[0].items()}, factor * form[1])


def text(node: Node) -> str:
    """The relation as it would be written; parsing it gives ``node`` back."""
    match node:
        case Number(value):
            return repr(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
        case Ref(name):
            return name if name.isidentifier() and name.isascii() and name not in WORDS else f"`{name}`"
        case Negative(part):
            return f"-{_inner(part)}"
        case Sum((only,)):
            return f"sum({text(only)})"
        case Sum(terms):
            return " + ".join(map(_inner, terms))
        case Product(left, right):
            return f"{_inner(left)} * {_inner(right)}"
        case Quotient(left, right):
            return f"{_inner(left)} / {_inner(right)}"
        case Call(function, args):
            return f"{function.value}({', '.join(map(text, args))})"
        case Count(conditions):
            return f"count({', '.join(map(text, conditions))})"
        case Compare(op, left, right):
            return f"{text(left)} {op.value} {text(right)}"
        case And(parts):
            return " and ".join(map(_inner, parts))
        case Or(parts):
            return " or ".join(map(_inner, parts))
        case Not(part):
            return f"not {_inner(part)}"
        case Implies(premise, conclusion):
            return f"{_inner(premise)} implies {_inner(conclusion)}"


WORDS = frozenset({"and", "or", "not", "implies"})


def _inner(node: Node) -> str:
    """``text`` in brackets wherever the grammar could read it otherwise without them."""
    bare = isinstance(node, (Ref, Call, Count, Compare)) or (isinstance(node, Number) and node.value >= 0)
    return text(node) if bare else f"({text(node)})"

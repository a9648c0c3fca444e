"""Relations between features: read from text, checked exactly, measured differentiably."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor

from hardpoint.threats.features.expression import (
    And,
    Call,
    Compare,
    Condition,
    Count,
    Function,
    Negative,
    Number,
    Op,
    Or,
    Product,
    Quotient,
    Ref,
    Sum,
    Value,
    names,
    normal,
)
from hardpoint.threats.features.parser import parse_condition

# Values stored in float32 carry a relative rounding of 6e-8; sums of some of them a few times that.
TOLERANCE = 1e-6
_SMALLEST_LOG = 1e-12
_BEYOND_NUMBERS = 1e9


@dataclass(frozen=True)
class Rows:
    """A batch of rows ``[n, d]`` whose columns have names."""

    values: Tensor
    index: Mapping[str, int]

    def column(self, name: str) -> Tensor:
        """``[n]``: the values of one feature."""
        return self.values[:, self.index[name]]

    def where(self, chosen: Tensor) -> Rows:
        """The rows that a bool ``[n]`` or an index tensor chooses."""
        return Rows(self.values[chosen], self.index)


@dataclass(frozen=True)
class Relation:
    """Something that holds between the features of every valid row.

    Args:
        text: the relation, for example ``"a <= b"``; grammar in ``hardpoint.threats.features.parser``.

    Raises:
        ThreatError: for text that cannot be read.

    >>> relation = Relation("dots > 0 implies length >= 3 * dots")
    >>> rows = Rows(torch.tensor([[2.0, 6.0], [2.0, 5.0]]), {"dots": 0, "length": 1})
    >>> relation.check(rows), relation.hinge(rows)
    (tensor([ True, False]), tensor([0., 1.], dtype=torch.float64))
    """

    text: str
    root: Condition = field(init=False, repr=False, compare=False)
    features: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        root = normal(parse_condition(self.text))
        object.__setattr__(self, "root", root)
        object.__setattr__(self, "features", names(root))

    def __str__(self) -> str:
        return self.text

    def check(self, rows: Rows) -> Tensor:
        """Bool ``[n]``: where the relation holds, decided in float64. Rows with NaN in it never do."""
        return holds(self.root, Rows(rows.values.double(), rows.index))

    def hinge(self, rows: Rows) -> Tensor:
        """float64 ``[n]``: how far each row is from satisfying it, differentiable; 0 exactly where ``check``."""
        return hinge(self.root, Rows(rows.values.double(), rows.index))


def evaluate(value: Value, rows: Rows, soft: bool = False) -> Tensor:
    """The value in each row, ``[n]`` or a number that broadcasts.

    ``soft`` lets gradients cross ``count``: the number is the same, its slope that of the conditions' margins.
    """
    match value:
        case Number(constant):
            return rows.values.new_tensor(constant)
        case Ref(name):
            return rows.column(name)
        case Negative(part):
            return -evaluate(part, rows, soft)
        case Sum(terms):
            return reduce(torch.add, [evaluate(term, rows, soft) for term in terms])
        case Product(left, right):
            return evaluate(left, rows, soft) * evaluate(right, rows, soft)
        case Quotient(left, right):
            below = evaluate(right, rows, soft)
            quotient = evaluate(left, rows, soft) / torch.where(below == 0, 1.0, below)
            return torch.where(below == 0, 0.0, quotient)
        case Call(function, args):
            return _call(function, [evaluate(arg, rows, soft) for arg in args])
        case Count(conditions):
            return reduce(torch.add, [_truth(condition, rows, soft) for condition in conditions])


def _call(function: Function, args: list[Tensor]) -> Tensor:
    match function:
        case Function.ABS:
            return args[0].abs()
        case Function.LOG:
            return torch.log(args[0].clamp_min(_SMALLEST_LOG))
        case Function.MIN:
            return reduce(torch.minimum, args)
        case Function.MAX:
            return reduce(torch.maximum, args)


def _truth(condition: Condition, rows: Rows, soft: bool) -> Tensor:
    """1 where the condition holds, else 0."""
    value = holds(condition, rows).to(rows.values.dtype)
    if not soft:
        return value
    margin = hinge(normal(condition, negate=True), rows) - hinge(condition, rows)
    return value + (margin - margin.detach())


def holds(condition: Condition, rows: Rows) -> Tensor:
    """Bool ``[n]``: where the condition holds; equality allows a relative difference of 1e-6 (of 1 below 1)."""
    match condition:
        case Compare(op, left, right):
            return _compare(op, evaluate(left, rows), evaluate(right, rows)).expand(len(rows.values))
        case And(parts):
            return reduce(torch.logical_and, [holds(part, rows) for part in parts])
        case Or(parts):
            return reduce(torch.logical_or, [holds(part, rows) for part in parts])
        case _:
            # Negation moves down to the comparisons, so that NaN makes no condition true.
            return holds(normal(condition), rows)


def _slack(left: Tensor, right: Tensor) -> Tensor:
    return TOLERANCE * torch.maximum(left.detach().abs(), right.detach().abs()).clamp_min(1.0)


def _compare(op: Op, left: Tensor, right: Tensor) -> Tensor:
    numbers = torch.isfinite(left) & torch.isfinite(right)
    match op:
        case Op.LE:
            result = left <= right
        case Op.LT:
            result = left < right
        case Op.GE:
            result = left >= right
        case Op.GT:
            result = left > right
        case Op.EQ:
            result = (left - right).abs() <= _slack(left, right)
        case Op.NE:
            result = (left - right).abs() > _slack(left, right)
    return result & numbers


def hinge(condition: Condition, rows: Rows) -> Tensor:
    """``[n]``: 0 where the condition holds, else how far it is from holding; differentiable."""
    match condition:
        case Compare(op, left, right):
            first, second = evaluate(left, rows, soft=True), evaluate(right, rows, soft=True)
            gap = torch.nan_to_num(_gap(op, first, second), _BEYOND_NUMBERS, _BEYOND_NUMBERS, _BEYOND_NUMBERS)
            satisfied = _compare(op, first, second)
            return torch.where(satisfied, 0.0, gap.abs()).expand(len(rows.values))
        case And(parts):
            return reduce(torch.add, [hinge(part, rows) for part in parts])
        case Or(parts):
            return reduce(torch.minimum, [hinge(part, rows) for part in parts])
        case _:
            return hinge(normal(condition), rows)


def _gap(op: Op, left: Tensor, right: Tensor) -> Tensor:
    """How far a comparison that fails is from holding, above 0; strict ones by a little more, to be above 0."""
    match op:
        case Op.LE:
            return left - right
        case Op.LT:
            return left - right + TOLERANCE
        case Op.GE:
            return right - left
        case Op.GT:
            return right - left + TOLERANCE
        case Op.EQ:
            return (left - right).abs()
        case Op.NE:
            return 2.0 * _slack(left, right) - (left - right).abs()

"""Relations between features as rows of a mixed-integer linear program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hardpoint.attacks.tabular.trees.program import Affine, Program
from hardpoint.threats.features.expression import (
    And,
    Compare,
    Condition,
    Negative,
    Op,
    Or,
    Sum,
    affine,
    normal,
)
from hardpoint.threats.features.relations import TOLERANCE


@dataclass(frozen=True)
class Columns:
    """The features of one row as the program sees them.

    Attributes:
        value: each feature as an affine function of the variables.
        whole: the names of features that take whole values only.
    """

    value: Mapping[str, Affine]
    whole: frozenset[str]


def demand(
    program: Program, condition: Condition, columns: Columns, inside: float, gate: int | None = None
) -> None:
    """Adds ``condition`` (where ``gate``, if any, is 1) as far as it is linear.

    What is not linear (products of features, ``abs``, ``count`` …) is left out, so that the program allows more,
    never less, than the condition. Alternatives get a variable of 0 or 1 for each part.

    Args:
        inside: how far inside real-valued inequalities to stay, relative to their size; 0 states them as they
            are, and strict ones without their strictness.
    """
    match normal(condition):
        case And(parts):
            for part in parts:
                demand(program, part, columns, inside, gate)
        case Or(parts):
            gates = [program.variable(0, 1, whole=True) for _ in parts]
            one = Affine(dict.fromkeys(gates, -1.0), 1.0)  # 1 - Σ gates <= 0
            program.at_most_zero(one, gate)
            for part, chosen in zip(parts, gates, strict=True):
                demand(program, part, columns, inside, chosen)
        case Compare(Op.NE, left, right):
            either = Or((Compare(Op.LT, left, right), Compare(Op.GT, left, right)))
            demand(program, either, columns, inside, gate)
        case Compare(Op.GE | Op.GT as op, left, right):
            turned = Compare(Op.LE if op is Op.GE else Op.LT, right, left)
            demand(program, turned, columns, inside, gate)
        case Compare(op, left, right):
            form = affine(Sum((left, Negative(right))))
            if form is not None:
                _compare(program, op, form, columns, inside, gate)


def _compare(
    program: Program,
    op: Op,
    form: tuple[dict[str, float], float],
    columns: Columns,
    inside: float,
    gate: int | None,
) -> None:
    value, size = Affine({}, form[1]), abs(form[1])
    for name, factor in form[0].items():
        value = value.plus(columns.value[name], factor)
        size = max(size, abs(program.most(Affine().plus(columns.value[name], factor))))
    exact = all(name in columns.whole for name in form[0]) and all(
        float(number).is_integer() for number in (*form[0].values(), form[1])
    )
    if op is Op.EQ:
        slack = 0.0 if exact or inside else TOLERANCE * max(1.0, size)
        program.at_most_zero(value.plus(Affine({}, -slack)), gate)
        program.at_most_zero(Affine({}, -slack).plus(value, -1.0), gate)
        return
    margin = (1.0 if op is Op.LT else 0.0) if exact else inside * max(1.0, size)
    program.at_most_zero(value.plus(Affine({}, margin)), gate)

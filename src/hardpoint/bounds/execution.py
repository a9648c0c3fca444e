"""What a network computes when it is deployed in float32, as against what it is in exact arithmetic.

Each step's answer in float32 differs from the exact one by what it rounds itself and by what it passes on of its
input's error. The first is what outward intervals in float32 would widen by, whatever the order in which sums are
taken and whether products are fused with them; not covered are arithmetics of fewer bits (TF32, bfloat16), Winograd's
and Fourier's convolutions, and layers folded into one another. Forward analysis as in Higham, "Accuracy and stability
of numerical algorithms", chapter 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hardpoint.bounds.graph import Graph
from hardpoint.bounds.operators.affine import Weighted
from hardpoint.bounds.operators.arithmetic import Scaled
from hardpoint.bounds.operators.norm import Normed
from hardpoint.bounds.operators.operator import DOUBLE, SINGLE, Interval, Live, Operator, is_affine, is_curved
from hardpoint.bounds.operators.pool import Largest
from hardpoint.bounds.operators.shape import Joined
from hardpoint.bounds.rows import Dense
from hardpoint.bounds.steepness import steepness
from hardpoint.core.errors import ModelError

_MOST = torch.finfo(torch.float32).max / 4


def refuse_coarse(module: nn.Module, *taken: torch.dtype) -> None:
    """Raise where a network holds numbers that are coarser than float32, or takes them.

    Raises:
        ModelError: rounding is counted for float32 and finer types.
    """
    held = {part.dtype for part in (*module.parameters(), *module.buffers())}
    coarse = {kind for kind in held.union(taken) if kind.is_floating_point and torch.finfo(kind).bits < 32}
    if coarse:
        raise ModelError(
            f"the network or its inputs are {coarse.pop()}, whose rounding soundness='deployed' does not count",
            "certify it in float32 (model.float(), x.float()), or with soundness='rigorous'",
        )


class RoundingErrors(NamedTuple):
    """At most how far each value in float32 is from the exact one, for any input in the box that is float32.

    Infinite where a value may overflow, or where no bound of a step's error is known.

    Attributes:
        total: of every value, in the shape of its interval.
        own: the part that the step that computes it adds.
    """

    total: list[Tensor]
    own: list[Tensor]


@torch.no_grad()
def execution_losses(
    graph: Graph, spans: Sequence[Interval], rows: Tensor, quick: Graph | None = None
) -> Tensor:
    """``[n, S]``: at most what float32 takes from ``rows`` over the answer, for any input in the box that is float32.

    What each step rounds, times how steep the rows are in its value: where most units are decided, errors cancel as
    the network's own sums do, and do not grow with its depth as the answers' error on its own.

    Args:
        graph, spans, quick: see ``execution_errors``.
        rows: ``[n, S, K]``.
    """
    errors = execution_errors(graph, spans, quick)
    apart = torch.einsum("nsk,nk->ns", rows.abs(), errors.total[graph.output]).nan_to_num(
        torch.inf, torch.inf
    )
    wide = [Interval(span.low - e, span.high + e) for span, e in zip(spans, errors.total, strict=True)]
    steep = steepness(graph, wide, rows)
    if steep is None:
        return apart * (1 + 1e-9)
    lost = torch.zeros_like(apart)
    for k, part in steep:
        lost = lost + Dense(part.most).reach(errors.own[k])
    # what float64 rounds of the slopes is a share of the sums without signs, of which ``apart`` is made
    lost = torch.minimum(lost.nan_to_num(torch.inf, torch.inf) + 1e-9 * apart, apart)
    return lost * (1 + 1e-9)


def execution_errors(graph: Graph, spans: Sequence[Interval], quick: Graph | None = None) -> RoundingErrors:
    """How far the network in float32 may be from the exact one.

    Args:
        graph: the network.
        spans: outward intervals of every value of the exact network.
        quick: the network in float32, whose weights are not those of the exact one where forward() computes them; None
            where it computes none.
    """
    errors, rounded = [torch.zeros_like(spans[0].low)], [torch.zeros_like(spans[0].low)]
    for k, step in enumerate(graph.steps, 1):
        taken = [spans[i] for i in step.inputs]
        before = [errors[i] for i in step.inputs]
        passed = _passed(step.operator, taken, before)
        actual = [Interval(span.low - e, span.high + e) for span, e in zip(taken, before, strict=True)]
        own = _own(step.operator, actual)
        error = (passed + own) * (1 + 1e-9)
        if quick is not None and not _same_weights(step.operator, quick.steps[k - 1].operator):
            error = torch.full_like(error, torch.inf)
        # a sum may overflow on its way where its value does not: what it can round tells how large its terms are
        too_large = (spans[k].size + error > _MOST) | (own > _MOST * SINGLE.unit)
        lost = too_large | error.isnan()
        errors.append(torch.where(lost, torch.inf, error))
        rounded.append(torch.where(lost, torch.inf, own))
    return RoundingErrors(errors, rounded)


def _passed(operator: Operator, spans: Sequence[Interval], errors: Sequence[Tensor]) -> Tensor:
    """What becomes of the errors of what a step takes."""
    if is_affine(operator):
        moved = operator.interval(*(Interval(-error, error, DOUBLE) for error in errors))
        nothing = [torch.zeros_like(error[:1]) for error in errors]
        constant = operator.interval(*(Interval(zero, zero, DOUBLE) for zero in nothing))
        return torch.maximum(moved.high - constant.low, constant.high - moved.low)
    if is_curved(operator):
        (span,), (error,) = spans, errors
        wide = Interval(span.low - error, span.high + error)
        least, most = operator.steepness(wide)
        return torch.maximum(least.abs(), most.abs()) * error
    if isinstance(operator, Largest):
        return operator.value(errors[0])
    return torch.tensor(torch.inf, dtype=spans[0].low.dtype)


def _own(operator: Operator, spans: Sequence[Interval]) -> Tensor:
    """What a step rounds: what its interval in float32 is wider by."""
    single = operator.interval(*(Interval(span.low, span.high, SINGLE) for span in spans))
    plain = operator.interval(*(Interval(span.low, span.high, DOUBLE) for span in spans))
    found: Tensor = torch.maximum(plain.low - single.low, single.high - plain.high)
    return found.clamp_min(0) + SINGLE.least


def _same_weights(exact: Operator, quick: Operator) -> bool:
    """Whether two graphs hold the same weights, but for a last rounding: more is not accounted for."""
    pairs = zip(_weights(exact), _weights(quick), strict=True)
    return all(
        bool(((a - b.double()).abs() <= 2 * SINGLE.unit * a.abs() + SINGLE.least).all()) for a, b in pairs
    )


def _weights(operator: Operator) -> Sequence[Tensor]:
    """Every tensor of numbers that an operator reads."""
    if isinstance(operator, Normed):
        layer = operator.layer
        held = [layer.running_mean, layer.running_var, layer.weight, layer.bias]
        return [part.double() for part in held if part is not None]
    lives: Sequence[Live | None] = ()
    if isinstance(operator, Weighted):
        lives = operator.weight, operator.bias
    elif isinstance(operator, Scaled):
        lives = operator.factor, operator.shift
    elif isinstance(operator, Joined):
        lives = operator.constants
    return [live().double() for live in lives if live is not None]

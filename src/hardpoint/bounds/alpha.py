"""Choosing the lines: slopes and prices that raise a linear bound, by gradient ascent.

Every choice gives a valid bound, so the ascent may stop at any time and the best bound of each row is kept (Xu et al.,
"Fast and complete: enabling complete verification with massively parallel incomplete verifiers", ICLR 2021; prices:
Wang et al., "Beta-CROWN", NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hardpoint.bounds.condensed import condensed, exact_choice, quick_spans
from hardpoint.bounds.crown import bent_first, bent_values, both_ways, unstable
from hardpoint.bounds.graph import Graph, Network
from hardpoint.bounds.interval import intervals
from hardpoint.bounds.linear import Choice, Linear, backward
from hardpoint.bounds.operators.operator import Curved, Interval, Slopes, is_curved
from hardpoint.bounds.rows import Dense, Rows

_FADE = 0.98
_AT_ONCE = 256 * 2**20
"""Bytes that the lines of rows which rise together may take."""
_MEAN, _SQUARE = 0.9, 0.999

Signs = Mapping[int, Tensor]
"""By value ``[n, ...]``: 1 where it is known to be at least 0, -1 where at most 0, else 0."""


@dataclass(frozen=True)
class Ascent:
    """How slopes and prices are chosen: by Adam (Kingma and Ba, ICLR 2015).

    Attributes:
        steps: evaluations of the bound.
        rate: of slopes, in the first step, as a share of how much they can differ.
        price_rate: of prices.
    """

    steps: int = 20
    rate: float = 0.1
    price_rate: float = 0.05


@dataclass(frozen=True)
class Raised:
    """What an ascent found.

    Attributes:
        bounds: ``[n, S]``, the best of each row.
        choice: the last one.
        linear: the bound that belongs to it.
    """

    bounds: Tensor
    choice: Choice
    linear: Linear


@dataclass
class _Variables:
    """What rises, as it stands."""

    slopes: dict[int, Slopes] = field(default_factory=dict)
    prices: dict[int, Tensor] = field(default_factory=dict)
    free: list[Tensor] = field(default_factory=list)
    rates: list[Tensor] = field(default_factory=list)

    def choice(self, signs: Signs) -> Choice:
        prices = {k: price * signs[k].unsqueeze(1) for k, price in self.prices.items()}
        return Choice(self.slopes, prices)


def raised(
    graph: Graph,
    spans: Sequence[Interval],
    rows: Tensor | Rows,
    ascent: Ascent,
    *,
    place: int | None = None,
    start: Choice | None = None,
    signs: Signs | None = None,
    objective: Callable[[Tensor], Tensor] = torch.sum,
    done: Callable[[Tensor], bool] | None = None,
) -> Raised:
    """Bounds of ``rows`` with slopes and prices chosen for them.

    Args:
        graph: the network.
        spans: the interval of each value.
        rows: ``[n, S, ...]`` over the value ``place``, the answer by default.
        start: where to begin; each operator's own slopes and no prices by default.
        signs: where prices are allowed.
        objective: what of the bounds ``[n, S]`` is to rise.
        done: stops the ascent; it is shown the best bounds so far.
    """
    dense = rows if isinstance(rows, Tensor) else rows.dense().values
    place, signs = graph.output if place is None else place, signs or {}
    held = _variables(graph, spans, dense, ascent, place, start, signs)
    means, squares = ([torch.zeros_like(p) for p in held.free] for _ in range(2))
    best = dense.new_full(dense.shape[:2], -torch.inf)
    for step in range(1, ascent.steps + 1):
        with torch.enable_grad():
            linear = backward(graph, spans, Dense(dense), place, held.choice(signs))
            bounds = linear.least(spans[0])
            aim = objective(bounds)
        best = torch.fmax(best, bounds.detach())
        if step == ascent.steps or not held.free or (done is not None and done(best)):
            break
        rise: Sequence[Tensor | None] = torch.autograd.grad(aim, held.free, allow_unused=True)
        with torch.no_grad():
            for p, g, mean, square, rate in zip(held.free, rise, means, squares, held.rates, strict=True):
                if g is None:
                    continue
                g = g.nan_to_num(0.0, 0.0, 0.0)
                mean.mul_(_MEAN).add_(g, alpha=1 - _MEAN)
                square.mul_(_SQUARE).addcmul_(g, g, value=1 - _SQUARE)
                size = (square / (1 - _SQUARE**step)).sqrt_().add_(1e-12)
                p.addcdiv_(mean * rate, size, value=_FADE**step / (1 - _MEAN**step))
            _kept_valid(graph, spans, held)
    for p in held.free:
        p.requires_grad_(False)
    return Raised(best, held.choice(signs), linear)


def alpha_spans(network: Network, spans: Sequence[Interval], ascent: Ascent) -> list[Interval]:
    """Intervals of the values before curved steps, narrowed by lines chosen for each of their ends.

    Args:
        network: both graphs of it.
        spans: what ``crown_spans`` found; none becomes wider.
        ascent: for each value.
    """
    graph, network = network.exact, condensed(network, spans)
    known = _of_curves(graph, spans)
    for place in bent_values(graph):
        if curves_before(graph, place):
            known[place] = _narrowed(network, intervals(graph, spans[0], known), place, ascent)
    return intervals(graph, spans[0], known)


def alpha_linear(
    network: Network,
    spans: Sequence[Interval],
    rows: Tensor,
    ascent: Ascent,
    *,
    objective: Callable[[Tensor], Tensor] = torch.sum,
    done: Callable[[Tensor], bool] | None = None,
) -> Linear:
    """The linear function below ``rows`` ``[n, S, K]`` over the answers, with lines chosen for each row.

    Args:
        network: both graphs of it.
        spans: the interval of each value.
        ascent, objective, done: see ``raised``.
    """
    small = condensed(network, spans)
    rough = quick_spans(small, spans[0], _of_curves(network.exact, spans))
    choice = raised(small.quick, rough, rows.float(), ascent, objective=objective, done=done).choice
    with torch.no_grad():
        return backward(network.exact, spans, rows, None, exact_choice(small, spans, choice))


def _of_curves(graph: Graph, spans: Sequence[Interval]) -> dict[int, Interval]:
    return {k: spans[k] for k in bent_values(graph)}


def _narrowed(network: Network, spans: Sequence[Interval], place: int, ascent: Ascent) -> Interval:
    graph, span, kept = network.exact, spans[place], network.kept.get(place)
    if network.kept and kept is None:
        return span  # nothing of it is bent
    bent = unstable(graph, spans, place)
    bent = bent.flatten(1) if kept is None else kept.of(bent)
    most = int(bent.sum(1).max()) if len(bent) else 0
    if not most:
        return span
    low, high = span.low.flatten(1).clone(), span.high.flatten(1).clone()
    widest = max(spans[k].low[0].numel() for k in curves_before(graph, place))
    rough = quick_spans(network, spans[0], _of_curves(graph, spans))
    at = place if kept is None else kept.place
    step = max(1, _AT_ONCE // (len(bent) * widest * 64))
    for part in torch.split(bent_first(bent, most), step, dim=1):
        quick = raised(network.quick, rough, both_ways(part, rough[at].low), ascent, place=at)
        units = part if kept is None else kept.units.expand(len(part), -1).gather(1, part)
        rows = both_ways(units, span.low)
        seen: dict[int, Rows] = {}
        with torch.no_grad():
            if (
                kept is not None
            ):  # a pass to learn which elements each row meets: lines are given for those alone
                backward(graph, spans, rows, place, None, seen)
            choice = exact_choice(network, spans, quick.choice, seen)
            below, above = backward(graph, spans, rows, place, choice).least(spans[0]).chunk(2, 1)
        low.scatter_(1, units, torch.maximum(low.gather(1, units), below))
        high.scatter_(1, units, torch.minimum(high.gather(1, units), -above))
    return Interval(low.view_as(span.low), high.view_as(span.high), span.outward)


def renewed(graph: Graph, spans: Sequence[Interval], choice: Choice) -> Choice:
    """The choice for other intervals: the slopes that nobody chooses are those of the intervals."""
    slopes = dict(choice.slopes)
    for k, curve in curves_before(graph, len(graph.steps)).items():
        if k in slopes and not all(curve.freedom):
            own, (low, high) = curve.slopes(spans[k]), curve.freedom
            slopes[k] = Slopes(slopes[k].low if low else own.low, slopes[k].high if high else own.high)
    return Choice(slopes, choice.prices)


def curves_before(graph: Graph, place: int) -> Mapping[int, Curved]:
    """The curved steps up to a value, by the value that they take."""
    return {
        step.inputs[0]: step.operator
        for step in graph.steps[:place]
        if is_curved(step.operator) and step.inputs[0]
    }


def _variables(
    graph: Graph,
    spans: Sequence[Interval],
    rows: Tensor,
    ascent: Ascent,
    place: int,
    start: Choice | None,
    signs: Signs,
) -> _Variables:
    held, (n, count) = _Variables(), rows.shape[:2]
    for k, curve in curves_before(graph, place).items():
        given = start.slopes.get(k) if start is not None else None
        chosen, (least, most) = curve.slopes(spans[k]), curve.steepness(spans[k])
        ends = []
        for free, own, begun in zip(
            curve.freedom,
            (chosen.low, chosen.high),
            (given.low, given.high) if given is not None else (None, None),
            strict=True,
        ):
            if not free:
                ends.append(own)
                continue
            first = own.unsqueeze(1) if begun is None or begun.dim() == own.dim() else begun
            variable = first.detach().expand(n, count, *own.shape[1:]).clone().requires_grad_(True)
            held.free.append(variable)
            held.rates.append(ascent.rate * (most - least).detach().unsqueeze(1))
            ends.append(variable)
        held.slopes[k] = Slopes(*ends)
    for k, sign in signs.items():
        begun = start.prices.get(k) if start is not None else None
        price = rows.new_zeros(n, count, *sign.shape[1:])
        if begun is not None:
            price = price + begun.detach().abs()
        held.prices[k] = price.requires_grad_(True)
        held.free.append(held.prices[k])
        held.rates.append(price.new_tensor(ascent.price_rate))
    return held


def _kept_valid(graph: Graph, spans: Sequence[Interval], held: _Variables) -> None:
    """Slopes where their operators take them, prices not below 0."""
    for k, curve in curves_before(graph, len(graph.steps)).items():
        if k in held.slopes:
            nearest = curve.within(spans[k], held.slopes[k])
            for ours, right in ((held.slopes[k].low, nearest.low), (held.slopes[k].high, nearest.high)):
                if ours.requires_grad:
                    ours.copy_(right)
    for price in held.prices.values():
        price.clamp_(min=0)

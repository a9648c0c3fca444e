"""Splitting at the kinks of ReLUs: on either side of 0 a unit is linear.

Which unit: those whose lines cost the bound most are tried, one cheap bound each, and the one is taken whose worse half
is best (Bunel et al., "Branch and bound for piecewise linear neural network verification", JMLR 2020; filtered smart
branching: De Palma et al., "Improved branch and bound for neural network verification via Lagrangian decomposition",
2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from hardpoint.bounds.alpha import Ascent, raised, renewed
from hardpoint.bounds.branch.domains import Domains
from hardpoint.bounds.claim import Claim
from hardpoint.bounds.condensed import exact_choice, quick_spans
from hardpoint.bounds.crown import bent_values
from hardpoint.bounds.graph import Graph, Network
from hardpoint.bounds.interval import intervals, settled_intervals
from hardpoint.bounds.linear import Choice, backward
from hardpoint.bounds.operators.activation import Leaky
from hardpoint.bounds.operators.operator import Interval
from hardpoint.bounds.rows import Rows

_ENOUGH = 1e-3
"""How far above 0 a bound in float32 is not raised further."""
_CROSSED = 1e-9
"""How far an interval's ends must have passed one another, as a share of their size and of 1, to say that there is
nothing between them, where rounding is not accounted for."""


def kinks(graph: Graph) -> tuple[int, ...]:
    """The values that can be split: those that only ReLUs and their like take."""
    return tuple(
        k
        for k in bent_values(graph)
        if all(isinstance(step.operator, Leaky) for step in graph.steps if k in step.inputs)
    )


def crossing(parts: Domains, places: tuple[int, ...]) -> Tensor:
    """Bool ``[m, units]``: units of the values ``places``, behind one another, that can still be on both sides."""
    spans = [parts.known[k] for k in places]
    return torch.cat([((s.low < 0) & (s.high > 0)).flatten(1) for s in spans], 1)


def costs(network: Network, claim: Claim, parts: Domains, places: tuple[int, ...]) -> Tensor:
    """``[m, units]``: how much the lines of each unit may cost the bound; below 0 where a unit is not bent."""
    seen: dict[int, Rows] = {}
    bounds = _rough(network, claim, parts, seen)
    # the row that stands worst speaks for the part
    worst = claim.proven(bounds).argmin(1)
    score = torch.where(claim.clause.unsqueeze(0) == worst.unsqueeze(1), bounds, -torch.inf).argmax(1)
    found = []
    for k in places:
        row = _row(network, seen, k, parts.known[k], score)
        low, high = parts.known[k].low.flatten(1), parts.known[k].high.flatten(1)
        bent = (low < 0) & (high > 0)
        if row is None:
            found.append(torch.where(bent, 0.0, -1.0).to(low.dtype))
            continue
        width = torch.where(bent, high - low, 1.0)
        above = row.clamp(max=0).abs() * -low * high / width
        below = row.clamp(min=0) * torch.minimum(-low, high) / 2
        found.append(torch.where(bent, above + below, -1.0))
    return torch.cat(found, 1)


def _row(network: Network, seen: dict[int, Rows], place: int, span: Interval, score: Tensor) -> Tensor | None:
    """float64 ``[m, units]``: the rows ``score`` over what units make of a value."""
    kept = network.kept.get(place)
    at = place if not network.kept else kept.place if kept is not None else -1
    if at not in seen:
        return None
    row = seen[at].dense().values[torch.arange(len(score)), score].flatten(1).to(span.low.dtype)
    return row if kept is None else kept.into(torch.zeros_like(span.low), row.unsqueeze(1)).flatten(1)


def halves(graph: Graph, parts: Domains, unit: Tensor, places: tuple[int, ...]) -> tuple[Domains, Tensor]:
    """Both halves ``[2 m]`` of each part, split at ``unit`` int64 ``[m]``: first those above 0, then those below.

    Returns:
        The halves, with their parents' bounds, and bool ``[2 m]``: those that no point lies in.
    """
    both = _cut(parts, unit, places)
    spans = intervals(graph, both.box, both.known)
    known, empty = _settled({k: spans[k] for k in both.known})
    return replace(both, known=known), empty


def _cut(parts: Domains, unit: Tensor, places: tuple[int, ...]) -> Domains:
    """Both halves of each part, where nothing follows yet from the cut."""
    twice = torch.arange(len(parts)).repeat(2)
    both, unit = parts.of(twice), unit.repeat(2)
    side = torch.ones(len(both), dtype=parts.bound.dtype)
    side[len(parts) :] = -1
    known, signs, start = dict(both.known), dict(both.signs), 0
    for k in places:
        span, size = both.known[k], both.known[k].low[0].numel()
        here = (unit >= start) & (unit < start + size)
        row, at = here.nonzero().flatten(), (unit - start)[here]
        low, high = span.low.flatten(1).clone(), span.high.flatten(1).clone()
        sign = both.signs[k].flatten(1).clone()
        above = side[row] > 0
        low[row[above], at[above]] = low[row[above], at[above]].clamp(min=0)
        high[row[~above], at[~above]] = high[row[~above], at[~above]].clamp(max=0)
        sign[row, at] = side[row]
        known[k] = Interval(low.view_as(span.low), high.view_as(span.high), span.outward)
        signs[k], start = sign.view_as(both.signs[k]), start + size
    return replace(both, known=known, signs=signs)


def bounded(network: Network, claim: Claim, parts: Domains, ascent: Ascent) -> Domains:
    """The parts with the bounds that lines and prices chosen anew give, never below those that they had."""
    spans = settled_intervals(network.exact, parts.box, parts.known)
    rows = claim.rows.expand(len(parts), -1, -1)
    offset = claim.offset.float()

    def worst(bounds: Tensor) -> Tensor:
        return claim.proven(bounds + offset)

    found = raised(
        network.quick,
        quick_spans(network, parts.box, parts.known),
        rows.float(),
        ascent,
        start=parts.choice,
        signs=_quick_signs(network, parts),
        objective=lambda bounds: worst(bounds).clamp(max=_ENOUGH).sum(),
        done=lambda best: bool((worst(best) > _ENOUGH).all()),
    )
    with torch.no_grad():
        choice = exact_choice(network, spans, found.choice)
        bounds = backward(network.exact, spans, rows, None, choice).least(spans[0])
    bound = torch.fmax(claim.proven(bounds + claim.offset).amin(1), parts.bound)
    return replace(parts, bound=bound, choice=found.choice)


def chosen(
    network: Network, claim: Claim, parts: Domains, places: tuple[int, ...], tried: int
) -> tuple[Tensor, Tensor]:
    """The unit ``[m]`` to split each part at, and bool ``[m]``: parts that no unit is left to split in."""
    score = costs(network, claim, parts, places)
    done = ~crossing(parts, places).any(1)
    best = score.topk(min(tried, score.shape[1]), 1).indices
    if best.shape[1] == 1:
        return best[:, 0], done
    gains = []
    for column in range(best.shape[1]):
        bounds = _rough(network, claim, _cut(parts, best[:, column], places))
        worse = torch.minimum(*claim.proven(bounds).amin(1).chunk(2)).nan_to_num(-torch.inf)
        gains.append(
            torch.where(score.gather(1, best[:, column : column + 1]).squeeze(1) < 0, -torch.inf, worse)
        )
    pick = torch.stack(gains, 1).argmax(1)
    return best.gather(1, pick.unsqueeze(1)).squeeze(1), done


def root(graph: Graph, box: Interval, spans: list[Interval], choice: Choice, bound: Tensor) -> Domains:
    """The whole box as one part."""
    places = kinks(graph)
    known = {k: spans[k] for k in bent_values(graph)}
    signs = {k: torch.zeros_like(spans[k].low) for k in places}
    return Domains(bound, box, known, signs, choice, torch.zeros(len(bound), dtype=torch.int64))


@torch.no_grad()
def _rough(network: Network, claim: Claim, parts: Domains, seen: dict[int, Rows] | None = None) -> Tensor:
    """``[m, S]``: bounds in float32 with the lines and prices that the parts have."""
    spans = quick_spans(network, parts.box, parts.known)
    rows = claim.rows.float().expand(len(parts), -1, -1)
    choice = renewed(network.quick, spans, parts.choice)
    found = backward(network.quick, spans, rows, None, choice, seen).least(spans[0]) + claim.offset.float()
    empty = torch.stack([(span.low > span.high).flatten(1).any(1) for span in spans]).any(0)
    return torch.where(empty.unsqueeze(1), torch.inf, found)


def _quick_signs(network: Network, parts: Domains) -> dict[int, Tensor]:
    """The sides that splits have put the quick graph's units on."""
    signs = {k: sign.float() for k, sign in parts.signs.items()}
    if not network.kept:
        return signs
    return {kept.place: kept.of(signs[k]) for k, kept in network.kept.items()}


def _settled(known: Mapping[int, Interval]) -> tuple[dict[int, Interval], Tensor]:
    """Intervals whose ends are in order, and bool ``[m]``: parts where they were not."""
    settled: dict[int, Interval] = {}
    empty: Tensor | None = None
    for k, span in known.items():
        slack = 0.0 if span.outward is not None else _CROSSED * (1 + span.size)
        crossed = (span.low > span.high + slack).flatten(1).any(1)
        empty = crossed if empty is None else empty | crossed
        settled[k] = Interval(
            torch.minimum(span.low, span.high), torch.maximum(span.low, span.high), span.outward
        )
    assert empty is not None
    return settled, empty

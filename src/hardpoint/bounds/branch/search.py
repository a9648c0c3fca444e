"""Branch and bound: a box is cut into parts until each is proven, or a point breaks the claim, or time is up.

Inputs of few numbers are cut themselves; those of many at the kinks of the network's units (Wang et al., "Beta-CROWN",
NeurIPS 2021). Nothing is lost by stopping early: the worst bound of what is left holds for the whole box.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor

from hardpoint.bounds.alpha import Ascent, alpha_linear, alpha_spans
from hardpoint.bounds.branch import boxes, splits
from hardpoint.bounds.branch.boxes import Losses
from hardpoint.bounds.branch.domains import Domains, Waiting
from hardpoint.bounds.branch.leaf import solved
from hardpoint.bounds.claim import Claim
from hardpoint.bounds.condensed import condensed
from hardpoint.bounds.crown import crown_spans
from hardpoint.bounds.graph import Graph, Network
from hardpoint.bounds.linear import Choice, backward
from hardpoint.bounds.operators.operator import Interval

_FEW = 16
"""Inputs of so many numbers are cut themselves."""
_BYTES = 512 * 2**20
_TURNS = 4
_ROOT = 0.15
"""The share of the time that the whole box may take where it can be split."""
_QUICK = 0.5
"""Seconds that bounding some parts together should take, or more."""

Accepts = Callable[[Tensor], bool]
"""Whether a point ``[1, ...]`` that breaks the claim for the graph does so for the network."""


class Answer(StrEnum):
    """What is known of a claim."""

    PROVEN = "proven"
    BROKEN = "broken"
    OPEN = "open"


@dataclass(frozen=True)
class Limits:
    """When to give up.

    Attributes:
        seconds: of the clock, for one box.
        waiting: parts that may wait at once.
    """

    seconds: float = 60.0
    waiting: int = 400_000


@dataclass(frozen=True)
class Settled:
    """What branch and bound came to.

    Attributes:
        answer: see ``Answer``.
        bound: a lower bound of the claim over the whole box.
        witness: ``[1, ...]``: a point that breaks the claim.
        parts: how many were bounded.
        reason: why it is open.
    """

    answer: Answer
    bound: float
    witness: Tensor | None = None
    parts: int = 1
    reason: str = ""


@dataclass
class _Search:
    """One box, its claim, and what is known so far."""

    network: Network
    claim: Claim
    accepts: Accepts
    deadline: float
    limits: Limits
    losses: Losses | None
    parts: int = 0

    @torch.no_grad()
    def broken_at(self, points: Tensor) -> Tensor | None:
        """The worst of ``points`` ``[m, ...]``, where it breaks the claim."""
        every = torch.zeros(len(points), dtype=torch.int64)
        margins = self.claim.of(every).margin(self.network.exact(points))
        worst = int(margins.argmin())
        found = points[worst : worst + 1]
        return found if float(margins[worst]) <= 0 and self.accepts(found) else None

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.deadline + self.limits.seconds

    def is_late(self) -> bool:
        return time.monotonic() > self.deadline


def settled(
    network: Network,
    claim: Claim,
    box: Interval,
    limits: Limits,
    accepts: Accepts,
    known: list[Interval] | None = None,
    losses: Losses | None = None,
) -> Settled:
    """Decide a claim over one box.

    Args:
        network: both graphs of it.
        claim: ``[1, S, K]``.
        box: ``[1, ...]``; ``outward`` where bounds are to hold for all their own rounding.
        limits: when to give up.
        accepts: is asked before a point counts.
        known: the intervals that ``crown_spans`` found.
        losses: what the bounds are lowered by: the claim is of the network as it is run.
    """
    search = _Search(network, claim, accepts, time.monotonic() + limits.seconds, limits, losses)
    few = box.low[0].numel() <= _FEW
    if few and losses is None:
        return _cut_inputs(search, box)
    spans = known or crown_spans(network.exact, box)
    if losses is not None:
        lost = losses(spans, claim.rows)
        if few and _is_hopeless(claim, lost):  # parts may lose less, where anything is known of it at all
            middle = Interval((box.low + box.high) / 2, (box.low + box.high) / 2, box.outward)
            lost = losses(crown_spans(network.exact, middle), claim.rows)
        if _is_hopeless(claim, lost):
            return Settled(Answer.OPEN, -torch.inf, reason="how far float32 strays is not known")
        if not few:
            search.claim = claim.lowered(lost)
    return _cut_inputs(search, box) if few else _split_units(search, box, spans)


def _is_hopeless(claim: Claim, lost: Tensor) -> bool:
    """Whether some clause has only rows that may lose any amount."""
    return bool((claim.proven(-lost) == -torch.inf).any())


def _cut_inputs(search: _Search, box: Interval) -> Settled:
    waiting, done = Waiting(), torch.inf
    found, corner = boxes.bounded(search.network.exact, search.claim, box, None, search.losses)
    pace = _Pace(_at_once(search.network.exact, found, rows=4))
    while True:
        search.parts += len(found)
        is_open = ~(found.bound > 0)
        done = min(done, float(torch.where(is_open, torch.inf, found.bound).min()))
        if bool(is_open.any()):
            point = search.broken_at(corner[is_open])
            if point is not None:
                return Settled(Answer.BROKEN, -torch.inf, point, search.parts)
            waiting.put(found.of(is_open))
        if not len(waiting):
            return Settled(Answer.PROVEN, done, None, search.parts)
        reason = _gives_up(search, waiting)
        if reason:
            return Settled(Answer.OPEN, waiting.worst, None, search.parts, reason)
        parts = waiting.take(pace.begins())
        if bool((parts.box.high - parts.box.low).flatten(1).amax(1).min() < 1e-12):
            waiting.put(parts)
            return Settled(Answer.OPEN, waiting.worst, None, search.parts, "parts became points")
        halves, known = boxes.halves(parts)
        found, corner = boxes.bounded(search.network.exact, search.claim, halves, known, search.losses)
        pace.ends()


def _split_units(search: _Search, box: Interval, spans: list[Interval]) -> Settled:
    graph, whole = search.network.exact, search.claim
    clauses = torch.full((whole.clauses,), -torch.inf, dtype=torch.float64)
    for turn in range(_TURNS + 1):
        with torch.no_grad():
            if turn == 0:
                linear = backward(graph, spans, whole.rows)
            else:
                linear = alpha_linear(search.network, spans, whole.rows, Ascent(steps=40))
        before = clauses
        clauses = torch.fmax(clauses, whole.proven(linear.least(box) + whole.offset)[0])
        search.parts = 1
        if bool((clauses > 0).all()):
            return Settled(Answer.PROVEN, float(clauses.min()))
        point = search.broken_at(linear.corner(box)[0])
        if point is not None:
            return Settled(Answer.BROKEN, -torch.inf, point)
        # narrower intervals allow better lines, which allow narrower intervals: as long as that pays
        gained = float((clauses - before).max()) > 0.1 * float(clauses.min().abs())
        if search.is_late() or turn == _TURNS or (turn > 1 and not gained):
            break
        if turn and splits.kinks(graph) and search.spent > _ROOT * search.limits.seconds:
            break
        spans = alpha_spans(search.network, spans, Ascent(steps=10))
    done = float(torch.where(clauses > 0, clauses, torch.inf).min())
    # one clause after the other, the hardest first: what it needs split is its own
    order = clauses.argsort().tolist()
    for turn, clause in enumerate(order):
        if float(clauses[clause]) > 0:
            continue
        search.claim = whole.only(torch.arange(whole.clauses) == clause)
        found = _split_for(search, box, spans, clauses[clause].view(1))
        if found.answer is not Answer.PROVEN:  # the clauses after it stand where they stood
            rest = [float(clauses[each]) for each in order[turn + 1 :]]
            return replace(found, bound=min(found.bound, done, *rest))
        done = min(done, found.bound)
    return Settled(Answer.PROVEN, done, None, search.parts)


def _split_for(search: _Search, box: Interval, spans: list[Interval], bound: Tensor) -> Settled:
    """Decide the one clause that the search's claim has."""
    network, places = condensed(search.network, spans), splits.kinks(search.network.exact)
    if not places:
        return Settled(Answer.OPEN, float(bound), None, 1, "the network has no units that can be split")
    whole = splits.root(network.exact, box, spans, Choice(), bound)
    done, waiting = torch.inf, Waiting()
    waiting.put(splits.bounded(network, search.claim, whole, Ascent(steps=20)))
    pace = _Pace(_at_once(network.exact, waiting.parts[0], rows=8 * search.claim.rows.shape[1]))
    while len(waiting):
        reason = _gives_up(search, waiting)
        if reason:
            return Settled(Answer.OPEN, waiting.worst, None, search.parts, reason)
        parts = waiting.take(pace.begins())
        unit, is_leaf = splits.chosen(network, search.claim, parts, places, tried=3)
        for row in is_leaf.nonzero().flatten().tolist():
            leaf = solved(network.exact, search.claim, parts.of(torch.tensor([row])))
            if leaf is None or not leaf.bound > 0:
                point = search.broken_at(leaf.point) if leaf is not None else None
                if point is not None:
                    return Settled(Answer.BROKEN, -torch.inf, point, search.parts)
                waiting.put(parts)
                reason = "a linear part stands at 0 within rounding"
                return Settled(Answer.OPEN, waiting.worst, None, search.parts, reason)
            done = min(done, leaf.bound)
        if bool(is_leaf.all()):
            continue
        halves, empty = splits.halves(network.exact, parts.of(~is_leaf), unit[~is_leaf], places)
        halves = halves.of(~empty)
        search.parts += len(halves)
        if len(halves):
            found = splits.bounded(network, search.claim, halves, Ascent(steps=12))
            is_open = ~(found.bound > 0)
            done = min(done, float(torch.where(is_open, torch.inf, found.bound).min()))
            waiting.put(found.of(is_open))
        pace.ends()
    return Settled(Answer.PROVEN, done, None, search.parts)


@dataclass
class _Pace:
    """How many parts are bounded together: as many as pay, and no more than the clock is looked at often enough.

    Attributes:
        most: what memory allows.
        size: now.
    """

    most: int
    size: int = 16
    began: float = 0.0

    def begins(self) -> int:
        self.began = time.monotonic()
        return self.size

    def ends(self) -> None:
        spent = time.monotonic() - self.began
        if spent < _QUICK:
            self.size = min(2 * self.size, self.most)
        elif spent > 4 * _QUICK:
            self.size = max(self.size // 2, 1)


def _gives_up(search: _Search, waiting: Waiting) -> str:
    if search.is_late():
        return f"time is up, {len(waiting)} parts are open"
    if len(waiting) > search.limits.waiting:
        return f"{len(waiting)} parts are open, more than memory is kept for"
    return ""


def _at_once(graph: Graph, parts: Domains, rows: int) -> int:
    """How many parts are bounded together."""
    widest = sum(span.low[0].numel() for span in parts.known.values()) + parts.box.low[0].numel()
    return max(16, min(1024, _BYTES // (widest * 8 * rows * 8)))

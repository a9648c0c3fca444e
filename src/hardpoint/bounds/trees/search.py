"""The search for leaves that one row reaches together and whose values sum to no more than a limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from hardpoint.bounds.trees.cliques import Cliques, Numbers, merged, numbers_to_merge

_MERGE = 2**19  # numbers that one merging may look at
_REMEMBER = 2**27  # who meets whom, kept for the next time
_TRIES = 64  # rows of a last group that are tried as witnesses

Accept = Callable[[Numbers, Numbers], bool]
"""Whether a row from the box ``low`` ``[d]`` to ``high`` ``[d]`` really is what is looked for."""


class Ending(Enum):
    """How a search ended."""

    NONE = "nothing there"  # a proof
    FOUND = "accepted"
    OPEN = "not decided"


@dataclass(frozen=True)
class Outcome:
    """How the search ended.

    Attributes:
        ending: nothing there, found, or not decided.
        lower: no sum is less.
    """

    ending: Ending
    lower: float


def search(groups: Sequence[Cliques], most: float, accept: Accept, until: float) -> Outcome:
    """Look for one clique per group, all of which meet, with a sum of at most ``most``; complete if time allows.

    Groups are merged, two at a time, while what cannot be part of such a sum is dropped: a clique whose value and the
    smallest of all other groups exceed it. Where that outgrows memory, a depth-first search goes on over what is left.

    Args:
        groups: at least one.
        most: the largest sum of interest.
        accept: asked about every complete sum that is found; False lets the search go on, and leaves it open.
        until: ``time.monotonic()`` at which to stop.
    """
    work = _Work(most, accept, until)
    left = list(groups)
    while True:
        left = work.pruned(left)
        if not left:
            return work.outcome(work.is_open)
        if len(left) == 1:
            return work.finished(left[0])
        if not work.dived and work.dives(left):
            return Outcome(Ending.FOUND, work.lowest_of(left))
        if time.monotonic() > until:
            return Outcome(Ending.OPEN, work.lowest_of(left))
        fewer = _some_merged(left)
        if len(fewer) == len(left):
            return work.deep(left)
        if not all(len(group) for group in fewer):
            return work.outcome(work.is_open)
        left = fewer


def _some_merged(groups: Sequence[Cliques]) -> list[Cliques]:
    """The smallest groups merged two by two: one pair, or a part of very many, before it is looked again at what can be
    dropped; all as they are where merging takes too much."""
    order = sorted(groups, key=len)
    many = max(1, len(order) // 16)
    made: list[Cliques] = []
    while len(made) < many and len(order) > 1 and numbers_to_merge(order[0], order[1]) <= _MERGE:
        made.append(merged(order.pop(0), order.pop(0)))
    return [*order, *made]


@dataclass
class _Work:
    """What is carried along a search: the least of what was dropped, and whether a sum was found and not accepted."""

    most: float
    accept: Accept
    until: float
    dropped: float = np.inf
    is_open: bool = False
    dived: bool = field(default=False)

    def outcome(self, is_open: bool) -> Outcome:
        return Outcome(Ending.OPEN if is_open else Ending.NONE, self.dropped)

    def lowest_of(self, groups: Sequence[Cliques]) -> float:
        return min(self.dropped, float(sum(group.value.min() for group in groups)))

    def pruned(self, groups: Sequence[Cliques]) -> list[Cliques]:
        """The groups without cliques that are in no sum of interest; empty where there is no such sum."""
        left = list(groups)
        least = np.array([group.value.min() for group in left])
        for k, group in enumerate(left):
            reached = group.value + (least.sum() - least[k])
            keep = reached <= self.most
            if not keep.all():
                self.dropped = min(self.dropped, float(reached[~keep].min()))
                left[k] = group.only(keep)
                if not keep.any():
                    return []
        return left

    def finished(self, group: Cliques) -> Outcome:
        """One group is left: its values are the sums themselves."""
        order = np.argsort(group.value, kind="stable")
        for k in order[:_TRIES].tolist():
            if self.accept(group.low[k], group.high[k]):
                return Outcome(Ending.FOUND, min(self.dropped, float(group.value[order[0]])))
        return Outcome(Ending.OPEN, min(self.dropped, float(group.value[order[0]])))

    def dives(self, groups: Sequence[Cliques]) -> bool:
        """Whether taking the smallest value that still meets, group by group, the widest spread first, is accepted."""
        self.dived = True
        spread = [float(np.ptp(group.value)) for group in groups]
        order = sorted(range(len(groups)), key=lambda k: -spread[k])
        low, high, total = groups[0].low.min(0), groups[0].high.max(0), 0.0
        for k in order:
            group = groups[k]
            meet = ((group.low <= high) & (group.high >= low)).all(1)
            if not meet.any():
                return False
            best = int(np.argmin(np.where(meet, group.value, np.inf)))
            low, high = np.maximum(low, group.low[best]), np.minimum(high, group.high[best])
            total += float(group.value[best])
        return total <= self.most and self.accept(low, high)

    def deep(self, groups: Sequence[Cliques]) -> Outcome:
        """Depth first over all cliques at once: who is chosen leaves only those that it meets."""
        low, high, value = (
            np.concatenate([getattr(group, name) for group in groups]) for name in ("low", "high", "value")
        )
        sizes = [len(group) for group in groups]
        owner = np.repeat(np.arange(len(groups)), sizes)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        meets: dict[int, NDArray[np.bool_]] = {}
        everything = np.ones(len(value), dtype=np.bool_)
        stack: list[tuple[float, NDArray[np.bool_], tuple[int, ...]]] = [(-np.inf, everything, ())]
        while stack:
            if time.monotonic() > self.until:
                floor = self.lowest_of(groups)
                open_ones = [max(bound, floor) for bound, _, _ in stack]
                return Outcome(Ending.OPEN, min(self.dropped, *open_ones))
            _, alive, chosen = stack.pop()
            least = np.minimum.reduceat(np.where(alive, value, np.inf), starts)
            total = least.sum()
            if not np.isfinite(total):
                continue  # a group has nothing left that meets the others
            reached = np.where(alive, value + (total - least[owner]), np.inf)
            beyond = alive & (reached > self.most)
            if beyond.any():
                self.dropped = min(self.dropped, float(reached[beyond].min()))
                alive = alive & ~beyond
            counts = np.add.reduceat(alive.astype(np.int64), starts)
            if (counts == 0).any():
                continue
            if len(chosen) == len(groups):
                members = list(chosen)
                if self.accept(low[members].max(0), high[members].min(0)):
                    return Outcome(Ending.FOUND, self.lowest_of(groups))
                self.is_open, self.dropped = True, min(self.dropped, float(total))
                continue
            done = owner[list(chosen)] if chosen else np.array([], dtype=np.int64)
            counts[done] = np.iinfo(np.int64).max
            group = int(counts.argmin())
            mine = np.flatnonzero(alive & (owner == group))
            for k in mine[np.argsort(-reached[mine], kind="stable")].tolist():
                if k not in meets:
                    if len(meets) * len(value) > _REMEMBER:
                        meets.clear()
                    meets[k] = ((low <= high[k]) & (high >= low[k])).all(1) & (owner != group)
                    meets[k][k] = True
                stack.append((float(reached[k]), alive & meets[k], (*chosen, k)))
        return self.outcome(self.is_open)

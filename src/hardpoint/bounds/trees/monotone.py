"""Features that can only help a class, proven from the leaves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardpoint.bounds.trees.asked import as_compared, inside, row_of
from hardpoint.bounds.trees.cliques import Cliques, Numbers
from hardpoint.bounds.trees.reach import reach, sides_of
from hardpoint.bounds.trees.rounding import allowances
from hardpoint.bounds.trees.search import Ending, search
from hardpoint.core.errors import ConfigError, DataError
from hardpoint.models.trees import Link, TreeEnsemble, read_trees

_MOST_PAIRS = 2**24  # numbers that the pairs of one tree may take


class Proof(Enum):
    """What is known of a claim."""

    PROVEN = "proven"
    REFUTED = "refuted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class MonotoneProof:
    """What is known of how a score moves with a feature.

    Attributes:
        status: proven for all rows of the model's input range; refuted by ``witness``; or unknown: time ran out, or
            there are too many pairs of leaves, or the only falls are as small as what rounding makes.
        fall: by how much the score can fall at most. 0 where each tree by itself is monotone and one sum decides, as
            sums that are rounded in the same order stay in order; else what rounding can make of sums that are
            monotone; infinite where nothing is proven.
        witness: ``[2, d]``: two rows that differ in this feature only, the second further in its direction and with a
            lower score; None unless refuted.
    """

    status: Proof
    fall: float
    witness: Tensor | None


def prove_monotone(
    model: Any, feature: int, *, rising: bool = True, positive: int = 1, seconds: float = 10.0
) -> MonotoneProof:
    """Whether moving one feature in one direction, everything else unchanged, never lowers the score of a class against
    any other: then nobody hides a ``positive`` by such moves, and several features that are proven one by one may move
    together.

    First each tree alone: no leaf further along the feature that rows can move to from another has a smaller value. If
    that fails, trees are searched together, over pairs of leaves of the same tree: trees that fall may be outweighed.

    ``hp.tables.monotone_constraints`` makes a library fit such a model; this proves it of the model that came
    out, whichever way it was fitted.

    Args:
        model: whatever ``read_trees`` reads.
        feature: its column.
        rising: whether the feature is moved up, or down.
        positive: the class whose score must not fall.
        seconds: when to stop.

    Raises:
        ModelError: for a model that is no ensemble of trees.
        DataError: for a feature or class that it does not have.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> tree = DecisionTreeClassifier().fit([[0.0, 1.0], [1.0, 1.0]], [0, 1])
    >>> prove_monotone(tree, 0).status.value, prove_monotone(tree, 0, rising=False).status.value
    ('proven', 'refuted')
    """
    if not 0 < seconds < math.inf:
        raise ConfigError(f"seconds is {seconds}", "give more than 0")
    trees = read_trees(model)
    if not 0 <= feature < trees.features or not 0 <= positive < trees.classes:
        raise DataError(
            f"feature {feature}, class {positive}",
            f"the model has {trees.features} features and {trees.classes} classes, counted from 0",
        )
    until, fall, status = time.monotonic() + seconds, 0.0, Proof.PROVEN
    for rival in range(trees.classes):
        if rival == positive:
            continue
        found = _against(trees, feature, rising, positive, rival, until)
        if found.status is Proof.REFUTED:
            return found
        if found.status is Proof.UNKNOWN:
            status = Proof.UNKNOWN
        fall = max(fall, found.fall)
    return MonotoneProof(status, fall, None)


def _against(
    trees: TreeEnsemble, feature: int, rising: bool, positive: int, rival: int, until: float
) -> MonotoneProof:
    """The proof for the score of ``positive`` above that of one other class."""
    sides = sides_of(trees)
    like = torch.zeros(1, trees.features, dtype=torch.float64)
    low, high = (as_compared(trees, end.expand_as(like)[0]) for end in trees.box.bounds_like(like))
    reached = reach(sides, low, high)
    values = sides.logits[:, positive] - sides.logits[:, rival]
    here = np.flatnonzero(reached.columns == feature)
    if not len(here):
        return MonotoneProof(Proof.PROVEN, 0.0, None)
    groups, _ = reached.groups(values)
    moving = []
    for group in groups:
        pairs = _pairs(group, int(here[0]), rising)
        if pairs is None or time.monotonic() > until:
            return MonotoneProof(Proof.UNKNOWN, math.inf, None)
        if (pairs.value != 0).any():
            moving.append(pairs)
    slack = 2 * allowances(trees)(positive, rival)
    if all(bool((pairs.value >= 0).all()) for pairs in moving):
        return MonotoneProof(Proof.PROVEN, 0.0 if trees.link is Link.LOGISTIC else slack, None)
    seen: list[Tensor] = []
    accept = _falls(trees, reached.columns, int(here[0]), low, high, positive, rival, slack, seen)
    outcome = search(moving, -slack, accept, until)
    match outcome.ending:
        case Ending.NONE:
            return MonotoneProof(Proof.PROVEN, slack, None)
        case Ending.FOUND:
            return MonotoneProof(Proof.REFUTED, math.inf, seen[0])
        case Ending.OPEN:
            return MonotoneProof(Proof.UNKNOWN, math.inf, None)


def _pairs(leaves: Cliques, column: int, rising: bool) -> Cliques | None:
    """Pairs of leaves that a row can move between by moving one feature, and what the score gains; the box has one more
    column, where the feature is after the move. None where there are too many.

    Two leaves of a tree whose boxes meet in all other features lie one behind the other in this one; pairs in the
    wrong order are no moves.
    """
    count, width = leaves.low.shape
    if count * count * (width + 1) > _MOST_PAIRS:
        return None
    low, high = np.maximum(leaves.low[:, None], leaves.low), np.minimum(leaves.high[:, None], leaves.high)
    meet = low <= high
    meet[:, :, column] = True
    before_low, before_high = leaves.low[:, None, column], leaves.high[:, None, column]
    after_low, after_high = leaves.low[None, :, column], leaves.high[None, :, column]
    ordered = before_low <= after_high if rising else after_low <= before_high
    first, second = np.nonzero(meet.all(2) & ordered)
    box_low, box_high = low[first, second], high[first, second]
    box_low[:, column], box_high[:, column] = leaves.low[first, column], leaves.high[first, column]
    box_low = np.concatenate([box_low, leaves.low[second, column][:, None]], 1)
    box_high = np.concatenate([box_high, leaves.high[second, column][:, None]], 1)
    return Cliques(box_low, box_high, leaves.value[second] - leaves.value[first])


def _falls(
    trees: TreeEnsemble,
    columns: NDArray[np.int64],
    column: int,
    low: Numbers,
    high: Numbers,
    positive: int,
    rival: int,
    slack: float,
    seen: list[Tensor],
) -> Callable[[Numbers, Numbers], bool]:
    """Whether two rows of a pair of boxes really have falling scores; those that do are put into ``seen``."""

    def accept(box_low: Numbers, box_high: Numbers) -> bool:
        point = inside(box_low, box_high, np.zeros_like(box_low))
        rows = []
        for value in (point[column], point[-1]):
            row = inside(low, high, np.zeros_like(low))
            row[columns] = point[:-1]
            row[columns[column]] = value
            rows.append(row_of(row))
        both = torch.cat(rows)
        if not bool(both.isfinite().all()) or not bool(trees.box.contains(both).all()):
            return False
        logits = trees.logits(trees.raw(both))
        score = logits[:, positive] - logits[:, rival]
        if not float(score[1]) < float(score[0]):
            return False
        seen.append(both)
        return True

    return accept

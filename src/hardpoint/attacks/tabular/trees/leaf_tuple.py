"""Walking from an adversarial row back towards the original, leaf by leaf."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.tabular.regions import table_region
from hardpoint.attacks.tabular.trees.beam import Round, first_round, next_round
from hardpoint.attacks.tabular.trees.surroundings import Surroundings
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import put_rows, take_rows
from hardpoint.engine.attack import Reply, Task
from hardpoint.models.trees import TreeEnsemble

_BEAM = 4
_WIDER = 2.0  # the first search gets this multiple of a finite budget
_TIGHTER = 0.5  # later ones at least this share of the distance reached
_CLOSE = 0.93  # they end when one with this share of it has failed


@dataclass(frozen=True)
class LeafTupleState:
    """What is asked about, the nearest adversarial row so far, and what the input is doing."""

    HAS_ROWS: ClassVar[bool] = True
    round: Round
    done: Tensor
    walking: Tensor  # bool [n]: from ``near`` towards the original; else searching
    searched: Tensor  # int64 [n]: rounds of the present search
    failed: Tensor  # float64 [n]: the largest budget in which a search found nothing
    near: Tensor  # [n, d]
    distance: Tensor  # float64 [n], of ``near``; infinite while there is none

    @property
    def query(self) -> Tensor:
        return self.round.query

    @property
    def asked(self) -> Tensor:
        return self.round.asked


@dataclass(frozen=True)
class LeafTupleAttack(StandaloneAttack):
    """The nearest adversarial row that a walk over neighbouring leaf tuples finds, for models of trees.

    Which leaf of each tree a row ends in is all that trees see of it. A beam search (see ``CoordinateAttack``) finds
    a first adversarial row; from there the walk tries tuples that lie nearer: those behind one threshold of one
    coordinate, whose answers are known exactly, and those in which one tree changes to a leaf that several
    coordinates must move for. In each the row nearest to the original is taken and repaired; the nearest one that
    the model confirms is walked on from, until none is nearer. Then the search begins again with a smaller budget,
    halfway between the distance reached and what was too little, until these two meet.

    With an infinite budget it gives the smallest distance it finds; with a finite one it stops as soon as it is
    inside, which a search that never leaves the budget may fail to.

    Args:
        trees: the model's trees, from ``read_trees``.
        rounds: rounds in all.
        depth: rounds of one search without success before it ends.
        candidates: rows repaired and asked about per round.

    Raises:
        ThreatError: for settings below 1; and, on use, for a perturbation other than ``FeatureEdits``.

    Zhang, Zhang and Hsieh, "An efficient adversarial attack for tree ensembles" (NeurIPS 2020), whose neighbours
    differ in exactly one leaf; here they may differ in all that one threshold or one leaf's box implies, as trees
    over binned features share thresholds.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from hardpoint.models.trees import read_trees
    >>> from hardpoint.threats.features import Feature, FeatureEdits, Schema
    >>> tree = DecisionTreeClassifier().fit([[0.0, 0.0], [1.0, 0.0]], [0, 1])
    >>> schema = Schema([Feature("a"), Feature("b")])
    >>> result = LeafTupleAttack(read_trees(tree))(
    ...     tree, torch.tensor([[0.2, 0.7]]), torch.tensor([0]), FeatureEdits(schema)
    ... )
    >>> round(float(result.distance), 4)
    0.3
    """

    trees: TreeEnsemble
    rounds: int = 100
    depth: int = 12
    candidates: int = 32
    needs: ClassVar[Access] = Access.SCORES
    minimises: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if min(self.rounds, self.depth, self.candidates) < 1:
            raise ThreatError(
                f"LeafTupleAttack(rounds={self.rounds}, depth={self.depth}, candidates={self.candidates})",
                "give whole numbers of 1 or more",
            )

    @property
    def turns(self) -> int:
        return self.rounds

    @property
    def name(self) -> str:
        return f"LeafTuple {self.rounds}×{self.candidates}"

    def start(self, task: Task) -> LeafTupleState:
        n = len(task)
        eps = table_region(task.region, "LeafTupleAttack").eps
        nothing = torch.full((n,), torch.inf, dtype=torch.float64)
        asking = self._first(_without_budget(task), torch.full_like(nothing, _WIDER * eps))
        return LeafTupleState(
            round=asking,
            done=asking.done,
            walking=torch.zeros(n, dtype=torch.bool),
            searched=torch.ones_like(task.y),
            failed=torch.zeros_like(nothing),
            near=task.x,
            distance=nothing,
        )

    def step(self, state: LeafTupleState, reply: Reply, task: Task) -> LeafTupleState:
        wide = _without_budget(task)
        near, distance = self._nearest(state, reply, wide)
        nearer = distance < state.distance
        goes_on = ~state.walking & ~nearer
        fails = goes_on & ((state.searched >= self.depth) | state.round.done)
        failed = torch.where(fails, torch.maximum(state.failed, state.round.budget), state.failed)
        again = (state.walking & ~nearer) | fails  # a walk that ends makes way for a search too
        state = replace(
            state,
            walking=nearer,
            searched=torch.where(again, 1, state.searched + goes_on),
            failed=failed,
            near=near,
            distance=distance,
            done=again & (torch.isinf(distance) | (failed >= _CLOSE * distance)),
        )
        for where, asked_next in (
            (nearer, self._walk),
            (again & ~state.done, self._begin),
            (goes_on & ~fails, self._go_on),
        ):
            rows = where.nonzero().squeeze(1)
            if len(rows):
                part, scores = take_rows(state, rows), reply.scores
                answer = Reply(reply.labels[rows], None if scores is None else scores[rows])
                asking = asked_next(part, answer, take_rows(wide, rows))
                state = put_rows(state, rows, replace(part, round=asking))
        return state

    def _begin(self, state: LeafTupleState, reply: Reply, task: Task) -> Round:
        between = (state.failed * state.distance).sqrt()
        return self._first(task, torch.maximum(between, _TIGHTER * state.distance))

    def _go_on(self, state: LeafTupleState, reply: Reply, task: Task) -> Round:
        return next_round(self.trees, state.round, reply, task, _BEAM)

    def _first(self, task: Task, budget: Tensor) -> Round:
        """The beginning of a search: single moves from the originals, and moves into the nearest leaves."""
        half = self.candidates // 2
        single = first_round(self.trees, task, budget, self.candidates - half)
        query, asked = self._into_leaves(Surroundings.of(self.trees, task, task.x), budget, half)
        asked = torch.cat([single.asked, asked], 1)
        return Round(torch.cat([single.query, query], 1), asked, ~asked.any(1), budget)

    def _walk(self, state: LeafTupleState, reply: Reply, task: Task) -> Round:
        """Nearer leaf tuples that should be adversarial: half behind one threshold, half in other leaves."""
        half = self.candidates // 2
        here = Surroundings.of(self.trees, task, state.near)
        single = self._one_step(here, state.distance, self.candidates - half)
        leaves = self._into_leaves(here, state.distance, half)
        query, asked = (torch.cat(parts, 1) for parts in zip(single, leaves, strict=True))
        return Round(query, asked, torch.zeros_like(state.done), state.distance)

    @staticmethod
    def _nearest(state: LeafTupleState, reply: Reply, wide: Task) -> tuple[Tensor, Tensor]:
        """The nearest adversarial row seen so far, and its distance."""
        n, k = state.asked.shape
        reached = wide.goal.reached(reply.labels, wide.y.unsqueeze(1)) & state.asked
        owner, slot = reached.nonzero(as_tuple=True)
        if len(owner) == 0:
            return state.near, state.distance
        points, region = state.query[owner, slot], take_rows(wide.region, owner)
        away = torch.full((n, k), torch.inf, dtype=torch.float64)
        away[owner, slot] = torch.where(region.contains(points), region.distance(points), torch.inf)
        least, which = away.min(1)
        nearer = least < state.distance
        found = state.query[torch.arange(n), which]
        return torch.where(nearer.unsqueeze(1), found, state.near), torch.where(nearer, least, state.distance)

    def _one_step(self, here: Surroundings, limit: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """``[n, count, d]``: the shortest edits behind one threshold, and which of them there are."""
        n, cells = here.margin.shape
        length, fits = here.moves.after(here.z, torch.arange(n), limit)
        key = torch.where(fits & (here.margin > 0) & (length < limit.unsqueeze(1)), length, torch.inf)
        best = key.topk(min(count, cells), dim=1, largest=False)
        who = torch.arange(n).repeat_interleave(best.indices.shape[1])
        points = here.moves.apply(here.z[who], who, best.indices.flatten()).view(n, -1, here.z.shape[1])
        return here.settled(points, torch.isfinite(best.values), limit, count)

    def _into_leaves(self, here: Surroundings, limit: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """``[n, count, d]``: the shortest edits into leaves that ask for two or more coordinates, and which there are.

        What such a move does to the answer is estimated twice: by what its coordinates do one by one, and by the
        one leaf alone.
        """
        after, margin, target = here.leaf_moves()
        key = torch.where((margin > 0) & (after < limit.unsqueeze(1)), after, torch.inf)
        best = key.topk(min(count, key.shape[1]), dim=1, largest=False)
        leaves = self.trees.leaves
        points = here.z.unsqueeze(1).expand(-1, best.indices.shape[1], -1).clone()
        for place, leaf in enumerate(best.indices.unbind(1)):
            row, side = ((leaves.leaf == leaf.unsqueeze(1)) & here.out.T).nonzero(as_tuple=True)
            value = here.moves.value[row, target[row, side]].to(points.dtype)
            points[row, place, leaves.feature[side]] = value
        return here.settled(points, torch.isfinite(best.values), limit, count)


def _without_budget(task: Task) -> Task:
    region = table_region(task.region, "LeafTupleAttack")
    return replace(task, region=replace(region, eps=torch.inf))

"""Random search whose finds are climbed: Square looks for the hill, APGD for its top."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.gradient.apgd import APGD, APGDState
from hardpoint.attacks.score.square import Square, SquareState
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import put_rows, take_rows
from hardpoint.engine.attack import Reply, Task


@dataclass(frozen=True)
class MemeticState:
    """Where the two searches stand; ``query`` is the question of the one whose turn it is."""

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor
    walk: SquareState
    climb: APGDState


@dataclass(frozen=True)
class Memetic(StandaloneAttack):
    """Square and APGD by turns: each round asks ``queries`` questions of Square's random search, then takes ``steps``
    gradient steps from the best point so far, where the next round goes on (a memetic search, after Moscato 1989).

    Gradient searches end on the hill they start on; a random search crosses from hill to hill and climbs badly.

    Args:
        rounds: how often the two take turns.
        queries: of the random search in each round.
        steps: of the climb in each round.

    >>> Memetic(rounds=2, queries=500, steps=25).name
    'Memetic 2 × (500 + 25)'
    """

    rounds: int = 4
    queries: int = 500
    steps: int = 25
    needs: ClassVar[Access] = Access.GRADIENTS

    def __post_init__(self) -> None:
        if min(self.rounds, self.queries, self.steps) < 1:
            raise ThreatError(
                f"Memetic(rounds={self.rounds}, queries={self.queries}, steps={self.steps})",
                "give 1 or more of each",
            )

    @property
    def turns(self) -> int:
        return self.rounds * self._round

    @property
    def name(self) -> str:
        return f"Memetic {self.rounds} × ({self.queries} + {self.steps})"

    def climbs(self, turn: Tensor) -> Tensor:
        """The gradient is asked for on a climb, but for its last point."""
        within = turn % self._round
        return (within >= self.queries) & (within < self._round - 1)

    def objective(self, scores: Tensor, task: Task, state: MemeticState) -> Tensor:
        return self._climb.objective(scores, task, state.climb)

    def start(self, task: Task) -> MemeticState:
        walk = self._walk.start(task)
        return MemeticState(walk.best, walk, self._climb.start_at(walk.best, task))

    def step(self, state: MemeticState, reply: Reply, task: Task) -> MemeticState:
        walked = (task.turn - 1) % self._round < self.queries  # what was replied to
        if bool(walked.all()):
            return self._walked(state, reply, task)
        if not bool(walked.any()):
            return self._climbed(state, reply, task)
        for rows, advance in ((walked, self._walked), (~walked, self._climbed)):
            at = rows.nonzero().squeeze(1)
            ahead = advance(take_rows(state, at), take_rows(reply, at), take_rows(task, at))
            state = put_rows(state, at, ahead)
        return state

    def _walked(self, state: MemeticState, reply: Reply, task: Task) -> MemeticState:
        asked = replace(reply, scores=reply.seen_scores().unsqueeze(1))
        walk = self._walk.step(state.walk, asked, replace(task, turn=self._walks(task)))
        ends = (task.turn % self._round == self.queries).nonzero().squeeze(1)
        state = MemeticState(walk.query[:, 0], walk, state.climb)
        if not len(ends):
            return state
        top = walk.best[ends]
        climb = put_rows(state.climb, ends, self._climb.start_at(top, take_rows(task, ends)))
        return MemeticState(state.query.index_copy(0, ends, top), walk, climb)

    def _climbed(self, state: MemeticState, reply: Reply, task: Task) -> MemeticState:
        value = task.goal.margin(reply.seen_scores(), task.y)
        known = reply.gradient if reply.gradient is not None else torch.zeros_like(state.query)
        steps = (task.turn - 1) % self._round - self.queries + 1
        climb = self._climb.step(
            state.climb, replace(reply, value=value, gradient=known), replace(task, turn=steps)
        )
        ends = (task.turn % self._round == 0).nonzero().squeeze(1)
        state = MemeticState(climb.query, state.walk, climb)
        if not len(ends):
            return state
        part = replace(take_rows(task, ends), turn=self._walks(task)[ends])
        walk = self._walk.go_on(climb.best[ends], climb.best_value[ends], part)
        return MemeticState(
            state.query.index_copy(0, ends, walk.query[:, 0]), put_rows(state.walk, ends, walk), climb
        )

    def _walks(self, task: Task) -> Tensor:
        """int64 ``[n]``: replies that the random search has had."""
        rounds = task.turn // self._round
        return rounds * self.queries + (task.turn % self._round).clamp(max=self.queries)

    @property
    def _round(self) -> int:
        return self.queries + self.steps + 1

    @cached_property
    def _walk(self) -> Square:
        return Square(queries=self.rounds * self.queries)

    @cached_property
    def _climb(self) -> APGD:
        return APGD(loss="margin", steps=self.steps)

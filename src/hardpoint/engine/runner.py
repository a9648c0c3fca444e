"""The loop: an active set of inputs, what each has spent, and the best example seen for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hardpoint.core.access import Access
from hardpoint.core.rows import cat_rows, put_rows, take_rows
from hardpoint.engine.attack import Attack, GradientAttack, Reply, SparingAttack, Task
from hardpoint.engine.batching import batch_size_for
from hardpoint.engine.budget import Deadline
from hardpoint.engine.oracle import Oracle

Confirm = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Found:
    """What an attack achieved, one row per input of its task: claims, or successes where each was confirmed.

    Attributes:
        hit: bool ``[n]``, an allowed input that reaches the goal was seen.
        adversarial: the nearest such input, or the original, ``[n, ...]``.
        distance: float64 ``[n]``, its distance, infinite where none was found.
        forward, backward: int64 ``[n]``, passes spent.
        finished: bool ``[n]``, False where a budget or deadline cut the attack short.
        closest: float64 ``[n]``, the largest margin of the goal at any allowed point whose scores were
            seen; ``-inf`` without such a point.
    """

    hit: Tensor
    adversarial: Tensor
    distance: Tensor
    forward: Tensor
    backward: Tensor
    finished: Tensor
    closest: Tensor


def run_attack(
    attack: Attack,
    oracle: Oracle,
    task: Task,
    *,
    capacity: int = 256,
    allowance: Tensor | None = None,
    deadline: Deadline | None = None,
    progress: Callable[[int], None] | None = None,
    confirm: Confirm | None = None,
) -> Found:
    """Run ``attack`` on every row of ``task``.

    Up to ``capacity`` inputs are in flight; one that falls or finishes makes room for the next. An input leaves
    at its first success, unless the budget eps is infinite and the attack ``minimises``: then it stays to the
    end and the nearest example is kept. What is asked about one input, and what that costs, does not depend on
    the inputs it shares a batch with.

    Args:
        attack: the attack.
        oracle: the door to the model; its access must cover ``attack.needs``.
        task: the inputs; ``turn`` is 0 everywhere.
        capacity: inputs in flight.
        allowance: int64 ``[n]``, passes (forward + backward, or queries) each input may still spend.
        deadline: when to stop; inputs under way are then unfinished.
        progress: called with the number of inputs that just ended.
        confirm: given rows ``[m]`` and a claimed example for each, says which stand, bool ``[m]``; an input whose
            claim does not stand is attacked further. Without it every claim stands.
    """
    return _Run(attack, oracle, task, capacity, allowance, deadline or Deadline(), progress, confirm).run()


class _Run:
    def __init__(
        self,
        attack: Attack,
        oracle: Oracle,
        task: Task,
        capacity: int,
        allowance: Tensor | None,
        deadline: Deadline,
        progress: Callable[[int], None] | None,
        confirm: Confirm | None,
    ) -> None:
        n, device = len(task), task.x.device
        self.attack, self.oracle, self.task = attack, oracle, task
        self.capacity, self.deadline, self.progress = max(1, capacity), deadline, progress
        self.confirm = confirm
        self.white_box = attack.needs is Access.GRADIENTS
        self.climber = (
            attack if isinstance(attack, GradientAttack) else None
        )  # asking a protocol is slow: ask once
        self.sparing = attack if isinstance(attack, SparingAttack) else None
        unlimited = math.isinf(getattr(task.region, "eps", math.inf))
        self.strays = bool(getattr(attack, "minimises", False))  # asks about points that are not allowed, too
        self.leave_on_hit = not (unlimited and self.strays)
        self.turns = attack.turns if attack.turns is not None else 2**62
        self.hit = torch.zeros(n, dtype=torch.bool, device=device)
        self.adversarial = task.x.clone()
        self.distance = torch.full((n,), torch.inf, dtype=torch.float64, device=device)
        self.forward = torch.zeros(n, dtype=torch.int64, device=device)
        self.backward = torch.zeros(n, dtype=torch.int64, device=device)
        self.finished = torch.zeros(n, dtype=torch.bool, device=device)
        self.closest = torch.full((n,), -torch.inf, dtype=torch.float64, device=device)
        self.limited = allowance is not None
        self.allowance = allowance if allowance is not None else torch.full_like(self.forward, 2**62)
        everyone = torch.arange(n, device=device)
        self.waiting = everyone[~self._cut_short(task, everyone)]

    def run(self) -> Found:
        state, live, rows, dead = self._begin()
        while len(rows) and not self.deadline.passed:
            reply, asked = self._ask(state, live, rows, dead)
            self._record(state.query, reply, asked, live, rows, dead)
            live = replace(live, turn=live.turn + 1)
            over = self._ended(live, rows) | dead
            if bool(over.all()):
                self._retire(rows[over & ~dead])
                state, live, rows, dead = self._begin()
                continue
            state = self.attack.step(state, reply, live)
            done = getattr(state, "done", None)
            if done is not None:
                over |= done
            gone = over | self._cut_short(live, rows) if self.limited else over
            if bool(gone.any()):
                self._retire(rows[over & ~dead])
                state, live, rows, dead = self._make_room(state, live, rows, gone)
        return Found(
            self.hit,
            self.adversarial,
            self.distance,
            self.forward,
            self.backward,
            self.finished,
            self.closest,
        )

    def _begin(self) -> tuple[Any, Task, Tensor, Tensor]:
        """A fresh batch of waiting inputs."""
        rows = self._admit(self.capacity)
        live = take_rows(self.task, rows)
        state = self.attack.start(live) if len(rows) else None
        return state, live, rows, torch.zeros(len(rows), dtype=torch.bool, device=rows.device)

    def _admit(self, room: int) -> Tensor:
        rows, self.waiting = self.waiting[:room], self.waiting[room:]
        return rows

    def _ask(self, state: Any, live: Task, rows: Tensor, dead: Tensor) -> tuple[Reply, Tensor | None]:
        """Put the state's questions; returns the reply and which of ``k`` points were asked, if ``k``."""
        query: Tensor = state.query
        if query.dim() == self.task.x.dim():
            return self._ask_points(state, live, rows), None
        n, k = query.shape[:2]
        asked = getattr(state, "asked", None)
        asked = torch.ones(n, k, dtype=torch.bool, device=query.device) if asked is None else asked
        left = (self.allowance[rows] - self.forward[rows]).unsqueeze(1)
        asked = asked & ~dead.unsqueeze(1) & (asked.cumsum(1) * self.oracle.samples <= left)
        self.forward[rows] += asked.sum(1) * self.oracle.samples
        labels = torch.full((n, k), -1, dtype=torch.int64, device=query.device)
        if not bool(asked.any()):
            return Reply(labels), asked
        owner = live.y.unsqueeze(1).expand(n, k)[asked]
        flat = _judged(self.oracle.ask(query[asked]), live, owner)
        labels[asked] = flat.labels
        if flat.scores is None:
            return Reply(labels), asked
        scores = flat.scores.new_full((n, k, flat.scores.shape[1]), -torch.inf)
        scores[asked] = flat.scores
        return Reply(labels, scores), asked

    def _ask_points(self, state: Any, live: Task, rows: Tensor) -> Reply:
        """Ask about one point per input, with the gradient where another step will follow."""
        query, attack = state.query, self.climber
        spent = torch.full_like(rows, self.oracle.samples)
        self.forward.index_add_(0, rows, spent)
        follows = self._follows(live)
        if not bool(follows.any()):
            return _judged(self.oracle.ask(query), live, live.y)
        if attack is None:
            raise TypeError(f"{self.attack.name} asks for gradients but has no objective")
        self.backward.index_add_(0, rows, spent * follows)
        if bool(follows.all()):
            return self._ascent(attack, query, live, state)
        on, last = follows.nonzero().squeeze(1), (~follows).nonzero().squeeze(1)
        part, part_live = take_rows(state, on), take_rows(live, on)
        ahead = self._ascent(attack, part.query, part_live, part)
        plain = _judged(self.oracle.ask(query[last]), live, live.y[last])
        assert ahead.value is not None and ahead.gradient is not None  # noqa: PT018

        def joined(first: Tensor, second: Tensor) -> Tensor:
            whole = first.new_zeros(len(query), *first.shape[1:])
            return whole.index_copy(0, on, first).index_copy(0, last, second.to(first.dtype))

        return Reply(
            joined(ahead.labels, plain.labels),
            joined(ahead.seen_scores(), plain.seen_scores()),
            ahead.value.new_zeros(len(query)).index_copy(0, on, ahead.value),
            torch.zeros_like(query).index_copy(0, on, ahead.gradient),
        )

    def _ascent(self, attack: GradientAttack, query: Tensor, live: Task, state: Any) -> Reply:
        """The reply with the gradient of the attack's objective."""

        def objective(scores: Tensor) -> Tensor:
            return attack.objective(scores, live, state)

        return _judged(self.oracle.ask_gradient(query, objective), live, live.y)

    def _follows(self, live: Task) -> Tensor:
        """Bool ``[n]``: whether the attack will use the gradient at the next point it asks about."""
        follows = (live.turn < self.turns - 1) & self.white_box
        return follows if self.sparing is None else follows & self.sparing.climbs(live.turn)

    def _record(
        self, query: Tensor, reply: Reply, asked: Tensor | None, live: Task, rows: Tensor, dead: Tensor
    ) -> None:
        """Keep, for each input, the nearest allowed point that reaches the goal."""
        if asked is None:
            if reply.scores is not None:
                margin = live.goal.margin(reply.scores, live.y).double()
                if self.strays:
                    margin = margin.masked_fill(~live.region.contains(query), -torch.inf)
                self.closest.scatter_reduce_(0, rows, margin, "amax")
            reached = live.goal.reached(reply.labels, live.y)
            if not bool(reached.any()):
                return
            where = (reached & ~dead).nonzero().squeeze(1)
            points = query
        else:
            if reply.scores is not None:
                self._come_closer(query, reply.scores, asked, live, rows)
            reached = live.goal.reached(reply.labels, live.y.unsqueeze(1)) & asked
            if not bool(reached.any()):
                return
            owner, slot = reached.nonzero(as_tuple=True)
            flat = take_rows(live.region, owner)
            away = flat.distance(query[owner, slot]).masked_fill(
                ~flat.contains(query[owner, slot]), torch.inf
            )
            best = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=rows.device)
            best = best.scatter_reduce(0, owner, away, "amin")
            pick = (away == best[owner]) & torch.isfinite(away)
            slot_of = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
            slot_of[owner[pick]] = slot[pick]
            where = torch.isfinite(best).nonzero().squeeze(1)
            points = query[torch.arange(len(rows), device=rows.device), slot_of]
        if not len(where):
            return
        region, points = take_rows(live.region, where), points[where]
        away = region.distance(points)
        better = region.contains(points) & (away < self.distance[rows[where]])
        target, points, away = rows[where[better]], points[better].to(self.adversarial.dtype), away[better]
        if self.confirm is not None and len(target):
            stands = self.confirm(target, points)
            target, points, away = target[stands], points[stands], away[stands]
        self.hit[target] = True
        self.adversarial[target] = points
        self.distance[target] = away

    def _come_closer(self, query: Tensor, scores: Tensor, asked: Tensor, live: Task, rows: Tensor) -> None:
        """Note the nearest misses among ``k`` points per input. Few are nearer, so only those are looked at."""
        owner, slot = asked.nonzero(as_tuple=True)
        margin = live.goal.margin(scores[owner, slot], live.y[owner]).double()
        nearer = (margin > self.closest[rows[owner]]).nonzero().squeeze(1)
        if not len(nearer):
            return
        owner, slot, margin = owner[nearer], slot[nearer], margin[nearer]
        allowed = take_rows(live.region, owner).contains(query[owner, slot])
        margin = margin.masked_fill(~allowed, -torch.inf)
        self.closest.scatter_reduce_(0, rows[owner], margin, "amax")

    def _ended(self, live: Task, rows: Tensor) -> Tensor:
        over = live.turn >= self.turns
        return over | self.hit[rows] if self.leave_on_hit else over

    def _cut_short(self, live: Task, rows: Tensor) -> Tensor:
        """Inputs that cannot pay for the next question."""
        cost = self.oracle.samples * (1 + self._follows(live).to(torch.int64))
        return self.forward[rows] + self.backward[rows] + cost > self.allowance[rows]

    def _retire(self, rows: Tensor) -> None:
        self.finished[rows] = True
        if self.progress is not None and len(rows):
            self.progress(len(rows))

    def _make_room(
        self, state: Any, live: Task, rows: Tensor, dead: Tensor
    ) -> tuple[Any, Task, Tensor, Tensor]:
        """Replace dead rows by waiting inputs; drop them once that makes the batch that is sent smaller.

        Fallen inputs ride along until then, and what that costs is charged to them. Inputs that may meet further
        attacks do not: what they have spent must not depend on their batch mates. Nor do inputs whose budget is
        spent. Bundles of queries are never sent for dead rows.
        """
        gone = dead.nonzero().squeeze(1)
        riding = self.hit[rows] & ~self._cut_short(live, rows) if self.limited else self.hit[rows]
        must = bool((dead & ~riding).any())
        sent = batch_size_for(len(rows), self.capacity)
        shrinks = batch_size_for(len(rows) - len(gone), self.capacity) < sent
        if len(self.waiting) and (must or shrinks or len(gone) >= 16):
            fresh = self._admit(len(gone))
            new_live = take_rows(self.task, fresh)
            new_state = self.attack.start(new_live)
            where = gone[: len(fresh)]
            if len(fresh) == len(gone):
                dead = torch.zeros_like(dead)
                state = put_rows(state, where, new_state)
                return state, put_rows(live, where, new_live), rows.index_copy(0, where, fresh), dead
            keep = (~dead).nonzero().squeeze(1)
            state = cat_rows(take_rows(state, keep), new_state)
            live = cat_rows(take_rows(live, keep), new_live)
            rows = torch.cat([rows[keep], fresh])
            return state, live, rows, torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        if not must and not shrinks:
            return state, live, rows, dead
        keep = (~dead).nonzero().squeeze(1)
        return take_rows(state, keep), take_rows(live, keep), rows[keep], dead[keep]


def _judged(reply: Reply, live: Task, y: Tensor) -> Reply:
    """The reply with its scores as the goal counts them."""
    return reply if reply.scores is None else replace(reply, scores=live.goal.judged(reply.scores, y))

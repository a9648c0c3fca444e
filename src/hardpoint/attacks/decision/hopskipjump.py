"""HopSkipJump: the nearest adversarial input, seeing labels only."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import per_row, put_rows, take_rows
from hardpoint.engine.attack import Reply, Task
from hardpoint.threats.linf import LinfRegion

# What an input is doing; each reply moves it on by itself.
_FIND, _BISECT, _ESTIMATE, _ADVANCE = 0, 1, 2, 3
_SLOTS = 16  # questions per input and turn while estimating
_FIRST_TRIES = 100


@dataclass(frozen=True)
class HopSkipJumpState:
    """Per input: what it is doing, the nearest adversarial point, and the numbers of the phase it is in."""

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor  # [n, slots, ...]
    asked: Tensor  # bool [n, slots]
    done: Tensor
    phase: Tensor
    round: Tensor  # outer iterations finished
    near: Tensor  # adversarial, on or near the boundary
    far: Tensor  # the adversarial end of a bisection or advance
    low: Tensor  # bisection: the share of the way from x to `far` known to be on the right side
    high: Tensor  # … known to be adversarial
    total: Tensor  # estimation: sum of label-weighted directions
    plain: Tensor  # … sum of directions
    wins: Tensor  # … sum of ±1 answers
    asked_so_far: Tensor  # in the phase it is in
    asked_in_all: Tensor
    stride: Tensor  # advance: the step being tried
    direction: Tensor


@dataclass(frozen=True)
class HopSkipJump(StandaloneAttack):
    """HopSkipJump (Chen, Jordan and Wainwright, IEEE S&P 2020), every quantity kept per input.

    Bisects to the decision boundary, estimates its normal from the labels of random points nearby, steps along
    it, repeats. With a finite budget an input stops once an example inside the budget is found; with an infinite
    one the whole query budget goes into the smallest distance. Distances are Linf for Linf threats, else L2.

    Args:
        queries: queries per input.
        initial_estimate: label queries of the first normal estimate; later ones take √round times as many.

    >>> HopSkipJump(queries=500).name
    'HopSkipJump 500'
    """

    queries: int = 5000
    initial_estimate: int = 100
    needs: ClassVar[Access] = Access.LABELS
    minimises: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.queries < 1 or self.initial_estimate < 1:
            raise ThreatError(
                f"HopSkipJump(queries={self.queries}, initial_estimate={self.initial_estimate})",
                "give whole numbers of 1 or more",
            )

    @property
    def turns(self) -> int:
        return self.queries  # at least one query per turn

    @property
    def name(self) -> str:
        return f"HopSkipJump {self.queries}"

    def start(self, task: Task) -> HopSkipJumpState:
        n, shape, device = len(task), task.x.shape[1:], task.x.device
        numbers = torch.zeros(n, dtype=torch.float64, device=device)
        counts = torch.zeros(n, dtype=torch.int64, device=device)
        state = HopSkipJumpState(
            query=task.x.unsqueeze(1).expand(n, _SLOTS, *shape).contiguous(),
            asked=torch.zeros(n, _SLOTS, dtype=torch.bool, device=device),
            done=torch.zeros(n, dtype=torch.bool, device=device),
            phase=counts.clone(),
            round=counts.clone(),
            near=task.x,
            far=task.x,
            low=numbers,
            high=numbers,
            total=torch.zeros_like(task.x),
            plain=torch.zeros_like(task.x),
            wins=numbers,
            asked_so_far=counts.clone(),
            asked_in_all=counts.clone(),
            stride=numbers,
            direction=torch.zeros_like(task.x),
        )
        return self._ask_next(state, task)

    def step(self, state: HopSkipJumpState, reply: Reply, task: Task) -> HopSkipJumpState:
        reached = task.goal.reached(reply.labels, task.y.unsqueeze(1)) & state.asked
        spent = state.asked_so_far + state.asked.sum(1)
        in_all = state.asked_in_all + state.asked.sum(1)
        state = replace(state, asked_in_all=in_all, done=state.done | (in_all >= self.queries))
        answered = state.phase  # a reply belongs to the phase that asked, not to the one that it leads to
        for phase, advance in (
            (_FIND, self._after_find),
            (_BISECT, self._after_bisect),
            (_ESTIMATE, self._after_estimate),
            (_ADVANCE, self._after_advance),
        ):
            here = (answered == phase).nonzero().squeeze(1)
            if len(here):
                part = advance(take_rows(state, here), reached[here], take_rows(task, here), spent[here])
                state = put_rows(state, here, part)
        return self._ask_next(state, task)

    # --- phases: each takes the answers and sets up the next phase -------------------------------------------

    def _after_find(
        self, s: HopSkipJumpState, reached: Tensor, task: Task, spent: Tensor
    ) -> HopSkipJumpState:
        found = reached.any(1)
        first = reached.to(torch.int64).argmax(1)
        far = s.query[torch.arange(len(first), device=first.device), first]
        far = torch.where(per_row(found, far), far, s.far)
        gave_up = ~found & (spent >= _FIRST_TRIES)
        return self._bisect_from(replace(s, asked_so_far=spent, done=s.done | gave_up), far, found)

    def _bisect_from(self, s: HopSkipJumpState, far: Tensor, where: Tensor) -> HopSkipJumpState:
        """Begin the bisection between x and ``far`` for the inputs ``where``."""
        return replace(
            s,
            far=torch.where(per_row(where, far), far, s.far),
            near=torch.where(per_row(where, far), far, s.near),
            low=torch.where(where, 0.0, s.low),
            high=torch.where(where, 1.0, s.high),
            phase=torch.where(where, _BISECT, s.phase),
        )

    def _after_bisect(
        self, s: HopSkipJumpState, reached: Tensor, task: Task, spent: Tensor
    ) -> HopSkipJumpState:
        middle, hit = (s.low + s.high) / 2, reached[:, 0]
        high, low = torch.where(hit, middle, s.high), torch.where(hit, s.low, middle)
        near = torch.where(per_row(hit, s.near), s.query[:, 0], s.near)
        over = (high - low) <= self._tolerance(task, s.far)
        nothing = torch.zeros_like(s.total)
        wide = per_row(over, s.total)
        return replace(
            s,
            high=high,
            low=low,
            near=near,
            phase=torch.where(over, _ESTIMATE, s.phase),
            total=torch.where(wide, nothing, s.total),
            plain=torch.where(wide, nothing, s.plain),
            wins=torch.where(over, 0.0, s.wins),
            asked_so_far=torch.where(over, 0, spent),
        )

    def _after_estimate(
        self, s: HopSkipJumpState, reached: Tensor, task: Task, spent: Tensor
    ) -> HopSkipJumpState:
        # Directions as they were asked: clipping to the input box bends them.
        moved = (s.query - s.near.unsqueeze(1)).flatten(2)
        length = torch.linalg.vector_norm(moved, dim=2, keepdim=True).clamp_min(1e-30)
        unit = torch.where(s.asked.unsqueeze(2), moved / length, 0.0)
        answer = torch.where(reached, 1.0, -1.0).to(unit.dtype) * s.asked
        total = s.total + (unit * answer.unsqueeze(2)).sum(1).view_as(s.total)
        plain = s.plain + unit.sum(1).view_as(s.plain)
        wins = s.wins + answer.double().sum(1)
        over = spent >= self._estimate_size(s.round)
        mean = (wins / spent.clamp_min(1)).to(total.dtype)
        # Subtracting the mean answer lowers the variance; if all answers agree there is nothing to subtract.
        baseline = torch.where(mean.abs() >= 1, 0.0, mean)
        direction = total - per_row(baseline, total) * plain
        if isinstance(task.region, LinfRegion):
            direction = direction.sign()
        else:
            norm = torch.linalg.vector_norm(direction.flatten(1), dim=1).clamp_min(1e-30)
            direction = direction / per_row(norm, direction)
        stride = self._distance(task, s.near) / torch.sqrt(s.round.double() + 1)
        wide = per_row(over, total)
        return replace(
            s,
            total=total,
            plain=plain,
            wins=wins,
            direction=torch.where(wide, direction, s.direction),
            stride=torch.where(over, stride, s.stride),
            phase=torch.where(over, _ADVANCE, s.phase),
            asked_so_far=torch.where(over, 0, spent),
        )

    def _after_advance(
        self, s: HopSkipJumpState, reached: Tensor, task: Task, spent: Tensor
    ) -> HopSkipJumpState:
        hit = reached[:, 0]
        gave_up = ~hit & (spent >= 30)
        over = hit | gave_up
        s = replace(
            s,
            stride=torch.where(hit, s.stride, s.stride / 2),
            round=s.round + over.to(s.round.dtype),
            asked_so_far=torch.where(over, 0, spent),
        )
        target = torch.where(per_row(hit, s.near), s.query[:, 0], s.near)
        return self._bisect_from(s, target, over)

    # --- questions -------------------------------------------------------------------------------------------

    def _ask_next(self, s: HopSkipJumpState, task: Task) -> HopSkipJumpState:
        query, asked = s.query.clone(), torch.zeros_like(s.asked)
        for phase, propose in (
            (_FIND, self._find_points),
            (_BISECT, self._bisect_points),
            (_ESTIMATE, self._estimate_points),
            (_ADVANCE, self._advance_points),
        ):
            here = ((s.phase == phase) & ~s.done).nonzero().squeeze(1)
            if len(here):
                points, count = propose(take_rows(s, here), take_rows(task, here))
                query[here, : points.shape[1]] = points.to(query.dtype)
                slots = torch.arange(_SLOTS, device=query.device)
                left = self.queries - s.asked_in_all[here]
                asked[here] = slots < torch.minimum(count, left).unsqueeze(1)
        return replace(s, query=query, asked=asked)

    def _find_points(self, s: HopSkipJumpState, task: Task) -> tuple[Tensor, Tensor]:
        """Random inputs, wider and wider around x where the input box has no ends."""
        x, shape = task.x, tuple(task.x.shape[1:])
        u = task.rng.fork("find").uniform(task.index, (4, *shape), task.turn, x.dtype)
        low, high = self._ends(task)
        if bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
            return low + u * (high - low), torch.full_like(task.index, 4)
        scale = x.abs().flatten(1).amax(1).clamp_min(1.0) * 2.0 ** (task.turn.to(x.dtype) / 2)
        wide = x.unsqueeze(1) + (2 * u - 1) * scale.view(-1, *([1] * (u.dim() - 1)))
        return torch.maximum(torch.minimum(wide, high), low), torch.full_like(task.index, 4)

    def _bisect_points(self, s: HopSkipJumpState, task: Task) -> tuple[Tensor, Tensor]:
        middle = per_row((s.low + s.high) / 2, task.x).to(task.x.dtype)
        if isinstance(task.region, LinfRegion):
            reach = middle * per_row(self._distance(task, s.far).to(task.x.dtype), task.x)
            point = torch.maximum(torch.minimum(s.far, task.x + reach), task.x - reach)
        else:
            point = task.x + middle * (s.far - task.x)
        return point.unsqueeze(1), torch.ones_like(task.index)

    def _estimate_points(self, s: HopSkipJumpState, task: Task) -> tuple[Tensor, Tensor]:
        shape = tuple(task.x.shape[1:])
        if isinstance(task.region, LinfRegion):
            noise = (
                task.rng.fork("probe").uniform(task.index, (_SLOTS, *shape), task.turn, task.x.dtype) * 2 - 1
            )
        else:
            noise = task.rng.fork("probe").normal(task.index, (_SLOTS, *shape), task.turn, task.x.dtype)
        length = torch.linalg.vector_norm(noise.flatten(2), dim=2).clamp_min(1e-30)
        noise = noise / length.view(*length.shape, *([1] * len(shape)))
        size = self._probe_size(s, task).to(task.x.dtype)
        point = s.near.unsqueeze(1) + noise * size.view(-1, *([1] * (noise.dim() - 1)))
        low, high = self._ends(task)
        left = self._estimate_size(s.round) - s.asked_so_far
        return torch.maximum(torch.minimum(point, high), low), left.clamp(1, _SLOTS)

    def _advance_points(self, s: HopSkipJumpState, task: Task) -> tuple[Tensor, Tensor]:
        point = s.near + per_row(s.stride.to(task.x.dtype), s.near) * s.direction
        low, high = self._ends(task)
        return torch.maximum(torch.minimum(point.unsqueeze(1), high), low), torch.ones_like(task.index)

    # --- sizes -----------------------------------------------------------------------------------------------

    @staticmethod
    def _ends(task: Task) -> tuple[Tensor, Tensor]:
        return task.box.bounds_like(task.x)

    @staticmethod
    def _distance(task: Task, z: Tensor) -> Tensor:
        offset = (z.double() - task.x.double()).flatten(1)
        if isinstance(task.region, LinfRegion):
            return offset.abs().amax(1)
        length: Tensor = torch.linalg.vector_norm(offset, dim=1)
        return length

    def _tolerance(self, task: Task, far: Tensor) -> Tensor:
        """The bisection's stopping gap, as a share of the way: θ of the paper relative to the distance."""
        d = math.prod(task.x.shape[1:])
        theta = 1.0 / (d * math.sqrt(d)) if not isinstance(task.region, LinfRegion) else 1.0 / d**2
        # below this share the float type cannot tell the points apart
        floor = 1e-12 if task.x.dtype == torch.float64 else 1e-5
        return torch.full((len(far),), max(theta, floor), dtype=torch.float64, device=far.device)

    def _probe_size(self, s: HopSkipJumpState, task: Task) -> Tensor:
        d = math.prod(task.x.shape[1:])
        distance = self._distance(task, s.near)
        theta = float(self._tolerance(task, s.near[:1])[0])
        later = (d if isinstance(task.region, LinfRegion) else math.sqrt(d)) * theta * distance
        return torch.where(s.round == 0, 0.1 * distance, later)

    def _estimate_size(self, rounds: Tensor) -> Tensor:
        return (self.initial_estimate * torch.sqrt(rounds.double() + 1)).to(torch.int64).clamp(max=10_000)

"""What attacks that see labels only share: phases per input, a first example, the way back to the boundary."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.planes import plane_of
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import per_row, put_rows, take_rows
from hardpoint.engine.attack import Reply, Task
from hardpoint.threats.linf import LinfRegion

# The first two phases of every boundary attack; each goes on counting from here.
FIND, BISECT = 0, 1
FIRST_TRIES = 100
_TRIES_A_TURN = 4


@dataclass(frozen=True)
class BoundaryState:
    """Per input: what it is doing, the point it has reached, and the line it searches.

    Attributes:
        query, asked: the next points, ``[n, k, ...]``, and which of them to ask about, bool ``[n, k]``.
        done: bool ``[n]``, nothing more to ask.
        phase: int64 ``[n]``; each reply moves every input on by itself.
        round: int64 ``[n]``, outer iterations finished.
        near: ``[n, ...]``, adversarial, on or near the boundary.
        far: ``[n, ...]``, the adversarial end of a bisection.
        low, high: float64 ``[n]``, how far along a search is known to be right, and how far adversarial.
        asked_so_far: int64 ``[n]``, questions in the phase it is in.
        asked_in_all: int64 ``[n]``.
    """

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor
    asked: Tensor
    done: Tensor
    phase: Tensor
    round: Tensor
    near: Tensor
    far: Tensor
    low: Tensor
    high: Tensor
    asked_so_far: Tensor
    asked_in_all: Tensor


S = TypeVar("S", bound=BoundaryState)


@dataclass(frozen=True)
class Phase(Generic[S]):
    """One thing an input can be doing.

    Attributes:
        ask: the points to ask about, ``[n, k, ...]``, and how many of them, int64 ``[n]``.
        hear: the state after the answers, bool ``[n, k]``: adversarial and asked about.
    """

    ask: Callable[[S, Task], tuple[Tensor, Tensor]]
    hear: Callable[[S, Tensor, Task], S]


class BoundarySearch(StandaloneAttack, ABC, Generic[S]):
    """An attack by labels whose inputs go through phases, at least one query a turn, until their ``queries`` are spent.

    Subclasses are frozen dataclasses with a field ``queries``; they say what the phases are and how an input begins.
    """

    queries: int
    needs: ClassVar[Access] = Access.LABELS
    minimises: ClassVar[bool] = True

    @property
    @abstractmethod
    def _phases(self) -> tuple[Phase[S], ...]:
        """Finding a first example, bisection, and what follows."""

    @property
    def turns(self) -> int:
        return self.queries

    @property
    def name(self) -> str:
        return f"{type(self).__name__.removesuffix('Attack')} {self.queries}"

    def step(self, state: S, reply: Reply, task: Task) -> S:
        return hear_all(state, reply, task, self._phases, self.queries)


def checked_queries(attack: str, **counts: int) -> None:
    """Raise ``ThreatError`` unless every hyper-parameter in ``counts`` is 1 or more."""
    if min(counts.values()) < 1:
        given = ", ".join(f"{name}={value}" for name, value in counts.items())
        raise ThreatError(f"{attack}({given})", "give whole numbers of 1 or more")


def fresh_fields(task: Task, slots: int) -> dict[str, Any]:
    """The fields of a ``BoundaryState`` that has asked nothing yet, with ``slots`` questions a turn."""
    n, shape, device = len(task), task.x.shape[1:], task.x.device
    numbers = torch.zeros(n, dtype=torch.float64, device=device)
    counts = torch.zeros(n, dtype=torch.int64, device=device)
    return {
        "query": task.x.unsqueeze(1).expand(n, slots, *shape).contiguous(),
        "asked": torch.zeros(n, slots, dtype=torch.bool, device=device),
        "done": torch.zeros(n, dtype=torch.bool, device=device),
        "phase": counts,
        "round": counts,
        "near": task.x,
        "far": task.x,
        "low": numbers,
        "high": numbers,
        "asked_so_far": counts,
        "asked_in_all": counts,
    }


def hear_all(state: S, reply: Reply, task: Task, phases: Sequence[Phase[S]], queries: int) -> S:
    """Give every input's answers to the phase that asked, then ask what the phases that follow want to know."""
    reached = task.goal.reached(reply.labels, task.y.unsqueeze(1)) & state.asked
    count = state.asked.sum(1)
    in_all = state.asked_in_all + count
    answered = state.phase  # a reply belongs to the phase that asked, not to the one that it leads to
    state = replace(
        state,
        asked_so_far=state.asked_so_far + count,
        asked_in_all=in_all,
        done=state.done | (in_all >= queries),
    )
    for number, phase in enumerate(phases):
        here = (answered == number).nonzero().squeeze(1)
        if len(here) == len(answered):
            state = phase.hear(state, reached, task)
        elif len(here):
            part = phase.hear(take_rows(state, here), reached[here], take_rows(task, here))
            state = put_rows(state, here, part)
    return ask_all(state, task, phases, queries)


def ask_all(state: S, task: Task, phases: Sequence[Phase[S]], queries: int) -> S:
    """Each input's next questions, never more than ``queries`` in all."""
    query, asked = state.query.clone(), torch.zeros_like(state.asked)
    slots = torch.arange(asked.shape[1], device=query.device)
    for number, phase in enumerate(phases):
        here = ((state.phase == number) & ~state.done).nonzero().squeeze(1)
        if len(here):
            points, count = phase.ask(take_rows(state, here), take_rows(task, here))
            query[here, : points.shape[1]] = points.to(query.dtype)
            left = queries - state.asked_in_all[here]
            asked[here] = slots < torch.minimum(count, left).unsqueeze(1)
    return replace(state, query=query, asked=asked)


# --- a first adversarial point --------------------------------------------------------------------------------


def ask_random(state: BoundaryState, task: Task) -> tuple[Tensor, Tensor]:
    """Random inputs, wider and wider around x where the input box has no ends.

    Where plain noise keeps being read as the right class, three in four are then made cruder: whole channels of one
    value, ends of the range only, and both.
    """
    x, shape = task.x, tuple(task.x.shape[1:])
    count = min(_TRIES_A_TURN, state.asked.shape[1])
    u = task.rng.fork("find").uniform(task.index, (_TRIES_A_TURN, *shape), task.turn, x.dtype)
    crude = u.clone()
    channels = u.view(len(x), _TRIES_A_TURN, plane_of(shape)[0], -1)
    crude[:, 1::2] = channels[..., :1].expand_as(channels).reshape(u.shape)[:, 1::2]
    crude[:, 2:] = crude[:, 2:].round()
    u = torch.where(per_row(state.asked_so_far >= 5 * _TRIES_A_TURN, u), crude, u)
    # attacks that ask fewer at once take the kinds in turn
    kind = (task.turn.unsqueeze(1) * count + torch.arange(count, device=x.device)) % _TRIES_A_TURN
    u = u[torch.arange(len(x), device=x.device).unsqueeze(1), kind]
    low, high = task.box.bounds_like(x)
    if task.box.is_bounded:
        points = low + u * (high - low)
    else:
        scale = x.abs().flatten(1).amax(1).clamp_min(1.0) * 2.0 ** (task.turn.to(x.dtype) / 2)
        points = x.unsqueeze(1) + (2 * u - 1) * per_row(scale, u)
    return torch.maximum(torch.minimum(points, high), low), torch.full_like(task.index, count)


def hear_random(state: S, reached: Tensor, task: Task) -> S:
    """Bisect from the first random input that is adversarial; give up where there are none."""
    found, far = first_reached(state, reached)
    gave_up = ~found & (state.asked_so_far >= FIRST_TRIES)
    return bisect_from(replace(state, done=state.done | gave_up), far, found)


def first_reached(state: BoundaryState, reached: Tensor) -> tuple[Tensor, Tensor]:
    """Bool ``[n]``, whether any question reached the goal, and the first that did ``[n, ...]``."""
    first = reached.to(torch.int64).argmax(1)
    return reached.any(1), state.query[torch.arange(len(first), device=first.device), first]


# --- from there to the boundary -------------------------------------------------------------------------------


def bisect_from(state: S, far: Tensor, where: Tensor) -> S:
    """Begin the bisection between x and ``far`` for the inputs ``where``."""
    return replace(
        state,
        far=torch.where(per_row(where, far), far, state.far),
        near=torch.where(per_row(where, far), far, state.near),
        low=torch.where(where, 0.0, state.low),
        high=torch.where(where, 1.0, state.high),
        phase=torch.where(where, BISECT, state.phase),
        asked_so_far=torch.where(where, 0, state.asked_so_far),
    )


def ask_middle(state: BoundaryState, task: Task) -> tuple[Tensor, Tensor]:
    """Half way along what is left of the way from x to ``far``: straight, or in Linf by shrinking the cube."""
    middle = per_row((state.low + state.high) / 2, task.x).to(task.x.dtype)
    if isinstance(task.region, LinfRegion):
        reach = middle * per_row(distance(task, state.far).to(task.x.dtype), task.x)
        point = torch.maximum(torch.minimum(state.far, task.x + reach), task.x - reach)
    else:
        point = task.x + middle * (state.far - task.x)
    return point.unsqueeze(1), torch.ones_like(task.index)


def hear_middle(state: S, reached: Tensor, task: Task, tolerance: float) -> tuple[S, Tensor]:
    """The narrower bracket, and bool ``[n]``, where it is as narrow as ``tolerance`` (a share of the way)."""
    hit = reached[:, 0]
    low, high = halved(state, hit)
    near = torch.where(per_row(hit, state.near), state.query[:, 0], state.near)
    return replace(state, low=low, high=high, near=near), (high - low) <= tolerance


def halved(state: BoundaryState, hit: Tensor) -> tuple[Tensor, Tensor]:
    """``(low, high)`` after the answer for their middle."""
    middle = (state.low + state.high) / 2
    return torch.where(hit, state.low, middle), torch.where(hit, middle, state.high)


def distance(task: Task, z: Tensor) -> Tensor:
    """float64 ``[n]``: Linf distance from x where the threat is Linf, else L2."""
    offset = (z.double() - task.x.double()).flatten(1)
    if isinstance(task.region, LinfRegion):
        return offset.abs().amax(1)
    length: Tensor = torch.linalg.vector_norm(offset, dim=1)
    return length


def unit(z: Tensor) -> Tensor:
    """``z`` with every row scaled to Euclidean length one."""
    return z / per_row(torch.linalg.vector_norm(z.flatten(1), dim=1).clamp_min(1e-30), z)


def bisection_tolerance(task: Task) -> float:
    """The bisection's stopping gap, as a share of the way: θ of HopSkipJump, section IV."""
    d = math.prod(task.x.shape[1:])
    theta = 1.0 / d**2 if isinstance(task.region, LinfRegion) else 1.0 / (d * math.sqrt(d))
    # below this share the float type cannot tell the points apart
    return max(theta, 1e-12 if task.x.dtype == torch.float64 else 1e-5)

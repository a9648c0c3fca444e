"""DeepFool: again and again across the nearest linearised boundary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.minimal.best import check_counts, reaches_goal
from hardpoint.attacks.minimal.line import Line
from hardpoint.attacks.minimal.nearest import Nearest, to_boundary
from hardpoint.attacks.minimal.norms import Norm, moved, norm_of
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import per_row
from hardpoint.engine.attack import Reply, Task


@dataclass(frozen=True)
class DeepFoolState:
    """The point asked about, the boundaries compared at it, the sum of the steps, the final bisection."""

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor
    nearest: Nearest
    total: Tensor
    taken: Tensor
    line: Line
    done: Tensor


@dataclass(frozen=True)
class DeepFool(StandaloneAttack):
    """DeepFool (Moosavi-Dezfooli et al., CVPR 2016, algorithm 2), in L2 and Linf.

    Steps lead to the nearest of the linearised boundaries, inside the input box; the first adversarial point is then
    drawn towards the original by bisection. The engine gives one gradient per turn, so the ``candidates`` best wrong
    classes at a point are asked about in consecutive turns.

    Args:
        steps: steps across a boundary.
        overshoot: the share by which the sum of the steps is lengthened.
        candidates: wrong classes compared at each point.
        search_steps: bisection steps.

    >>> import math
    >>> from hardpoint import Linf
    >>> model = torch.nn.Linear(2, 2).eval()
    >>> x = torch.full((8, 2), 0.5)
    >>> DeepFool(steps=5)(model, x, model(x).argmax(1), Linf(math.inf)).distance.shape
    torch.Size([8])
    """

    steps: int = 50
    overshoot: float = 0.02
    candidates: int = 10
    search_steps: int = 10
    needs: ClassVar[Access] = Access.GRADIENTS
    minimises: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_counts("DeepFool", steps=self.steps, candidates=self.candidates, search_steps=self.search_steps)
        if not self.overshoot > 0:
            raise ThreatError(f"DeepFool(overshoot={self.overshoot})", "give a number above 0")

    @property
    def turns(self) -> int:
        return self.steps * self.candidates + self.search_steps + 2

    @property
    def name(self) -> str:
        return f"DeepFool {self.steps}"

    def objective(self, scores: Tensor, task: Task, state: DeepFoolState) -> Tensor:
        return state.nearest.objective(scores, task)

    def start(self, task: Task) -> DeepFoolState:
        norm_of(task, "DeepFool", Norm.L2, Norm.LINF)
        return DeepFoolState(
            query=task.x,
            nearest=Nearest.nothing(task, self.candidates),
            total=torch.zeros_like(task.x, dtype=torch.float64).flatten(1),
            taken=torch.zeros_like(task.y),
            line=Line.nothing(task, self.search_steps),
            done=torch.zeros_like(task.y, dtype=torch.bool),
        )

    def step(self, state: DeepFoolState, reply: Reply, task: Task) -> DeepFoolState:
        norm = norm_of(task, "DeepFool", Norm.L2, Norm.LINF)
        reached = reaches_goal(reply, task)
        line = state.line.answered(reached)
        landed = reached & ~line.on
        line = line.ending(state.query, landed).begun(landed)
        nearest = state.nearest.heard(state.query, reply, task, norm)
        stepping = nearest.complete & ~line.on
        total, query = state.total, state.query
        if bool(stepping.any()):
            change, _ = to_boundary(norm, nearest.normal, -nearest.value, state.query, task)
            total = torch.where(stepping.unsqueeze(1), total + change, total)
            query = torch.where(per_row(stepping, query), moved(task, total * (1 + self.overshoot)), query)
        if bool(line.on.any()):
            query = torch.where(per_row(line.on, query), line.middle(task), query)
        taken = state.taken + stepping
        flat = stepping & (nearest.normal.flatten(1).abs().amax(1) == 0)  # nowhere to go
        done = line.over | (~line.on & ((taken > self.steps) | flat))
        return DeepFoolState(query, nearest.restarted(stepping), total, taken, line, done)

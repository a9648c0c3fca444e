"""Black-box search over the parameters of a perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.parametrised.ascent import parametrised
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import per_row, take_rows
from hardpoint.engine.attack import Reply, Task
from hardpoint.threats.parametrised import ParametrisedRegion

_CHILDREN = 16


@dataclass(frozen=True)
class ParameterSearchState:
    """The best parameters so far with their margin, and the candidates asked about."""

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor  # [n, children, ...]
    asked: Tensor
    candidates: Tensor  # float64 [n, children, *parameter_shape]
    best: Tensor
    value: Tensor


@dataclass(frozen=True)
class ParameterSearch(StandaloneAttack):
    """The worst of many random parameters; with scores, half of them are drawn closer and closer to the best.

    A quarter of the random ones are corners of what is allowed, where the worst case of a monotone model lies.

    Args:
        queries: queries per input.
        needs: what the attack sees: scores, or labels.

    >>> ParameterSearch(queries=200).name
    'ParameterSearch 200'
    """

    queries: int = 1000
    needs: Access = Access.SCORES

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", min(Access.parse(self.needs), Access.SCORES))
        if self.queries < 1:
            raise ThreatError(f"ParameterSearch queries is {self.queries}", "give 1 or more")

    @property
    def turns(self) -> int:
        return -(-self.queries // _CHILDREN)

    @property
    def name(self) -> str:
        return f"ParameterSearch {self.queries}" + (" by labels" if self.needs is Access.LABELS else "")

    def start(self, task: Task) -> ParameterSearchState:
        region = parametrised(task, "ParameterSearch")
        shape = (len(task), *region.parameter_shape)
        best = torch.zeros(shape, dtype=torch.float64, device=task.x.device)
        value = torch.full((len(task),), -torch.inf, dtype=torch.float64, device=task.x.device)
        return self._ask(region, task, best, value)

    def step(self, state: ParameterSearchState, reply: Reply, task: Task) -> ParameterSearchState:
        region, best, value = parametrised(task, "ParameterSearch"), state.best, state.value
        if reply.scores is not None:
            flat, owner = reply.scores.flatten(0, 1), task.y.repeat_interleave(_CHILDREN)
            margin = task.goal.margin(flat, owner).double().view(len(task), _CHILDREN)
            top, which = torch.where(state.asked, margin, -torch.inf).max(1)
            rows = torch.arange(len(task), device=which.device)
            better = top > value
            best = torch.where(per_row(better, best), state.candidates[rows, which], best)
            value = torch.maximum(top, value)
        return self._ask(region, task, best, value)

    def _ask(
        self, region: ParametrisedRegion, task: Task, best: Tensor, value: Tensor
    ) -> ParameterSearchState:
        n, shape = len(task), region.parameter_shape
        candidates = (
            2 * task.rng.fork("far").uniform(task.index, (_CHILDREN, *shape), task.turn, torch.float64) - 1
        )
        candidates[:, ::4] = candidates[:, ::4].sign()
        if self.needs is Access.SCORES:
            near = task.rng.fork("near").normal(
                task.index, (_CHILDREN // 2, *shape), task.turn, torch.float64
            )
            width = 0.5 * (1 - task.turn.double() / max(1, self.turns)).clamp_min(0.02)
            close = (best.unsqueeze(1) + near * width.view(-1, *([1] * (near.dim() - 1)))).clamp(-1, 1)
            known = torch.isfinite(value).view(-1, *([1] * (near.dim() - 1)))
            candidates[:, 1::2] = torch.where(known, close, candidates[:, 1::2])
        many = take_rows(region, torch.arange(n, device=task.x.device).repeat_interleave(_CHILDREN))
        query = many.apply(candidates.flatten(0, 1)).view(n, _CHILDREN, *task.x.shape[1:])
        slots = torch.arange(_CHILDREN, device=task.x.device)
        asked = slots < (self.queries - task.turn * _CHILDREN).unsqueeze(1)
        return ParameterSearchState(query, asked, candidates, best, value)

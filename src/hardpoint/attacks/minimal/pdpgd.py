"""PDPGD: primal-dual proximal gradient descent on the norm and the margin."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.minimal.best import check_counts
from hardpoint.attacks.minimal.descent import Descent, Seen
from hardpoint.attacks.minimal.moments import Moments
from hardpoint.attacks.minimal.nearest import Nearest
from hardpoint.attacks.minimal.norms import Norm, first_radius, proximal, step_unit
from hardpoint.core.errors import ThreatError
from hardpoint.engine.attack import Task

# Of Adam's running means: shorter memories than usual, as what they remember lags behind the dual weights.
_KEEP = (0.5, 0.9)


@dataclass(frozen=True)
class PrimalDual:
    """Moments of the gradient, the log-ratio of the boundary's weight to the norm's, the scale of the change."""

    HAS_ROWS: ClassVar[bool] = True
    moments: Moments
    ratio: Tensor
    size: Tensor


@dataclass(frozen=True)
class PDPGD(Descent, StandaloneAttack):
    """Primal-dual proximal gradient descent (Matyasko and Chau, "PDPGD: Primal-dual proximal gradient descent
    adversarial attack", 2021), in L0, L1, L2 and Linf.

    The change minimises w |d| + (1 - w) softplus(distance to the boundary): an Adam step on the second term, then the
    norm's proximal operator in Adam's metric. The log-ratio of the weights rises where the iterate is adversarial and
    falls where it is not. The distance is the first-order one at the iterate, over the size of the change, so
    nothing depends on the scale of scores or inputs. The means of the paper have long memories for many steps;
    these are short, so that a hundred steps settle.

    Args:
        steps: gradient steps.
        step_size: first step, in units of the change's root mean square; falls to ``final_step`` of it.
        final_step: the last step's share of the first.
        first_ratio: the first (1 - w) / w.
        dual_step: change of the log-ratio per step; falls to a tenth.
        candidates: wrong classes whose boundaries are compared at the original.
        patience: stop an input whose best norm has not improved by 0.1 % for so many steps; None: never.

    >>> import math
    >>> from hardpoint import L1
    >>> model = torch.nn.Linear(2, 2).eval()
    >>> x = torch.full((8, 2), 0.5)
    >>> PDPGD(steps=20)(model, x, model(x).argmax(1), L1(math.inf)).distance.shape
    torch.Size([8])
    """

    steps: int = 100
    step_size: float = 2.0
    final_step: float = 0.01
    first_ratio: float = 5.0
    dual_step: float = 0.3
    candidates: int = 10
    patience: int | None = 50
    norms: ClassVar[tuple[Norm, ...]] = tuple(Norm)

    def __post_init__(self) -> None:
        check_counts("PDPGD", steps=self.steps, candidates=self.candidates, patience=self.patience)
        if not min(self.step_size, self.final_step, self.first_ratio, self.dual_step) > 0:
            raise ThreatError(
                f"PDPGD(step_size={self.step_size}, final_step={self.final_step}, "
                f"first_ratio={self.first_ratio}, dual_step={self.dual_step})",
                "give numbers above 0",
            )

    def begin(self, change: Tensor, nearest: Nearest, task: Task, norm: Norm) -> PrimalDual:
        size = first_radius(norm, change, nearest.value, nearest.normal, task)
        ratio = torch.full_like(size, math.log(self.first_ratio))
        return PrimalDual(
            moments=Moments.nothing(change, _KEEP),
            ratio=ratio,
            size=size,
        )

    def move(self, own: PrimalDual, seen: Seen, task: Task, norm: Norm) -> tuple[PrimalDual, Tensor]:
        share = seen.taken.double() / self.steps
        dual = self.dual_step * 0.1**share
        ratio = own.ratio + torch.where(seen.reached, -dual, dual)
        weight = torch.sigmoid(ratio)
        size = seen.settled(own.size)
        unit = seen.slope(norm) * size
        # softplus of the distance to the boundary over the size of the change, and its slope
        pull = weight * torch.sigmoid(-seen.value / unit) / unit
        moments = own.moments.seen(-pull.unsqueeze(1) * seen.gradient)
        step = step_unit(norm, size, task) / math.sqrt(seen.change.shape[1])
        step = step * self.step_size * self.final_step**share
        ahead = seen.change - step.unsqueeze(1) * moments.step()
        change = proximal(norm, ahead, step * (1 - weight) / size, moments.scale())
        return PrimalDual(moments, ratio, size), change

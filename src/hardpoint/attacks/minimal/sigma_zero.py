"""σ-zero: few changed coordinates through a smooth count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.minimal.best import check_counts
from hardpoint.attacks.minimal.descent import Descent, Seen
from hardpoint.attacks.minimal.moments import Moments
from hardpoint.attacks.minimal.nearest import Nearest
from hardpoint.attacks.minimal.norms import Norm, cosine, room
from hardpoint.core.errors import ThreatError
from hardpoint.engine.attack import Task


@dataclass(frozen=True)
class SigmaZeroMemory:
    """Adam's moments, the threshold below which changes are undone, and the scale of the margin."""

    HAS_ROWS: ClassVar[bool] = True
    moments: Moments
    threshold: Tensor
    slope: Tensor


@dataclass(frozen=True)
class SigmaZero(Descent, StandaloneAttack):
    """σ-zero (Cinà et al., "σ-zero: gradient-based optimization of ℓ0-norm adversarial examples", ICLR 2025,
    algorithm 1), in L0.

    Adam minimises max(-margin, 0) plus the mean of d² / (d² + σ), a smooth count of the changed coordinates; small
    changes are then undone, below a threshold that rises while the input is adversarial and falls while it is not.
    Changes are in widths of the input box, and the margin is divided by its steepest slope at the original, so neither
    the scale of the scores nor that of the inputs matters.

    Args:
        steps: gradient steps.
        sigma: σ.
        step_size: Adam's first step; falls to a tenth along a cosine.
        threshold: the first threshold.
        threshold_step: its change, in steps of Adam.
        candidates: wrong classes whose boundaries are compared at the original.
        patience: stop an input whose best norm has not improved for so many steps; None: never.

    Raises:
        ThreatError: for a norm other than L0.

    >>> import math
    >>> from hardpoint import L0
    >>> model = torch.nn.Linear(2, 2).eval()
    >>> x = torch.full((8, 2), 0.5)
    >>> SigmaZero(steps=20)(model, x, model(x).argmax(1), L0(math.inf)).distance.shape
    torch.Size([8])
    """

    steps: int = 100
    sigma: float = 1e-3
    step_size: float = 1.0
    threshold: float = 0.3
    threshold_step: float = 0.01
    candidates: int = 10
    patience: int | None = 50
    norms: ClassVar[tuple[Norm, ...]] = (Norm.L0,)

    def __post_init__(self) -> None:
        check_counts("SigmaZero", steps=self.steps, candidates=self.candidates, patience=self.patience)
        if not min(self.sigma, self.step_size, self.threshold, self.threshold_step) > 0:
            raise ThreatError(
                f"SigmaZero(sigma={self.sigma}, step_size={self.step_size}, threshold={self.threshold}, "
                f"threshold_step={self.threshold_step})",
                "give numbers above 0",
            )

    def begin(self, change: Tensor, nearest: Nearest, task: Task, norm: Norm) -> SigmaZeroMemory:
        slope = (nearest.normal.double().flatten(1) * _widths(task)).abs().amax(1)
        return SigmaZeroMemory(
            moments=Moments.nothing(change),
            threshold=torch.full_like(slope, self.threshold),
            slope=slope.clamp(1e-30, 1e30),
        )

    def move(
        self, own: SigmaZeroMemory, seen: Seen, task: Task, norm: Norm
    ) -> tuple[SigmaZeroMemory, Tensor]:
        width = _widths(task)
        part = seen.change / width.clamp_min(1e-30)
        count_slope = 2 * part * self.sigma / (part.square() + self.sigma).square() / part.shape[1]
        margin_slope = seen.gradient * width / own.slope.unsqueeze(1)
        gradient = count_slope - torch.where(seen.reached.unsqueeze(1), 0.0, margin_slope)
        largest = gradient.abs().amax(1, keepdim=True)
        moments = own.moments.seen(gradient / largest.clamp_min(1e-30))
        rate = cosine(self.step_size, self.step_size / 10, seen.taken, self.steps)
        change = (part - rate.unsqueeze(1) * moments.step()) * width
        low, high = room(task)
        change = torch.minimum(torch.maximum(change, low), high)
        by = self.threshold_step * rate
        threshold = (own.threshold + torch.where(seen.reached, by, -by)).clamp(0.0, 1.0)
        change = torch.where(change.abs() < threshold.unsqueeze(1) * width, 0.0, change)
        return SigmaZeroMemory(moments, threshold, own.slope), change


def _widths(task: Task) -> Tensor:
    """float64 ``[n, d]``: the width of the input box per coordinate."""
    low, high = task.box.bounds_like(task.x)
    return (high.double() - low.double()).expand_as(task.x).flatten(1)

"""What is made of the gradient before a step is taken."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from hardpoint.attacks.transfer.processor import Gradient, Moment, Processor, Stage, require_plane
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import per_row
from hardpoint.engine.attack import Task
from hardpoint.threats.linf import LinfRegion


@dataclass(frozen=True)
class Momentum(Processor):
    """MI: g ← μ g + ∇ / |∇|₁ (Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018, equation 6).

    The gradient is divided by the mean size of its numbers, which is |∇|₁ up to their count, so that the sum has
    numbers of order one and can be looked ahead along.

    Args:
        decay: μ ≥ 0; the paper's 1 adds up all gradients.
        nesterov: take the gradient at x + α μ g, where the sum would lead, with α the step length (Lin et al., ICLR
            2020, equation 6). For balls other than Linf the way there is the ball's own steepest direction.
    """

    decay: float = 1.0
    nesterov: bool = False
    stage: ClassVar[Stage] = Stage.ACCUMULATE
    tag: ClassVar[str] = "MI"
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.decay < math.inf:
            raise ThreatError(f"Momentum(decay={self.decay})", "give a number of 0 or more, usually 1")

    def look(self, x: Tensor, kept: Tensor, now: Moment) -> Tensor:
        if not self.nesterov:
            return x
        region, ahead = now.task.region, kept
        if not isinstance(region, LinfRegion):
            ahead = per_row(_mean_size(kept), kept) * region.ascent(kept, x)
        return x + self.decay * per_row(now.length, x) * ahead

    def refine(
        self, gradient: Tensor, x: Tensor, kept: Tensor, again: Gradient, now: Moment
    ) -> tuple[Tensor, Tensor]:
        # divided twice: the mean of tiny numbers underflows
        largest = gradient.flatten(1).abs().amax(1).clamp_min(torch.finfo(gradient.dtype).tiny)
        gradient = gradient / per_row(largest, gradient)
        size = _mean_size(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)
        total = self.decay * kept + gradient / per_row(size, gradient)
        return total, total


def _mean_size(values: Tensor) -> Tensor:
    return values.flatten(1).abs().mean(1)


@dataclass(frozen=True)
class TranslationInvariant(Processor):
    """TI: blur the gradient, which is nearly the mean gradient over shifted inputs (Dong et al., "Evading defenses to
    transferable adversarial examples by translation-invariant attacks", CVPR 2019, section 3.2).

    The kernel is a Gaussian cut to six standard deviations from its first pixel's edge to its last one's, so that one
    of three pixels blurs too. Signals ``[channels, length]`` are blurred
    along their length.

    Args:
        size: numbers per side, odd; by default the paper's share of the image, 15 of 299 pixels, and at least 3.
    """

    size: int | None = None
    stage: ClassVar[Stage] = Stage.SMOOTH
    tag: ClassVar[str] = "TI"

    def __post_init__(self) -> None:
        if self.size is not None and (self.size < 1 or self.size % 2 == 0):
            raise ThreatError(f"TranslationInvariant(size={self.size})", "give an odd number, for example 15")

    def check(self, task: Task) -> None:
        require_plane(task, "TranslationInvariant")

    def refine(
        self, gradient: Tensor, x: Tensor, kept: Tensor, again: Gradient, now: Moment
    ) -> tuple[Tensor, Tensor]:
        channels, height, width = require_plane(now.task, "TranslationInvariant")
        size = self.size if self.size is not None else max(3, round(0.05 * max(height, width)) // 2 * 2 + 1)
        planes = gradient.reshape(len(gradient) * channels, 1, height, width)
        line = _gaussian(size).to(gradient)
        planes = functional.conv2d(planes, line.view(1, 1, 1, size), padding=(0, size // 2))
        if height > 1:
            planes = functional.conv2d(planes, line.view(1, 1, size, 1), padding=(size // 2, 0))
        return planes.view_as(gradient), kept


def _gaussian(size: int) -> Tensor:
    """float64 ``[size]`` that sums to 1, with a standard deviation of a sixth of ``size``."""
    away = (torch.arange(size, dtype=torch.float64) - size // 2) * 6 / size
    weight = torch.exp(-away.square() / 2)
    return weight / weight.sum()


@dataclass(frozen=True)
class VarianceTuning(Processor):
    """VMI: add v, by how much the mean gradient around the last point differed from the gradient there (Wang and He,
    "Enhancing the transferability of adversarial attacks through variance tuning", CVPR 2021, algorithm 1).

    Neighbours lie in ``radius`` times the perturbation's ball: x + U(-β ε, β ε) for Linf, else x plus ``radius``
    times a random allowed change.

    Args:
        neighbours: gradients per step besides the one at the point; the paper's 20.
        radius: β > 0; the paper's 1.5.
    """

    neighbours: int = 20
    radius: float = 1.5
    stage: ClassVar[Stage] = Stage.TUNE
    tag: ClassVar[str] = "VT"
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.neighbours < 1 or not 0 < self.radius < math.inf:
            raise ThreatError(
                f"VarianceTuning(neighbours={self.neighbours}, radius={self.radius})",
                "give 1 neighbour or more, and a radius above 0",
            )

    @property
    def gradients(self) -> int:
        return 1 + self.neighbours

    def refine(
        self, gradient: Tensor, x: Tensor, kept: Tensor, again: Gradient, now: Moment
    ) -> tuple[Tensor, Tensor]:
        around = torch.zeros_like(gradient)
        for number in range(1, self.neighbours + 1):
            around += again(x + self.radius * self._change(number, now), number)
        return gradient + kept, around / self.neighbours - gradient

    @staticmethod
    def _change(number: int, now: Moment) -> Tensor:
        """``[n, ...]``: a random change within the budget."""
        task, region = now.task, now.task.region
        rng = task.rng.fork("neighbour").fork(number)
        if isinstance(region, LinfRegion):
            u = rng.uniform(task.index, tuple(task.x.shape[1:]), task.turn, task.x.dtype)
            return (2 * u - 1) * per_row(region.reach, u)
        return region.sample(rng, task.index, task.turn) - task.x

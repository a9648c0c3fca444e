"""Other versions of the input: an example that fools a model on several of them is less tied to that model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.transfer.processor import Moment, Processor, Stage, require_plane
from hardpoint.core.errors import ThreatError
from hardpoint.engine.attack import Task


@dataclass(frozen=True)
class DiverseInput(Processor):
    """DI: shrink the input at random and put it somewhere on an empty canvas of its own size (Xie et al., "Improving
    transferability of adversarial examples with input diversity", CVPR 2019).

    Sizes, places and whether anything is done are drawn per input, step and gradient. Sampling is by nearest
    neighbour; the canvas is 0, or the end of the input range nearest to it. Signals ``[channels, length]``
    are shrunk along their length.

    Args:
        smallest: the least share of the side, in (0, 1]. The paper's 299 of 330 pixels are 0.9.
        probability: how often, in [0, 1]; the paper's 0.5.
    """

    smallest: float = 0.9
    probability: float = 0.5
    stage: ClassVar[Stage] = Stage.DIVERSIFY
    tag: ClassVar[str] = "DI"

    def __post_init__(self) -> None:
        if not (0 < self.smallest <= 1 and 0 <= self.probability <= 1):
            raise ThreatError(
                f"DiverseInput(smallest={self.smallest}, probability={self.probability})",
                "give 0 < smallest ≤ 1 and 0 ≤ probability ≤ 1",
            )

    def check(self, task: Task) -> None:
        require_plane(task, "DiverseInput")

    def view(self, x: Tensor, copy: int, draw: int, now: Moment) -> Tensor:
        task = now.task
        channels, height, width = require_plane(task, "DiverseInput")
        u = task.rng.fork("diverse").fork(draw).uniform(task.index, (4,), task.turn, torch.float64)
        share = self.smallest + (1 - self.smallest) * u[:, 1]
        share = torch.where(u[:, 0] < self.probability, share, 1.0)
        rows, row_inside = _sources(height, share, u[:, 2])
        columns, column_inside = _sources(width, share, u[:, 3])
        planes = x.reshape(len(x), channels, height, width)
        planes = planes.gather(2, rows.view(-1, 1, height, 1).expand_as(planes))
        planes = planes.gather(3, columns.view(-1, 1, 1, width).expand_as(planes))
        inside = (row_inside.unsqueeze(2) & column_inside.unsqueeze(1)).unsqueeze(1)
        empty = task.box.clamp(torch.zeros_like(x)).view_as(planes)
        return torch.where(inside, planes, empty).view_as(x)


def _sources(size: int, share: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """For each position on a canvas of ``size``, which position of the original shows there, int64 ``[n, size]``, and
    whether any does, when the original is shrunk to ``share`` and put at ``place`` in [0, 1) of the room left."""
    side = (share * size).floor().clamp(1, size).unsqueeze(1)
    first = (place.unsqueeze(1) * (size - side + 1)).floor()
    position = torch.arange(size, device=share.device) - first
    source = ((position + 0.5) * size / side).floor().clamp(0, size - 1)
    return source.to(torch.int64), (position >= 0) & (position < side)


@dataclass(frozen=True)
class ScaleInvariant(Processor):
    """SI: the mean gradient over x, x/2, x/4 … (Lin et al., "Nesterov accelerated gradient and scale invariance for
    adversarial attacks", ICLR 2020, section 3.2). Its Nesterov half is ``Momentum(nesterov=True)``.

    Args:
        scales: how many; the paper's 5.
    """

    scales: int = 5
    stage: ClassVar[Stage] = Stage.SCALE
    tag: ClassVar[str] = "SI"

    def __post_init__(self) -> None:
        if self.scales < 1:
            raise ThreatError(f"ScaleInvariant(scales={self.scales})", "give a whole number of 1 or more")

    @property
    def copies(self) -> int:
        return self.scales

    def view(self, x: Tensor, copy: int, draw: int, now: Moment) -> Tensor:
        return x * 0.5**copy

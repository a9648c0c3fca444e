"""What makes gradients of one model carry over to another: the seam that all such tricks share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from torch import Tensor

from hardpoint.attacks.planes import plane_of
from hardpoint.core.errors import ThreatError
from hardpoint.engine.attack import Task

Gradient = Callable[[Tensor, int], Tensor]
"""The surrogates' gradient at points ``[n, ...]``; the number says which of a step's gradients it is, for draws."""


class Stage(IntEnum):
    """When a processor has its say. Processors are applied in this order, however they are given."""

    SCALE = 1
    DIVERSIFY = 2
    TUNE = 3
    SMOOTH = 4
    ACCUMULATE = 5


@dataclass(frozen=True)
class Moment:
    """What a processor may know: the inputs under attack (``task.turn`` is the step's number, from 1), and the step's
    length ``[n]`` in the perturbation's unit."""

    task: Task
    length: Tensor


class Processor:
    """One change to how the gradient is taken or used; here each hook changes nothing.

    Subclasses are frozen dataclasses of hyper-parameters. Every hook treats rows one by one and draws only from
    ``now.task.rng`` for ``now.task.index``, so that no input depends on its batch mates.
    """

    stage: ClassVar[Stage]
    tag: ClassVar[str]
    remembers: ClassVar[bool] = False

    @property
    def copies(self) -> int:
        """Versions of each point that the surrogates see."""
        return 1

    @property
    def gradients(self) -> int:
        """Gradients taken per step in place of one."""
        return 1

    def check(self, task: Task) -> None:
        """Raise ``ThreatError`` where inputs like these cannot be processed."""

    def look(self, x: Tensor, kept: Tensor, now: Moment) -> Tensor:
        """Where to take the gradient, when the iterate is ``x``; ``kept`` is what the processor remembers."""
        return x

    def view(self, x: Tensor, copy: int, draw: int, now: Moment) -> Tensor:
        """Version ``copy`` of ``x``, differentiably; ``draw`` is different for each view of a step."""
        return x

    def refine(
        self, gradient: Tensor, x: Tensor, kept: Tensor, again: Gradient, now: Moment
    ) -> tuple[Tensor, Tensor]:
        """The gradient to go on with, and what to remember, like ``x``, from the gradient at ``x``."""
        return gradient, kept


def require_plane(task: Task, what: str) -> tuple[int, int, int]:
    """(channels, height, width) of inputs that have neighbouring numbers: images ``[channels, height, width]``, and
    signals ``[channels, length]`` as images of height 1.

    Raises:
        ThreatError: for plain vectors, whose order says nothing about nearness.
    """
    shape = tuple(task.x.shape[1:])
    if len(shape) < 2:
        raise ThreatError(
            f"{what} moves or blurs images, and inputs of shape {shape} are none",
            "leave it out; give a signal as [channels, length]",
        )
    return plane_of(shape)

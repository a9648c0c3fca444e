"""Noticing that single gradient steps have stopped working.

A network trained with one step can learn to bend its loss so that the one step misses: accuracy under that step rises,
and under any other attack falls to nothing within a few dozen updates (catastrophic overfitting, Wong, Rice and Kolter,
ICLR 2020). Before it does, the slope at the end of the step turns away from the slope it was taken along
(Andriushchenko and Flammarion, "Understanding and improving fast adversarial training", NeurIPS 2020). And one more
step from the example breaks what the example left standing: much at once where training collapses, and some of it all
the time where one step never was enough. Both take one gradient at the examples of a few inputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_MEMORY = 0.9
_SETTLED = 30


def agreement(before: Tensor, after: Tensor) -> float:
    """The mean cosine, over inputs, of the slopes ``before`` and ``after`` a step, ``[b, ...]``.

    >>> agreement(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    0.0
    """
    return float(torch.nn.functional.cosine_similarity(before.flatten(1), after.flatten(1), dim=1).mean())


@dataclass
class Shortfall:
    """By how much examples fall short of what one more step does: moving averages of the shares of inputs that stand
    under the examples and one step further.

    Attributes:
        memory: of the averages; the first looks all count alike.
        memory_in_ramp: their memory while the attacker's budget still grows: what was seen at a smaller one says less.
        first: looks that are not believed.
        left: the share of the inputs right under the examples that must be right one step further.
        gap: the share of all inputs that such a step must break besides, so that a few are no reason.
        standing: the share right under the examples.
        further: the share right one step further.
        looks: since it began.
    """

    memory: float
    memory_in_ramp: float
    first: int
    left: float
    gap: float
    standing: float = 0.0
    further: float = 0.0
    looks: int = 0

    def met(self, standing: float, further: float, *, grows: bool = False) -> bool:
        """Take in the shares of one look, the budget still growing or not; True where the examples fall short."""
        self.looks += 1
        keep = min(self.memory_in_ramp if grows else self.memory, 1 - 1 / self.looks)
        self.standing = keep * self.standing + (1 - keep) * standing
        self.further = keep * self.further + (1 - keep) * further
        broken = self.standing - self.further
        return self.looks > self.first and broken > max(self.gap, (1 - self.left) * self.standing)

    @property
    def is_sound(self) -> bool:
        """Whether the examples do what they are for, with something to spare."""
        return self.looks > self.first and self.further >= (self.left + 0.1) * self.standing

    def begin_again(self) -> None:
        """Forget all looks."""
        self.standing, self.further, self.looks = 0.0, 0.0, 0


def _at_once() -> Shortfall:
    return Shortfall(memory=0.8, memory_in_ramp=0.8, first=8, left=0.65, gap=0.1)


def _always() -> Shortfall:
    return Shortfall(memory=0.95, memory_in_ramp=0.8, first=10, left=0.85, gap=0.07)


@dataclass
class Watch:
    """Whether single steps still do what they are for: a moving average of the agreement, against its usual height, and
    by how much examples fall short.

    Attributes:
        least: the share of the usual height below which it raises the alarm.
        floor: the height below which it does, whatever is usual: slopes that have nothing to do with one another.
        level: the moving average, NaN before the first update.
        usual: the highest that it has been.
        seen: agreements since it began.
        at_once: examples that suddenly fall far short.
        always: examples that fall short look after look; None where they grow over the epochs and may do so at first.
    """

    least: float = 0.5
    floor: float = 0.1
    level: float = math.nan
    usual: float = math.nan
    seen: int = 0
    at_once: Shortfall = field(default_factory=_at_once)
    always: Shortfall | None = field(default_factory=_always)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Watch:
        """What ``dataclasses.asdict`` told of another."""
        always = told["always"]
        parts = {"at_once": Shortfall(**told["at_once"]), "always": always and Shortfall(**always)}
        return cls(**{**told, **parts})

    def saw(self, value: float) -> bool:
        """Take in the agreement of one update; True where it has fallen."""
        self.seen += 1
        self.level = value if math.isnan(self.level) else _MEMORY * self.level + (1 - _MEMORY) * value
        if self.seen <= _SETTLED:
            self.usual = self.level
            return False
        self.usual = max(self.usual, self.level)
        return self.level < max(self.floor, self.least * self.usual)

    def met(self, standing: float, further: float, *, grows: bool = False) -> bool:
        """Take in the shares of inputs right under the examples, and under those one step further, the budget still
        growing or not; True where the examples do not attack any more, or never did enough."""
        suddenly = self.at_once.met(standing, further, grows=grows)
        return (self.always is not None and self.always.met(standing, further, grows=grows)) or suddenly

    @property
    def is_sound(self) -> bool:
        """Whether this is a good moment to come back to."""
        holds = self.at_once.is_sound
        if self.seen <= _SETTLED:
            return holds
        return (holds or not self.at_once.looks) and self.level > 0.8 * self.usual

    def begin_again(self) -> None:
        """Forget all; the search that is watched is another one now."""
        self.level, self.usual, self.seen = math.nan, math.nan, 0
        self.at_once.begin_again()
        if self.always is not None:
            self.always.begin_again()

"""Noticing that single gradient steps have stopped working.

A network trained with one step can learn to bend its loss so that the one step misses: accuracy under that step rises,
and under any other attack falls to nothing within a few dozen updates (catastrophic overfitting, Wong, Rice and Kolter,
ICLR 2020). Before it does, the slope at the end of the step turns away from the slope it was taken along
(Andriushchenko and Flammarion, "Understanding and improving fast adversarial training", NeurIPS 2020). And one more
step from the example breaks what the example left standing. Both take one gradient at the examples of a few inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_MEMORY = 0.9
_SETTLED = 30
_SHORT_MEMORY = 0.8
_FIRST = 8


def agreement(before: Tensor, after: Tensor) -> float:
    """The mean cosine, over inputs, of the slopes ``before`` and ``after`` a step, ``[b, ...]``.

    >>> agreement(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    0.0
    """
    return float(torch.nn.functional.cosine_similarity(before.flatten(1), after.flatten(1), dim=1).mean())


@dataclass
class Watch:
    """Two moving averages: the agreement, against its usual height, and the share of inputs that stand under the
    examples and one step further.

    Attributes:
        least: the share of the usual height below which it raises the alarm.
        floor: the height below which it does, whatever is usual: slopes that have nothing to do with one another.
        level: the moving average, NaN before the first update.
        usual: the highest that it has been.
        seen: agreements since it began.
        left: the share of the inputs right under the examples that must be right one step further.
        gap: the share of all inputs that such a step must break besides, so that a few are no reason.
        standing: the share right under the examples.
        further: the share right one step further.
        looks: since it began.
    """

    least: float = 0.5
    floor: float = 0.1
    level: float = math.nan
    usual: float = math.nan
    seen: int = 0
    left: float = 0.65
    gap: float = 0.1
    standing: float = 0.0
    further: float = 0.0
    looks: int = 0

    def saw(self, value: float) -> bool:
        """Take in the agreement of one update; True where it has fallen."""
        self.seen += 1
        self.level = value if math.isnan(self.level) else _MEMORY * self.level + (1 - _MEMORY) * value
        if self.seen <= _SETTLED:
            self.usual = self.level
            return False
        self.usual = max(self.usual, self.level)
        return self.level < max(self.floor, self.least * self.usual)

    def met(self, standing: float, further: float) -> bool:
        """Take in the shares of inputs right under the examples, and under those one step further; True where the
        examples do not attack any more."""
        self.looks += 1
        keep = 0.0 if self.looks == 1 else _SHORT_MEMORY
        for name, value in (("standing", standing), ("further", further)):
            setattr(self, name, value if not keep else keep * getattr(self, name) + (1 - keep) * value)
        broken = self.standing - self.further
        return self.looks > _FIRST and broken > max(self.gap, (1 - self.left) * self.standing)

    @property
    def is_sound(self) -> bool:
        """Whether this is a good moment to come back to."""
        holds = self.looks > _FIRST and self.further >= (self.left + 0.1) * self.standing
        if self.seen <= _SETTLED:
            return holds
        return (holds or not self.looks) and self.level > 0.8 * self.usual

    def begin_again(self) -> None:
        """Forget all; the search that is watched is another one now."""
        self.level, self.usual, self.seen = math.nan, math.nan, 0
        self.standing, self.further, self.looks = 0.0, 0.0, 0

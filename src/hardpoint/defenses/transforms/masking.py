"""What hiding gradients looks like, to show that it protects nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hardpoint.defenses.stage import GradientPath
from hardpoint.defenses.transforms._shared import floats, value_range

_LEVELS = 2**20


@dataclass(frozen=True)
class GradientMasking:
    """Hides gradients and does not protect: rounds by a millionth of the value range, and offers no gradient.

    An attack that trusts the gradients sees none and gives up; one that goes straight through, or asks for answers
    only, breaks the model as if nothing stood before it. Athalye, Carlini, Wagner, "Obfuscated gradients give a false
    sense of security" (ICML 2018). For demonstrations, and to test assessments. Takes inputs of any shape ``[n, ...]``.

    Args:
        low: the lowest value an input may have; sets the size of the steps, and nothing is cut off.
        high: the highest.

    Raises:
        ConfigError: unless ``low < high``.
        DataError: for inputs that are not floating-point numbers.

    >>> x = torch.tensor([[0.1, 0.7]], requires_grad=True)
    >>> shown = GradientMasking().apply(x)
    >>> shown.requires_grad, bool((shown - x).abs().max() < 1e-6)
    (False, True)
    """

    gradient: ClassVar[GradientPath] = GradientPath.STRAIGHT_THROUGH
    is_random: ClassVar[bool] = False
    hides_only: ClassVar[bool] = True
    """That it is no protection, for those who list what protects."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        value_range("GradientMasking", self.low, self.high)

    def apply(self, x: Tensor) -> Tensor:
        floats("GradientMasking", x)
        step = (self.high - self.low) / _LEVELS
        return torch.round((x.detach() - self.low) / step) * step + self.low

    def describe(self) -> dict[str, Any]:
        return {"kind": "GradientMasking", "hides_only": True, **asdict(self)}

"""The input range of a model: what any input, attacked or not, must stay inside."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardpoint.core.errors import DataError


@dataclass(frozen=True)
class Box:
    """Lower and upper bounds of one input, inclusive.

    ``low`` and ``high`` are numbers, or tensors that broadcast against one input (no batch axis).

    >>> box = Box(0.0, 1.0)
    >>> box.contains(torch.tensor([[0.5, 1.0], [0.5, 1.1]]))
    tensor([ True, False])
    """

    low: float | Tensor = 0.0
    high: float | Tensor = 1.0

    def __post_init__(self) -> None:
        low, high = torch.as_tensor(self.low), torch.as_tensor(self.high)
        if not bool((low < high).all() if low.dim() + high.dim() == 0 else (low <= high).all()):
            raise DataError(
                f"the input range [{self.low}, {self.high}] is empty", "give low < high, for example (0, 1)"
            )

    @classmethod
    def of(cls, value: Box | tuple[float | Tensor, float | Tensor]) -> Box:
        """A box from a box or a ``(low, high)`` pair."""
        return value if isinstance(value, Box) else cls(*value)

    def clamp(self, x: Tensor) -> Tensor:
        """``x`` moved to the nearest point of the box."""
        low, high = self.bounds_like(x)
        return torch.maximum(torch.minimum(x, high), low)

    def bounds_like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(low, high)`` with the dtype and device of ``x``, broadcastable against it."""
        return (
            torch.as_tensor(self.low, dtype=x.dtype, device=x.device),
            torch.as_tensor(self.high, dtype=x.dtype, device=x.device),
        )

    def contains(self, x: Tensor) -> Tensor:
        """Bool ``[n]``: which inputs lie inside, exactly. NaN is outside."""
        low, high = self.bounds_like(x)
        return ((x >= low) & (x <= high)).flatten(1).all(1)

    @property
    def is_bounded(self) -> bool:
        """Whether both ends are finite everywhere."""
        return bool(
            torch.isfinite(torch.as_tensor(self.low)).all()
            and torch.isfinite(torch.as_tensor(self.high)).all()
        )

    def describe(self) -> list[float]:
        """``[smallest low, largest high]``, for reports."""
        return [float(torch.as_tensor(self.low).min()), float(torch.as_tensor(self.high).max())]


UNBOUNDED = Box(float("-inf"), float("inf"))

"""How stored values become inputs: the unit they are in and the order of their axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from hardpoint.core.errors import DataError

LAYOUTS = ("auto", "as-is", "HW", "HWC", "CHW")
_RANK = {"HW": 2, "HWC": 3, "CHW": 3}
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Reading:
    """A unit and an axis order, applied to each row as it is read.

    Args:
        scale: stored values are multiplied by it.
        layout: the stored axes of one row: ``"HW"`` gets a channel axis, ``"HWC"`` its channels first;
            ``"CHW"`` and ``"as-is"`` stay.
        dtype: the type of the inputs.
        note: what a person should know about the choice.

    >>> Reading(scale=1 / 255, layout="HW").apply(np.full((1, 2, 2), 255, np.uint8))
    tensor([[[[1., 1.],
              [1., 1.]]]])
    """

    scale: float = 1.0
    layout: str = "as-is"
    dtype: torch.dtype = torch.float32
    note: str | None = None

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one input whose stored row has the shape ``stored``."""
        if self.layout == "HW":
            return (1, *stored)
        if self.layout == "HWC":
            return (stored[2], stored[0], stored[1])
        return stored

    def apply(self, stored: NDArray[Any]) -> Tensor:
        """Inputs ``[m, *shape]`` from stored rows ``[m, ...]``."""
        exact = stored.dtype.kind == "f" and stored.dtype.itemsize <= 8 and self.scale == 1
        # In float64 the product rounds to the same float32 as the division by 255 that models were trained on.
        values = stored.astype(stored.dtype.newbyteorder("=") if exact else np.float64)
        x = torch.from_numpy(values * self.scale if self.scale != 1 else values).to(self.dtype)
        if self.layout == "HW":
            return x.unsqueeze(1).contiguous()
        return (x.permute(0, 3, 1, 2) if self.layout == "HWC" else x).contiguous()

    def describe(self) -> dict[str, Any]:
        """JSON-ready: what was done to the stored values."""
        return {
            "scale": self.scale,
            "stored_layout": self.layout,
            **({"note": self.note} if self.note else {}),
        }


def choose_reading(
    stored: tuple[int, ...],
    stored_dtype: DTypeLike,
    *,
    scale: float | None = None,
    layout: str = "auto",
    dtype: torch.dtype = torch.float32,
) -> Reading:
    """The reading for rows of shape ``stored``, with the defaults for images where they look like images.

    uint8 rows with two axes or more are pixels: scaled by 1/255, and two axes get a channel axis. Three axes whose
    last alone can be channels (1, 3 or 4 of them) become channels first. Whatever else stays as it is.

    Raises:
        DataError: when an option is impossible for these rows.
    """
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise DataError(f"scale {scale!r} is not a positive number", "give a factor, for example 1/255, or 1")
    if not dtype.is_floating_point:
        raise DataError(f"inputs cannot be {dtype}", "use torch.float32 or torch.float64")
    if layout not in LAYOUTS:
        raise DataError(f"layout {layout!r} is unknown", f"use one of: {', '.join(LAYOUTS)}")
    if layout in _RANK and len(stored) != _RANK[layout]:
        raise DataError(
            f"layout {layout!r} needs {_RANK[layout]} axes, rows have shape {stored}", "use 'as-is' or 'auto'"
        )
    pixels = np.dtype(stored_dtype) == np.uint8 and len(stored) >= 2
    note = None
    if layout == "auto":
        layout, note = _guess_layout(stored, pixels)
    if scale is None:
        scale = 1 / 255 if pixels else 1.0
    return Reading(float(scale), layout, dtype, note)


def _guess_layout(stored: tuple[int, ...], pixels: bool) -> tuple[str, str | None]:
    if len(stored) == 2:
        return ("HW" if pixels else "as-is"), None
    if len(stored) != 3 or stored[2] not in _CHANNELS:
        return "as-is", None
    if stored[0] in _CHANNELS or stored[1] in _CHANNELS:
        return "as-is", "the channel axis is ambiguous and was left where it is; pass layout= to say which"
    return "HWC", None

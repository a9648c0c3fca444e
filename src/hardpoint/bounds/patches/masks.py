"""Masks of which one covers the patch, wherever it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hardpoint.core.errors import ConfigError, ThreatError


def mask_starts(length: int, patch: int, masks: int) -> tuple[tuple[int, ...], int]:
    """Where at most ``masks`` masks begin along an axis of ``length`` pixels, and how wide each is: every window of
    ``patch`` pixels lies inside one of them.

    With a stride of s pixels between masks and a width of ``patch + s - 1``, a window that begins at j lies inside the
    mask that begins at most s - 1 pixels before it (Xiang, Mahloujifar and Mittal, "PatchCleanser", USENIX Security
    2022, section 3.2). The last mask ends with the image.

    Args:
        length: of the axis, in pixels.
        patch: of the patch along it, in pixels.
        masks: how many to use at most.

    Raises:
        ThreatError: for a patch of less than a pixel, or larger than the axis.
        ConfigError: for less than one mask.

    >>> mask_starts(12, 3, 4)
    ((0, 3, 6, 7), 5)
    """
    if not 1 <= patch <= length:
        raise ThreatError(
            f"a patch of {patch} pixels on an axis of {length}", "give from 1 pixel to all of them"
        )
    if masks < 1:
        raise ConfigError(f"masks is {masks}", "give at least 1 per axis")
    stride = -(-(length - patch + 1) // masks)
    width = min(patch + stride - 1, length)
    return (*range(0, length - width, stride), length - width), width


def mask_set(height: int, width: int, sizes: Sequence[tuple[int, int]], masks: tuple[int, int]) -> Tensor:
    """Bool ``[m, height, width]``, True where a mask covers: every patch of one of the ``sizes`` lies inside one mask.

    Args:
        height, width: of the images.
        sizes: ``(rows, columns)`` of the patches; for several, the masks of all of them together.
        masks: at most how many along rows and columns, for each size.

    >>> mask_set(4, 4, [(2, 2)], (2, 2)).shape
    torch.Size([4, 4, 4])
    """
    made = []
    for size in sizes:
        lines = []
        for length, patch, count in zip((height, width), size, masks, strict=True):
            starts, wide = mask_starts(length, patch, count)
            first = torch.tensor(starts).unsqueeze(1)
            at = torch.arange(length)
            lines.append((at >= first) & (at < first + wide))
        made.append((lines[0][:, None, :, None] & lines[1][None, :, None, :]).flatten(0, 1))
    together: Tensor = torch.unique(torch.cat(made), dim=0)
    return together

"""Which patches a certificate speaks about."""

from __future__ import annotations

from collections.abc import Sequence

from hardpoint.core.errors import ThreatError
from hardpoint.threats.patch import Patch

Sizes = int | Sequence[tuple[int, int]] | Patch
"""One side in pixels; ``(rows, columns)`` of each, several where the shape is not known; or the threat itself."""


def patch_sizes(patches: Sizes, height: int, width: int) -> tuple[tuple[int, int], ...]:
    """``(rows, columns)`` of every patch to be held against, those that lie inside another left out.

    Args:
        patches: a side, a list of pairs, or ``hp.Patch``, whose square is taken wherever it lies and whatever its
            colours: what is proven against more holds against less.
        height, width: of the images, in pixels.

    Raises:
        ThreatError: for no patch, for sizes that are not whole numbers of 1 or more, and for a patch that does not
            fit into the image.

    >>> patch_sizes([(2, 8), (4, 4), (2, 3)], 16, 16)
    ((2, 8), (4, 4))
    """
    if isinstance(patches, Patch):
        patches = max(1, patches.side(height, width))
    pairs = [(patches, patches)] if isinstance(patches, int) else patches
    if not isinstance(pairs, Sequence) or not pairs:
        raise ThreatError(f"the patches are {patches!r}", "give a side, or a list of (rows, columns)")
    sizes = [_checked(pair, height, width) for pair in pairs]
    kept = [a for a in sizes if not any(a != b and a[0] <= b[0] and a[1] <= b[1] for b in sizes)]
    return tuple(dict.fromkeys(kept))


def _checked(pair: object, height: int, width: int) -> tuple[int, int]:
    match pair:
        case (int(rows), int(columns)) if rows >= 1 and columns >= 1:
            if rows <= height and columns <= width:
                return rows, columns
            raise ThreatError(
                f"a patch of {rows} × {columns} does not fit into images of {height} × {width}",
                "give a smaller one",
            )
        case _:
            raise ThreatError(f"a patch is {pair!r}", "give (rows, columns) in whole pixels of 1 or more")

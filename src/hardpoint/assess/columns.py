"""Tables of text."""

from __future__ import annotations

from collections.abc import Sequence

from hardpoint.evidence.rate import Rate


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of as many cells each, as lines whose cells stand below one another.

    >>> print(aligned([("part", "clean"), ("BitDepth", "99 %")]))
    part      clean
    BitDepth  99 %
    """
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def percent(rate: Rate) -> str:
    """A rate with its interval, without its ``n``.

    >>> percent(Rate.of(95, 100))
    '95.0 % [88.8, 97.8]'
    """
    return f"{100 * rate.value:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"

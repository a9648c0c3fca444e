"""What a random search over windows draws, many turns at once: a turn's draws alone cost more than a small network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

_MOST_TURNS = 32
_MOST_LINES = 2**14  # rows and columns, a byte each, held for one input and use


def turns_ahead(plane: tuple[int, int]) -> int:
    """Turns that are drawn for at once: as many as take little memory beside an input of this height and width.

    Draws belong to an input and a turn, so this changes none of them.

    >>> turns_ahead((28, 28)), turns_ahead((1, 16_000))
    (32, 1)
    """
    return max(1, min(_MOST_TURNS, _MOST_LINES // sum(plane)))


def each_turn_ahead(index: Tensor, turn: Tensor, ahead: int) -> tuple[Tensor, Tensor]:
    """``index`` and turn, int64 ``[n * ahead]``, for each of ``ahead`` turns of each input from its ``turn`` on."""
    turns = turn.unsqueeze(1) + torch.arange(ahead, device=turn.device)
    return index.repeat_interleave(ahead), turns.flatten()


@dataclass(frozen=True)
class Draws:
    """The windows and signs of ``turns_ahead`` turns of each input.

    Attributes:
        rows, columns: bool ``[n, ahead, uses, height]`` and ``[n, ahead, uses, width]``: where windows are.
        sign: ``[n, ahead, channels, 1, 1]``.
        since: int64 ``[n]``, the first of the turns.
    """

    HAS_ROWS: ClassVar[bool] = True
    rows: Tensor
    columns: Tensor
    sign: Tensor
    since: Tensor

    @classmethod
    def of(cls, begins: Tensor, sizes: Tensor, sign: Tensor, plane: tuple[int, int], since: Tensor) -> Draws:
        """Windows of ``sizes`` rows and columns that begin at the shares ``begins`` of the room there is.

        Args:
            begins: in [0, 1), float64 ``[n * ahead, uses, 2]``.
            sizes: float64 ``[n * ahead, 1, 2]``.
            sign: ``[n * ahead, channels, 1, 1]``.
            plane: height and width.
            since: int64 ``[n]``.
        """
        room = torch.tensor(plane, dtype=torch.float64, device=begins.device) + 1 - sizes
        start = (begins * room).floor()
        end = start + sizes
        lines = []
        for axis, length in enumerate(plane):
            place = torch.arange(length, device=begins.device)
            lines.append((place >= start[..., axis : axis + 1]) & (place < end[..., axis : axis + 1]))
        rows, columns, signs = (part.view(len(since), -1, *part.shape[1:]) for part in (*lines, sign))
        return cls(rows, columns, signs, since)

    def cover(self, turn: Tensor) -> bool:
        """Whether the turns ``[n]`` are among those drawn for."""
        return bool((turn - self.since < self.sign.shape[1]).all())

    def at(self, turn: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """For turns ``[n]``: a window per use, bool ``[n, 1, height, width]``, and signs ``[n, channels, 1, 1]``."""
        which = torch.arange(len(turn), device=turn.device), turn - self.since
        rows, columns = self.rows[which], self.columns[which]
        windows = (rows.unsqueeze(3) & columns.unsqueeze(2)).unsqueeze(2)
        return windows.unbind(1), self.sign[which]

"""Drawing noise once for many inputs, and counting what the network answers."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from hardpoint.bounds.smoothing.asking import Base
from hardpoint.bounds.smoothing.estimators import Estimator, Goal
from hardpoint.bounds.smoothing.noise import Draws, Noise
from hardpoint.core.rng import Rng
from hardpoint.core.rows import chunks

_WORD = 1 << 32
_ODD = 0x9E3779B1  # times an odd number modulo 2**32 no two numbers become one
_PURPOSES = 4


class Purpose(IntEnum):
    """What draws are for; those for different ones are independent."""

    CHOICE = 0
    PROOF = 1
    ANSWER = 2


class Counted(NamedTuple):
    """What was drawn for some inputs, each ``[m]``.

    Attributes:
        low: float64: what is proven of the probability.
        hits: int64, and ``at``: the counts that prove it.
        at: int64.
        samples: int64: all draws that were taken.
    """

    low: Tensor
    hits: Tensor
    at: Tensor
    samples: Tensor


@dataclass(frozen=True)
class Sampler:
    """Noise for inputs, and the network's answers to them.

    The noise of a chunk of ``step`` draws is a function of the seed, the purpose and the chunk's number, whatever
    inputs it is put on. All share it: each one's draws are independent, which is all that its own statement needs.

    Attributes:
        base: the network.
        noise: what is put on inputs.
        x: ``[n, ...]``.
        classes: how many answers there are.
        seed: of all draws.
        step: draws in a chunk.
        batch_size: noisy inputs at a time.
    """

    base: Base
    noise: Noise
    x: Tensor
    classes: int
    seed: int
    step: int
    batch_size: int

    def votes(self, purpose: Purpose, draws: int) -> Tensor:
        """int64 ``[n, classes]``: how often each class is answered to each input in so many draws."""
        votes = torch.zeros(len(self.x), self.classes, dtype=torch.int64)
        for drawn in self._pieces(purpose, len(self.x), 0, draws):
            for at in chunks(torch.arange(len(self.x)), self._group(drawn)):
                labels = self._answers(at, drawn).cpu()
                votes[at] += torch.zeros(len(at), self.classes, dtype=torch.int64).scatter_add_(
                    1, labels, torch.ones_like(labels)
                )
        return votes

    def count(self, wanted: Tensor, rows: Tensor, estimator: Estimator, goal: Goal) -> Counted:
        """Draws for each of the inputs ``rows`` until the estimator has done with it.

        Args:
            wanted: int64 ``[n]``, the class of each input that counts as a hit.
            rows: int64 ``[m]``, the inputs to draw for.
            estimator: says when to look, and when to stop.
            goal: what is to be shown, with targets ``[n]``.
        """
        n = len(self.x)
        low, taken = torch.zeros(n, dtype=torch.float64), 0
        hits, shown, at, samples = (torch.zeros(n, dtype=torch.int64) for _ in range(4))
        while len(rows):
            stop = estimator.next_look(taken, goal)
            hits[rows] += self._hits(wanted, rows, taken, stop)
            taken = stop
            samples[rows] = taken
            look = estimator.look(hits[rows], taken, goal.of(rows))
            new = look.done & (at[rows] == 0) | (look.low > low[rows])
            low[rows[new]], shown[rows[new]], at[rows[new]] = look.low[new], hits[rows[new]], taken
            rows = rows[~look.done]
        return Counted(estimator.proven(shown, at, goal), shown, at, samples)

    def _hits(self, wanted: Tensor, rows: Tensor, start: int, stop: int) -> Tensor:
        """int64 ``[m]``: how many of the draws from ``start`` to before ``stop`` are answered as ``wanted``."""
        hits = torch.zeros(len(rows), dtype=torch.int64, device=self.base.device)
        wanted, place = wanted.to(self.base.device), torch.arange(len(rows))
        for drawn in self._pieces(Purpose.PROOF, len(rows), start, stop):
            for at in chunks(place, self._group(drawn)):
                hit = self._answers(rows[at], drawn) == wanted[rows[at]].unsqueeze(1)
                hits[at] += (hit if drawn.sure is None else hit & drawn.sure).sum(1)
        return hits.cpu()

    def _answers(self, rows: Tensor, drawn: Draws) -> Tensor:
        """int64 ``[m, k]``: the labels of each input under each draw."""
        x = self.x[rows.to(self.x.device)].to(self.base.device)
        return self.base.labels(self.noise.put(x, drawn.values), self.classes).view(len(rows), -1)

    def _group(self, drawn: Draws) -> int:
        """How many inputs with so many draws are a batch."""
        return max(1, self.batch_size // len(drawn.values))

    def _pieces(self, purpose: Purpose, inputs: int, start: int, stop: int) -> Iterator[Draws]:
        """The draws from ``start``, which begins a chunk, to before ``stop``, as many at a time as fill a batch."""
        many = self.step * max(1, self.batch_size // (inputs * self.step))
        for first in range(start, stop, many):
            last = min(stop, first + many)
            places = range(first, last, self.step)
            parts = [self._chunk(purpose, at // self.step).first(last - at) for at in places]
            yield from Draws.joined(parts).split(self.batch_size)

    def _chunk(self, purpose: Purpose, number: int) -> Draws:
        source = torch.Generator().manual_seed(chunk_seed(self.seed, purpose, number))
        drawn = self.noise.draw(self.step, tuple(self.x.shape[1:]), source, self.x.dtype)
        sure = None if drawn.sure is None else drawn.sure.to(self.base.device)
        return Draws(drawn.values.to(self.base.device), sure)


def chunk_seed(seed: int, purpose: Purpose, number: int) -> int:
    """The seed of a chunk: of 32 bits, which is all that torch's generator keeps, and no two of a run the same.

    >>> chunk_seed(0, Purpose.PROOF, 3) == chunk_seed(0, Purpose.PROOF, 3) != chunk_seed(0, Purpose.PROOF, 4)
    True
    """
    return (_first_seed(seed) + number * _PURPOSES + purpose) * _ODD % _WORD


@functools.lru_cache(maxsize=64)
def _first_seed(seed: int) -> int:
    return int(Rng(seed).fork("smoothing").integers(torch.tensor([0]), _WORD))

"""Random numbers that belong to an input, not to a batch.

Every draw is a pure function of (seed, stream, input index, counter, position): a counter-based generator.
So an input gets the same noise whichever inputs share its batch, whichever worker holds it, on every device,
and a run that is resumed needs no saved generator state. The global generators are never touched.

The mixing function is the 64-bit finaliser "Mix13" of Stafford, as used by SplitMix64
(Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def _signed(value: int) -> int:
    """``value`` modulo 2**64 as the int64 of the same bits."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_COUNTER = _signed(0xD1342543DE82EF95)
_MIX_A = _signed(0xBF58476D1CE4E5B9)
_MIX_B = _signed(0x94D049BB133111EB)


def _mix(z: Tensor) -> Tensor:
    """``z``, which nobody else holds, mixed in place."""
    for shift, factor in ((30, _MIX_A), (27, _MIX_B), (31, 1)):
        z.bitwise_xor_((z >> shift).bitwise_and_((1 << (64 - shift)) - 1))
        if factor != 1:
            z.mul_(factor)
    return z


def _mix_int(z: int) -> int:
    z &= _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


@dataclass(frozen=True)
class Rng:
    """A seeded source of per-input draws.

    Args:
        seed: the run's seed.
        stream: which use of the seed this is; ``fork`` makes a new one from a name.

    >>> rng = Rng(0).fork("start")
    >>> alone = rng.uniform(torch.tensor([7]), (3,))
    >>> together = rng.uniform(torch.tensor([5, 7]), (3,))
    >>> torch.equal(alone[0], together[1])
    True
    """

    seed: int
    stream: int = 0

    def fork(self, name: str | int) -> Rng:
        """An independent source for the use called ``name``."""
        return Rng(self.seed, _mix_int(self.stream * 0x2545F4914F6CDD1D + zlib.crc32(str(name).encode()) + 1))

    def _bits(self, index: Tensor, count: int, counter: int | Tensor) -> Tensor:
        """int64 ``[n, count]`` of uniformly random bits."""
        key = _signed(_mix_int(_mix_int(self.seed) ^ self.stream))
        step = torch.as_tensor(counter, dtype=torch.int64, device=index.device)
        rows = _mix(_mix(index.to(torch.int64) * _GOLDEN + key) ^ ((step + 1) * _COUNTER))
        positions = torch.arange(1, count + 1, device=index.device, dtype=torch.int64) * _GOLDEN
        return _mix(rows.unsqueeze(1) + positions)

    def uniform(
        self,
        index: Tensor,
        shape: tuple[int, ...] = (),
        counter: int | Tensor = 0,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Uniform draws in [0, 1), ``[n, *shape]``.

        Args:
            index: int64 ``[n]``, the inputs' indices in the data set.
            shape: shape of one input's draw.
            counter: which draw this is, one number or one per input ``[n]``.
            dtype: float32 (24 random bits) or float64 (53 random bits).
        """
        bits = self._bits(index, math.prod(shape), counter)
        digits = 53 if dtype == torch.float64 else 24
        high = bits.bitwise_right_shift_(64 - digits).bitwise_and_((1 << digits) - 1)
        return high.to(dtype).mul_(2.0**-digits).view(len(index), *shape)

    def normal(
        self,
        index: Tensor,
        shape: tuple[int, ...] = (),
        counter: int | Tensor = 0,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Standard normal draws, ``[n, *shape]`` (Box and Muller 1958); arguments as for ``uniform``."""
        count = math.prod(shape)
        bits = self._bits(index, (count + 1) // 2, counter)
        low_mask = (1 << 24) - 1
        radius = torch.sqrt(-2.0 * torch.log((((bits >> 40) & low_mask).to(dtype) + 0.5) * 2.0**-24))
        angle = ((bits >> 8) & low_mask).to(dtype) * (2.0 * math.pi * 2.0**-24)
        both = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
        return both[:, :count].reshape(len(index), *shape)

    def sign(
        self,
        index: Tensor,
        shape: tuple[int, ...] = (),
        counter: int | Tensor = 0,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Fair draws from {-1, +1}, ``[n, *shape]``; arguments as for ``uniform``."""
        bits = self._bits(index, math.prod(shape), counter)
        return ((bits >> 63) * 2 + 1).to(dtype).view(len(index), *shape)

    def integers(
        self, index: Tensor, high: int | Tensor, shape: tuple[int, ...] = (), counter: int | Tensor = 0
    ) -> Tensor:
        """Draws from {0, …, high - 1}, int64 ``[n, *shape]``; ``high`` broadcasts against the result."""
        u = self.uniform(index, shape, counter, dtype=torch.float64)
        top = torch.as_tensor(high, device=index.device)
        return torch.minimum((u * top).floor().to(torch.int64), top - 1)

    def torch_seed(self) -> int:
        """A seed for torch's own generators, another for each seed and stream."""
        return int(self.integers(torch.zeros(1, dtype=torch.int64), 2**53))


def split_rows(n: int, share: float, rng: Rng) -> tuple[Tensor, Tensor]:
    """Two int64 lists of positions, the second a ``share`` of ``n`` and at least one, drawn by ``rng``; both in order.

    >>> first, second = split_rows(10, 0.3, Rng(0))
    >>> len(first), len(second), len(set(first.tolist()) & set(second.tolist()))
    (7, 3, 0)
    """
    order = rng.uniform(torch.arange(n), dtype=torch.float64).argsort()
    first = n - max(1, round(share * n))
    return order[:first].sort().values, order[first:].sort().values

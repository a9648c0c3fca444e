"""Inputs of any rank as stacks of planes, and the cosine waves that such planes are made of.

Attacks that change large smooth parts of an input at once need far fewer questions on images and audio
(Guo, Frank and Weinberger, "Low frequency adversarial perturbation", UAI 2019). Waves are those of the
orthonormal discrete cosine transform, DCT-II, along the last two axes; inputs with one axis have waves along it.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from hardpoint.core.errors import ThreatError
from hardpoint.core.rng import Rng

# Inputs with no more numbers than this are searched in all directions: there are few enough to try each.
_ALL_WAVES = 1024


def plane_of(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """One input as (channels, height, width): the last two axes are the plane, a single axis is one row.

    >>> plane_of((3, 32, 24)), plane_of((16000,)), plane_of((2, 100))
    ((3, 32, 24), (1, 1, 16000), (2, 1, 100))
    """
    if len(shape) == 1:
        return 1, 1, shape[0]
    if len(shape) == 2:
        return shape[0], 1, shape[1]
    return math.prod(shape[:-2]), shape[-2], shape[-1]


def checked_share(share: float | None) -> None:
    """Raise ``ThreatError`` unless ``share`` is None or in (0, 1]."""
    if share is not None and not 0 < share <= 1:
        raise ThreatError(
            f"frequencies is {share}",
            "give the share of waves to keep along each axis, above 0 and at most 1",
        )


def waves_of(shape: tuple[int, ...], share: float | None) -> tuple[int, int, int]:
    """How many of the slowest waves to use: (channels, along the height, along the width).

    Args:
        shape: shape of one input.
        share: share of the waves along each axis; None for all where an input has at most 1,024 numbers, else half.

    >>> waves_of((3, 32, 32), None), waves_of((3, 8, 8), None), waves_of((16000,), 0.25)
    ((3, 16, 16), (3, 8, 8), (1, 1, 4000))
    """
    channels, height, width = plane_of(shape)
    if share is None:
        share = 1.0 if channels * height * width <= _ALL_WAVES else 0.5
    return channels, max(1, round(share * height)), max(1, round(share * width))


@lru_cache(maxsize=64)
def _cosines(size: int) -> Tensor:
    """float64 ``cos(π k / 2 size)`` for k < 4 size: every value a wave of ``size`` points can take."""
    return torch.cos(torch.arange(4 * size, dtype=torch.float64) * (math.pi / (2 * size)))


def wave(size: int, frequency: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """``[n, size]``: for each ``frequency`` ``[n]``, int64 in [0, size), the wave of unit length (a row of DCT-II).

    Looked up rather than computed, so that a wave has the same bits in any batch.

    >>> wave(4, torch.tensor([0, 2]))
    tensor([[ 0.5000,  0.5000,  0.5000,  0.5000],
            [ 0.5000, -0.5000, -0.5000,  0.5000]])
    """
    points = torch.arange(size, device=frequency.device)
    table = _cosines(size).to(device=frequency.device)
    values = table[((2 * points + 1) * frequency.unsqueeze(1)) % (4 * size)]
    height = torch.full_like(frequency, math.sqrt(2 / size), dtype=torch.float64)
    height = torch.where(frequency == 0, math.sqrt(0.5) * height, height)
    return (height.unsqueeze(1) * values).to(dtype)


def from_waves(amplitudes: Tensor) -> Tensor:
    """The inverse transform along the last axis: the points whose orthonormal DCT-II is ``amplitudes``.

    By one real Fourier transform of the same length (Makhoul, IEEE Trans. ASSP 1980): even points in rising, odd
    points in falling order have a spectrum that follows from the amplitudes.

    >>> from_waves(torch.tensor([2.0, 0.0, 0.0, 0.0])).round(decimals=4)
    tensor([1., 1., 1., 1.])
    """
    size = amplitudes.shape[-1]
    if size == 1:
        return amplitudes
    scaled = amplitudes * math.sqrt(size / 2)
    scaled[..., 0] *= math.sqrt(2)
    half = size // 2 + 1
    mirrored = torch.zeros_like(scaled)
    mirrored[..., 1:] = scaled[..., 1:].flip(-1)
    turn = torch.arange(half, device=scaled.device, dtype=torch.float64) * (math.pi / (2 * size))
    cosine, sine = torch.cos(turn).to(scaled.dtype), torch.sin(turn).to(scaled.dtype)
    real, imaginary = scaled[..., :half], -mirrored[..., :half]
    spectrum = torch.complex(real * cosine - imaginary * sine, real * sine + imaginary * cosine)
    folded = torch.fft.irfft(spectrum, n=size)
    points = torch.empty_like(folded)
    points[..., ::2] = folded[..., : (size + 1) // 2]
    points[..., 1::2] = folded[..., (size + 1) // 2 :].flip(-1)
    return points


def blend(amplitudes: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``[..., *shape]``: inputs made of the slowest waves with ``amplitudes`` ``[..., channels, h, w]``.

    Length and angles are kept: the map is linear and orthonormal.
    """
    channels, height, width = plane_of(shape)
    rows, columns = amplitudes.shape[-2:]
    lead = amplitudes.shape[:-3]
    wide = amplitudes.new_zeros(*lead, channels, rows, width)
    wide[..., :columns] = amplitudes
    tall = amplitudes.new_zeros(*lead, channels, width, height)
    tall[..., :rows] = from_waves(wide).transpose(-1, -2)
    return from_waves(tall).transpose(-1, -2).reshape(*lead, *shape)


def smooth_noise(
    rng: Rng,
    index: Tensor,
    count: int,
    shape: tuple[int, ...],
    share: float | None,
    counter: Tensor,
    like: Tensor,
) -> Tensor:
    """Normal noise ``[n, count, *shape]`` made of the slowest waves only; see ``waves_of`` and ``Rng.normal``."""
    waves = waves_of(shape, share)
    if waves == plane_of(shape):  # noise on all waves is noise on all points
        return rng.normal(index, (count, *shape), counter, like.dtype)
    return blend(rng.normal(index, (count, *waves), counter, like.dtype), shape)


def spread_direction(
    rng: Rng, index: Tensor, number: Tensor, shape: tuple[int, ...], share: float | None, like: Tensor
) -> Tensor:
    """``[n, *shape]``: direction ``number`` ``[n]`` of a random orthonormal system per input.

    Nothing is stored: the system is that of the cosine waves over the m kept amplitudes, in a random order and with
    a random sign for each amplitude, so every direction is spread over all of them. The numbers ``q m … q m + m - 1``
    give directions at right angles; the next m are a fresh system.
    """
    waves = waves_of(shape, share)
    size = math.prod(waves)
    signs = rng.fork("signs").sign(index, (size,), number // size, like.dtype)
    amplitudes = wave(size, in_random_order(rng, index, number, size), like.dtype) * signs
    if waves == plane_of(shape):
        return amplitudes.view(len(index), *shape)
    return blend(amplitudes.view(len(index), *waves), shape)


def single_wave(which: Tensor, shape: tuple[int, ...], share: float | None, like: Tensor) -> Tensor:
    """``[n, *shape]``: one wave of unit length on one channel each; ``which`` ``[n]`` counts those of ``waves_of``."""
    full, (_, rows, columns) = plane_of(shape), waves_of(shape, share)
    channel = torch.arange(full[0], device=which.device) == (which // (rows * columns)).unsqueeze(1)
    tall = wave(full[1], which // columns % rows, like.dtype)
    wide = wave(full[2], which % columns, like.dtype)
    product = channel.to(like.dtype)[:, :, None, None] * tall[:, None, :, None] * wide[:, None, None, :]
    return product.reshape(len(which), *shape)


def in_random_order(rng: Rng, index: Tensor, number: Tensor, size: int) -> Tensor:
    """int64 ``[n]``: place ``number`` ``[n]`` of a random order of 0 … size - 1 per input, a new one every ``size``.

    Without a table: steps of a length that shares no divisor with ``size`` visit every place once.

    >>> places = torch.arange(5)
    >>> in_random_order(Rng(0), torch.zeros(5, dtype=torch.int64), places, 5).sort().values.tolist()
    [0, 1, 2, 3, 4]
    """
    epoch, place = number // size, number % size
    strides = _coprimes(size).to(index.device)
    first = rng.fork("first").integers(index, size, (), epoch)
    stride = strides[rng.fork("stride").integers(index, len(strides), (), epoch)]
    return (first + place * stride) % size


@lru_cache(maxsize=64)
def _coprimes(size: int) -> Tensor:
    """int64: up to about 1,000 numbers below ``size``, spread over its range, that share no divisor with it."""
    found = [k for k in range(1, size + 1, max(1, size // 4096)) if math.gcd(k, size) == 1]
    return torch.tensor(found[:: 1 + len(found) // 1024], dtype=torch.int64)

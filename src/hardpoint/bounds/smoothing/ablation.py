"""Ablation: the classifier sees a few pixels and knows which."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from hardpoint.bounds.smoothing.noise import UP, Draws, Norm, dimensions
from hardpoint.core.errors import ConfigError, DataError
from hardpoint.threats.l0 import L0


class Encoding(Enum):
    """How a network is told which pixels it does not see; twice told apart from any value that a pixel has.

    ``MASK`` appends one channel: 1 where a pixel is seen, 0 elsewhere (for rows of numbers ``[n, d]``, ``d`` more).
    ``COMPLEMENT`` appends ``1 - x`` as further channels: a pixel that is not seen is 0 in both (Levine and Feizi 2020).
    """

    MASK = "mask"
    COMPLEMENT = "complement"


@dataclass(frozen=True)
class Ablation:
    """All but ``keep`` pixels, chosen at random, are taken away (Levine and Feizi, "Robustness certificates for sparse
    adversarial attacks by randomized ablation", AAAI 2020, theorem 1).

    A change of r pixels is seen with probability 1 - C(d - r, k) / C(d, k), so a class of probability p stays above one
    half while p minus that does. For images ``[n, channels, height, width]`` a pixel is taken with all of its
    channels; a radius of r pixels holds for any r numbers as well, which is what ``L0`` counts. The classifier
    must take the encoding: see ``Encoding``.

    Args:
        keep: pixels that are seen, at least 1.
        encoding: how the network sees which.

    >>> Ablation(2).radius(torch.tensor([0.99], dtype=torch.float64), (10,))
    tensor([2.], dtype=torch.float64)
    """

    keep: int
    encoding: Encoding = Encoding.MASK

    def __post_init__(self) -> None:
        if not isinstance(self.keep, int) or isinstance(self.keep, bool) or self.keep < 1:
            raise ConfigError(f"keep is {self.keep!r}", "give how many pixels are seen, 1 or more")
        if not isinstance(self.encoding, Encoding):
            raise ConfigError(
                f"the encoding is {self.encoding!r}", "give Encoding.MASK or Encoding.COMPLEMENT"
            )

    @property
    def norm(self) -> Norm:
        return L0

    def check(self, x: Tensor) -> None:
        pixels = dimensions(_units(tuple(x.shape[1:])))
        if self.keep > pixels:
            raise DataError(f"inputs have {pixels} pixels, fewer than the {self.keep} to keep", "keep fewer")

    def draw(self, count: int, shape: tuple[int, ...], source: torch.Generator, dtype: torch.dtype) -> Draws:
        units = _units(shape)
        order = torch.rand(count, math.prod(units), generator=source, dtype=torch.float64)
        mask = torch.zeros(count, math.prod(units), dtype=torch.bool)
        mask.scatter_(1, order.topk(self.keep, dim=1).indices, True)
        return Draws(mask.view(count, *units))

    def put(self, x: Tensor, values: Tensor) -> Tensor:
        mask = values.to(x.dtype).unsqueeze(0)
        mask = mask.unsqueeze(2) if x.dim() == 4 else mask
        own = x.unsqueeze(1)
        told = (
            (1 - own) * mask if self.encoding is Encoding.COMPLEMENT else mask.expand(len(x), *mask.shape[1:])
        )
        return torch.cat([own * mask, told], 2).flatten(0, 1)

    def radius(self, p: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        seen = self._seen(shape)
        spare = (p - 0.5 - UP).clamp(0.0, 0.5)  # the most that may be seen of a change
        return torch.where(p > 0.5, torch.searchsorted(seen, spare) - 1, 0).clamp_min(0).double()

    def probability(self, radius: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        seen = self._seen(shape)
        if not bool((radius == radius.floor()).all()):
            raise ConfigError("a number of pixels is not whole", "give whole radii under L0")
        return 0.5 + seen[radius.long().clamp(max=len(seen) - 1)] + UP

    def _seen(self, shape: tuple[int, ...]) -> Tensor:
        """float64 ``[d + 1]``: the probability that one of r changed pixels is among those kept, for each r."""
        pixels = dimensions(_units(shape))
        if self.keep > pixels:
            raise ConfigError(
                f"inputs have {pixels} pixels, fewer than the {self.keep} to keep", "keep fewer"
            )
        left = torch.arange(pixels, 0, -1, dtype=torch.float64)
        hidden = ((left - self.keep) / left).clamp_min(0.0).cumprod(0) * (1 - pixels * 2**-50)  # rounded down
        return 1 - torch.cat([torch.ones(1, dtype=torch.float64), hidden])


def _units(shape: tuple[int, ...]) -> tuple[int, ...]:
    """What is kept or taken away as one: positions of images, else single numbers."""
    return shape[1:] if len(shape) == 3 else shape

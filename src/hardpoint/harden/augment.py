"""Changes of a batch before it is learned from; every draw belongs to an input and an update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from hardpoint.core.errors import ConfigError, DataError
from hardpoint.core.rng import Rng
from hardpoint.core.rows import per_row


@runtime_checkable
class Augmentation(Protocol):
    """A frozen dataclass; called with a batch, gives the changed batch."""

    def __call__(self, x: Tensor, targets: Tensor, rng: Rng, index: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` ``[b, ...]`` and ``targets`` ``[b, K]`` changed; ``index`` says whom the draws belong to."""
        ...


@runtime_checkable
class Moves(Protocol):
    """A change that only moves pixels, and can be taken back but for what left the image."""

    def moved(self, x: Tensor, rng: Rng, index: Tensor) -> Tensor:
        """``x`` ``[b, ...]`` moved as the images are."""
        ...

    def moved_back(self, x: Tensor, rng: Rng, index: Tensor) -> Tensor:
        """Where ``moved`` came from."""
        ...


@dataclass(frozen=True)
class Flip:
    """Every second image mirrored left to right."""

    def __call__(self, x: Tensor, targets: Tensor, rng: Rng, index: Tensor) -> tuple[Tensor, Tensor]:
        _images(x, "Flip")
        return self.moved(x, rng, index), targets

    def moved(self, x: Tensor, rng: Rng, index: Tensor) -> Tensor:
        mirrored = per_row(rng.fork("flip").uniform(index) < 0.5, x)
        return torch.where(mirrored, x.flip(-1), x)

    moved_back = moved


@dataclass(frozen=True)
class Crop:
    """Images shifted by up to ``pad`` pixels each way; what comes in is zero.

    Args:
        pad: pixels.
    """

    pad: int = 4

    def __post_init__(self) -> None:
        _whole(self.pad, "pad")

    def __call__(self, x: Tensor, targets: Tensor, rng: Rng, index: Tensor) -> tuple[Tensor, Tensor]:
        _images(x, "Crop")
        return self.moved(x, rng, index), targets

    def moved(self, x: Tensor, rng: Rng, index: Tensor) -> Tensor:
        return self._shifted(x, self._start(rng, index))

    def moved_back(self, x: Tensor, rng: Rng, index: Tensor) -> Tensor:
        return self._shifted(x, 2 * self.pad - self._start(rng, index))

    def _start(self, rng: Rng, index: Tensor) -> Tensor:
        return rng.fork("crop").integers(index, 2 * self.pad + 1, (2,))

    def _shifted(self, x: Tensor, start: Tensor) -> Tensor:
        windows = functional.pad(x, (self.pad,) * 4).unfold(2, x.shape[2], 1).unfold(3, x.shape[3], 1)
        return windows[torch.arange(len(x), device=x.device), :, start[:, 0], start[:, 1]]


@dataclass(frozen=True)
class Cutout:
    """A square of each image blanked (DeVries and Taylor, 2017).

    Args:
        size: its side in pixels; squares may reach over the edge.
    """

    size: int = 8

    def __post_init__(self) -> None:
        _whole(self.size, "size")

    def __call__(self, x: Tensor, targets: Tensor, rng: Rng, index: Tensor) -> tuple[Tensor, Tensor]:
        _images(x, "Cutout")
        h, w = x.shape[-2:]
        u = rng.fork("cutout").uniform(index, (2,))
        middle = (u * torch.tensor([h, w], device=x.device)).floor()
        rows = (torch.arange(h, device=x.device) - middle[:, :1] + self.size // 2) // self.size == 0
        columns = (torch.arange(w, device=x.device) - middle[:, 1:] + self.size // 2) // self.size == 0
        inside = (rows[:, None, :, None] & columns[:, None, None, :]).expand_as(x)
        return x.masked_fill(inside, 0.0), targets


@dataclass(frozen=True)
class Mixup:
    """Pairs of inputs mixed, and their labels (Zhang et al., "mixup: beyond empirical risk minimization", ICLR 2018).

    Args:
        share: the largest share of the second; drawn evenly from 0 for each pair.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 0.5:
            raise ConfigError(f"share is {self.share!r}", "give a number above 0, at most 0.5")

    def __call__(self, x: Tensor, targets: Tensor, rng: Rng, index: Tensor) -> tuple[Tensor, Tensor]:
        other = torch.arange(len(x), device=x.device).roll(1)
        share = self.share * rng.fork("mixup").uniform(index)
        mixed = torch.lerp(x, x[other], per_row(share, x).to(x.dtype))
        return mixed, torch.lerp(targets, targets[other], share.unsqueeze(1).to(targets.dtype))


@dataclass(frozen=True)
class Jitter:
    """Gaussian noise.

    Args:
        sigma: its standard deviation, in the inputs' unit.
    """

    sigma: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.sigma < float("inf"):
            raise ConfigError(f"sigma is {self.sigma!r}", "give a finite number above 0")

    def __call__(self, x: Tensor, targets: Tensor, rng: Rng, index: Tensor) -> tuple[Tensor, Tensor]:
        noise = rng.fork("jitter").normal(index, tuple(x.shape[1:]), dtype=x.dtype)
        return x + self.sigma * noise, targets


def with_draws(changes: Sequence[Augmentation], rng: Rng) -> list[tuple[Augmentation, Rng]]:
    """Each change with what it draws from: the second of a kind must not repeat the draws of the first."""
    kinds = [type(change) for change in changes]
    before = [kinds[:place].count(kind) for place, kind in enumerate(kinds)]
    return [(change, rng.fork(f"again {n}") if n else rng) for change, n in zip(changes, before, strict=True)]


def _whole(value: int, word: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{word} is {value!r}", "give a whole number of 1 or more")


def _images(x: Tensor, name: str) -> None:
    if x.dim() != 4:
        raise DataError(
            f"{name} changes images, these inputs have shape {tuple(x.shape[1:])}", "leave it out"
        )

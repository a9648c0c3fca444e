"""What one forward pass shows: all that detectors look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True)
class Seen:
    """A batch after one forward pass.

    Attributes:
        x: ``[n, ...]``, the inputs as they came.
        logits: ``[n, K]``.
        features: by layer name, that layer's output as ``[n, d]``, averaged over positions.
        scores_of: the model itself, for detectors that ask it about changed inputs; ``[m, ...]`` to ``[m, K]``.
    """

    x: Tensor
    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    scores_of: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.x)


@runtime_checkable
class Detector(Protocol):
    """Tells how suspicious inputs look. Implementations are frozen dataclasses made by a class method ``fit``."""

    @property
    def name(self) -> str:
        """Shown in tables."""
        ...

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers whose features it reads."""
        ...

    def score(self, seen: Seen) -> Tensor:
        """``[n]``, higher is more suspicious; each row by itself, and differentiable wherever its parts are."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-ready: ``kind`` and the parameters."""
        ...


def join(parts: Iterable[Seen]) -> Seen:
    """Batches of one model, one after the other."""
    every = list(parts)
    features = {name: torch.cat([part.features[name] for part in every]) for name in every[0].features}
    x, logits = (torch.cat([getattr(part, name) for part in every]) for name in ("x", "logits"))
    return Seen(x, logits, features, every[0].scores_of)


def layers_of(detectors: Iterable[Detector]) -> tuple[str, ...]:
    """The layers that any of them reads, each once."""
    return tuple(dict.fromkeys(name for detector in detectors for name in detector.layers))

"""What the class scores alone tell: no fit, no further pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardpoint.defenses.detectors._parts import positive
from hardpoint.defenses.one import One
from hardpoint.defenses.seen import Seen


@dataclass(frozen=True)
class Energy:
    """``-T logsumexp(z / T)`` of the logits (Liu, Wang, Owens and Li, NeurIPS 2020).

    >>> Energy().score(Seen(torch.zeros(1, 2), torch.zeros(1, 2)))
    tensor([-0.6931])
    """

    temperature: float = 1.0
    name: str = "energy"
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        positive(self.temperature, "temperature")

    def score(self, seen: Seen) -> Tensor:
        return -self.temperature * torch.logsumexp(seen.logits / self.temperature, dim=1)

    def score_one(self, one: One) -> float:
        logits: list[float] = one.logits.tolist()
        top = max(logits)
        total = sum(math.exp((logit - top) / self.temperature) for logit in logits)
        return -top - self.temperature * math.log(total)

    def describe(self) -> dict[str, Any]:
        return {"kind": "energy", "temperature": self.temperature}


@dataclass(frozen=True)
class MaxLogit:
    """Minus the largest logit (Hendrycks et al., ICML 2022).

    >>> MaxLogit().score(Seen(torch.zeros(1, 2), torch.tensor([[1.0, 3.0]])))
    tensor([-3.])
    """

    name: str = "max logit"
    layers: tuple[str, ...] = ()

    def score(self, seen: Seen) -> Tensor:
        return -seen.logits.amax(1)

    def describe(self) -> dict[str, Any]:
        return {"kind": "max-logit"}


@dataclass(frozen=True)
class Margin:
    """Minus the lead of the first class over the second, in logits.

    >>> Margin().score(Seen(torch.zeros(1, 2), torch.tensor([[1.0, 3.0]])))
    tensor([-2.])
    """

    name: str = "margin"
    layers: tuple[str, ...] = ()

    def score(self, seen: Seen) -> Tensor:
        first, second = seen.logits.topk(2, dim=1).values.unbind(1)
        return second - first

    def describe(self) -> dict[str, Any]:
        return {"kind": "margin"}


@dataclass(frozen=True)
class Entropy:
    """The entropy of the class probabilities, in nats.

    >>> Entropy().score(Seen(torch.zeros(1, 2), torch.zeros(1, 2)))
    tensor([0.6931])
    """

    name: str = "entropy"
    layers: tuple[str, ...] = ()

    def score(self, seen: Seen) -> Tensor:
        logs = seen.logits.log_softmax(1)
        return -(logs.exp() * logs).sum(1)

    def describe(self) -> dict[str, Any]:
        return {"kind": "entropy"}

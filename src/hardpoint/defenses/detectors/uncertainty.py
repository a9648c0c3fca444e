"""How much the answers of a random model differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardpoint.core.errors import ConfigError, ModelError
from hardpoint.defenses.detectors._parts import question
from hardpoint.defenses.seen import Seen


@dataclass(frozen=True)
class PredictiveUncertainty:
    """The variance of the class probabilities over passes of a random model, summed over classes.

    It needs a model that draws, such as one whose dropout is left on. Feinman, Curtin, Shintre and Gardner, 2017,
    after Gal and Ghahramani, ICML 2016. A forward pass per pass.

    Args:
        passes: how many; the paper takes 50.

    >>> drops = torch.nn.Dropout(0.5)
    >>> seen = Seen(torch.ones(1, 4), torch.ones(1, 4), scores_of=drops)
    >>> bool(PredictiveUncertainty(30).score(seen) > 0)
    True
    """

    passes: int = 30
    name: str = "predictive uncertainty"
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.passes < 2:
            raise ConfigError(f"passes is {self.passes}", "give at least 2")

    def score(self, seen: Seen) -> Tensor:
        ask = question(seen, "predictive uncertainty")
        logits = torch.stack([ask(seen.x) for _ in range(self.passes)])
        if logits.numel() and bool((logits == logits[0]).all()):
            raise ModelError(
                f"the model's scores are the same in all {self.passes} passes, so there is no uncertainty to measure",
                "leave its dropout on, name it in allow_training, or drop this detector",
            )
        return logits.softmax(2).var(0, correction=0).sum(1)

    def describe(self) -> dict[str, Any]:
        return {"kind": "predictive-uncertainty", "passes": self.passes}

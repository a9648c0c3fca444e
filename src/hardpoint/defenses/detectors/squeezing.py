"""Feature squeezing: a benign input's answer survives being coarsened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardpoint.core.errors import ConfigError, ModelError
from hardpoint.defenses.detectors._parts import question
from hardpoint.defenses.layer import as_layer
from hardpoint.defenses.seen import Seen
from hardpoint.defenses.stage import InputStage


@dataclass(frozen=True)
class FeatureSqueezing:
    """How far, in the L1 distance of class probabilities, the farthest of the squeezers moves the answer: in [0, 2].

    All squeezed inputs go to the model in one batch, so the detector costs a forward pass per squeezer. Gradients cross
    the squeezers as these declare. Xu, Evans and Qi, NDSS 2018.

    Args:
        squeezers: input stages that coarsen: fewer bits, a median, a smoothing filter.
    """

    squeezers: tuple[InputStage, ...]
    name: str = "feature squeezing"
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.squeezers, InputStage):
            raise ConfigError("squeezers is one input stage", "give a tuple: (stage,)")
        if not self.squeezers:
            raise ConfigError("feature squeezing has no squeezer", "give at least one input stage")

    def score(self, seen: Seen) -> Tensor:
        ask = question(seen, "feature squeezing")
        squeezed = [as_layer(stage)(seen.x) for stage in self.squeezers]
        for stage, z in zip(self.squeezers, squeezed, strict=True):
            if z.shape != seen.x.shape:
                raise ModelError(
                    f"squeezer {stage.describe().get('kind')!r} changes the shape, to {tuple(z.shape)}",
                    "use stages that keep the shape",
                )
        answers = ask(torch.cat(squeezed)).softmax(1).view(len(squeezed), *seen.logits.shape)
        return (answers - seen.logits.softmax(1)).abs().sum(2).amax(0)

    def describe(self) -> dict[str, Any]:
        return {"kind": "feature-squeezing", "squeezers": [stage.describe() for stage in self.squeezers]}

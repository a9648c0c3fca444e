"""A small model with every detector fitted on it, shared by the tests of detectors and of their calibration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from hardpoint.defenses.detectors import (
    ActivationAnomaly,
    DeepNearestNeighbours,
    Energy,
    Entropy,
    FeatureSqueezing,
    KernelDensity,
    LayerDisagreement,
    LocalDimensionality,
    Mahalanobis,
    Margin,
    MaxLogit,
    NearestNeighbours,
    PredictiveUncertainty,
    ReconstructionError,
    TrainedDetector,
)
from hardpoint.defenses.looking import look
from hardpoint.defenses.seen import Detector, Seen
from hardpoint.defenses.stage import GradientPath
from small_models import Noisy, labelled, mlp, rand, randn

LAYERS = ("2", "4")
FIT = 500


@dataclass(frozen=True)
class Blend:
    """A squeezer that mixes neighbouring numbers of an input."""

    share: float
    gradient: GradientPath = GradientPath.DIFFERENTIABLE
    is_random: bool = False

    def apply(self, x: Tensor) -> Tensor:
        return (1 - self.share) * x + self.share * x.roll(1, dims=-1)

    def describe(self) -> dict[str, Any]:
        return {"kind": "blend", "share": self.share}


@dataclass(frozen=True)
class Fold:
    """A curved rebuild of inputs."""

    def error(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return (flat - (3 * flat.roll(1, dims=1)).sin()).square().mean(1)


@cache
def model(dtype: torch.dtype = torch.float64) -> nn.Module:
    return mlp(d=8, classes=4, dtype=dtype)


def benign(n: int, seed: int = 0) -> Seen:
    return look(model(), rand(n, 8, seed=seed, dtype=torch.float64), LAYERS, chunk=10_000)


@cache
def detectors() -> dict[str, Detector]:
    seen = benign(FIT, seed=11)
    y = labelled(model(), seen.x)
    noise = 0.5 * randn(FIT, 8, seed=12, dtype=torch.float64)
    attacked = look(model(), seen.x + noise, LAYERS, chunk=10_000)
    fitted: list[Detector] = [
        ActivationAnomaly.fit(seen, y, "4"),
        DeepNearestNeighbours.fit(seen, y, LAYERS, k=20),
        Energy(),
        Entropy(),
        FeatureSqueezing((Blend(0.1), Blend(0.3))),
        KernelDensity.fit(seen, y, "2"),
        LayerDisagreement.fit(seen, y, LAYERS),
        LocalDimensionality.fit(seen, y, "2"),
        Mahalanobis.fit(seen, y, "2"),
        Mahalanobis.fit(seen, y, "2", relative=True),
        Margin(),
        MaxLogit(),
        NearestNeighbours.fit(seen, y, "2", k=10),
        PredictiveUncertainty(8),
        ReconstructionError(Fold()),
        TrainedDetector.fit(seen, attacked, LAYERS),
    ]
    return {detector.name: detector for detector in fitted}


def scored(detector: Detector, seen: Seen) -> Tensor:
    """Its scores; a detector that needs a random model gets one that draws the same for the same call."""
    if not isinstance(detector, PredictiveUncertainty):
        return detector.score(seen)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(seen))
        return detector.score(replace(seen, scores_of=Noisy(model(), 0.3)))

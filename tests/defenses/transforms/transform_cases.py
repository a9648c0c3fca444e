"""One of each transform, with inputs for it: what the tests of the contract and of refusals share."""

from __future__ import annotations

import pytest
import torch

from hardpoint.defenses import (
    AdditiveNoise,
    BitDepth,
    DenoisingAutoencoder,
    GaussianSmoothing,
    GradientMasking,
    JpegCompression,
    MedianSmoothing,
    MinMaxScaling,
    NonLocalMeans,
    PcaProjection,
    QuantileEncoding,
    RandomResizePad,
    Standardise,
    ThermometerEncoding,
    TotalVariation,
)
from hardpoint.defenses.stage import InputStage
from small_models import rand

IMAGES, ROWS = rand(40, 3, 7, 6, seed=1), rand(40, 9, seed=1)

ON_IMAGES = [
    BitDepth(3),
    MedianSmoothing(3),
    MedianSmoothing(2),
    GaussianSmoothing(0.8),
    NonLocalMeans(5, 3, 0.3),
    JpegCompression(60),
    TotalVariation(0.1, steps=20),
    TotalVariation(0.1, steps=20, keep=0.5),
    RandomResizePad(0.5),
    RandomResizePad(1.0, 1.4, fill=0.25),
    AdditiveNoise(0.2),
    AdditiveNoise(0.2, "uniform"),
    GradientMasking(),
    ThermometerEncoding(5),
    PcaProjection.fit(IMAGES, 12),
    Standardise.fit(IMAGES),
    MinMaxScaling.fit(IMAGES),
    DenoisingAutoencoder.fit(IMAGES, epochs=1),
]
ON_ROWS = [
    BitDepth(3),
    AdditiveNoise(0.2),
    GradientMasking(),
    ThermometerEncoding(5),
    QuantileEncoding.fit(ROWS, 5),
    PcaProjection.fit(ROWS, 0.8),
    Standardise.fit(ROWS),
    MinMaxScaling.fit(ROWS),
    DenoisingAutoencoder.fit(ROWS, epochs=2),
]
CASES = [pytest.param(s, IMAGES[:8], id=f"{type(s).__name__}-{i}") for i, s in enumerate(ON_IMAGES)] + [
    pytest.param(s, ROWS[:8], id=f"{type(s).__name__}-rows-{i}") for i, s in enumerate(ON_ROWS)
]


def applied(stage: InputStage, x: torch.Tensor, seed: int = 5) -> torch.Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return stage.apply(x)

"""Defences that are the network itself: several that answer together, or one that draws."""

from hardpoint.defenses.descent import Schedule
from hardpoint.defenses.networks.combine import (
    Combine,
    MajorityVote,
    MeanLogits,
    MeanProbability,
    WeightedMean,
)
from hardpoint.defenses.networks.denoised import Denoised
from hardpoint.defenses.networks.distillation import distilled
from hardpoint.defenses.networks.diversity import (
    AdaptiveDiversity,
    Diversity,
    GradientAlignment,
    TransferReduction,
)
from hardpoint.defenses.networks.ensemble import Ensemble
from hardpoint.defenses.networks.noisy import DropoutAtTest, NoisyLayers, Randomness, WeightNoise, noisy
from hardpoint.defenses.networks.training import AttackedInputs, train_members

__all__ = [
    "AdaptiveDiversity",
    "AttackedInputs",
    "Combine",
    "Denoised",
    "Diversity",
    "DropoutAtTest",
    "Ensemble",
    "GradientAlignment",
    "MajorityVote",
    "MeanLogits",
    "MeanProbability",
    "NoisyLayers",
    "Randomness",
    "Schedule",
    "TransferReduction",
    "WeightNoise",
    "WeightedMean",
    "distilled",
    "noisy",
    "train_members",
]

"""What makes a model harder to break, or tells that someone tries.

A defence is an ``InputStage`` that changes what the model is shown, or a ``Detector`` that says how suspicious an input
looks. ``hp.Defended`` joins them with a model into one that can be attacked, and served, like any other. Or it is the
network itself: an ``Ensemble``, or one that is ``noisy``.
"""

from hardpoint.defenses.alarm import Alarm
from hardpoint.defenses.calibrate import calibrated
from hardpoint.defenses.latency import added_latency, latency
from hardpoint.defenses.networks import (
    AdaptiveDiversity,
    AttackedInputs,
    Denoised,
    DropoutAtTest,
    Ensemble,
    GradientAlignment,
    MajorityVote,
    MeanLogits,
    MeanProbability,
    NoisyLayers,
    Schedule,
    TransferReduction,
    WeightedMean,
    WeightNoise,
    distilled,
    noisy,
    train_members,
)
from hardpoint.defenses.transforms import (
    AdditiveNoise,
    BitDepth,
    DenoisingAutoencoder,
    GaussianSmoothing,
    GradientMasking,
    JpegCompression,
    MedianSmoothing,
    MinMaxScaling,
    NoiseKind,
    NonLocalMeans,
    PcaProjection,
    QuantileEncoding,
    RandomResizePad,
    Standardise,
    ThermometerEncoding,
    TotalVariation,
)

__all__ = [
    "AdaptiveDiversity",
    "AdditiveNoise",
    "Alarm",
    "AttackedInputs",
    "BitDepth",
    "Denoised",
    "DenoisingAutoencoder",
    "DropoutAtTest",
    "Ensemble",
    "GaussianSmoothing",
    "GradientAlignment",
    "GradientMasking",
    "JpegCompression",
    "MajorityVote",
    "MeanLogits",
    "MeanProbability",
    "MedianSmoothing",
    "MinMaxScaling",
    "NoiseKind",
    "NoisyLayers",
    "NonLocalMeans",
    "PcaProjection",
    "QuantileEncoding",
    "RandomResizePad",
    "Schedule",
    "Standardise",
    "ThermometerEncoding",
    "TotalVariation",
    "TransferReduction",
    "WeightNoise",
    "WeightedMean",
    "added_latency",
    "calibrated",
    "distilled",
    "latency",
    "noisy",
    "train_members",
]

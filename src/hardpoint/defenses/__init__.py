"""What makes a model harder to break, or tells that someone tries.

A defence is an ``InputStage`` that changes what the model is shown, or a ``Detector`` that says how suspicious an input
looks. ``hp.Defended`` joins them with a model into one that can be attacked, and served, like any other.
"""

from hardpoint.defenses.alarm import Alarm
from hardpoint.defenses.calibrate import calibrated
from hardpoint.defenses.latency import added_latency, latency
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
    "AdditiveNoise",
    "Alarm",
    "BitDepth",
    "DenoisingAutoencoder",
    "GaussianSmoothing",
    "GradientMasking",
    "JpegCompression",
    "MedianSmoothing",
    "MinMaxScaling",
    "NoiseKind",
    "NonLocalMeans",
    "PcaProjection",
    "QuantileEncoding",
    "RandomResizePad",
    "Standardise",
    "ThermometerEncoding",
    "TotalVariation",
    "added_latency",
    "calibrated",
    "latency",
]

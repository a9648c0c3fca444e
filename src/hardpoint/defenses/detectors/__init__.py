"""Detectors: how suspicious an input looks, by one idea each.

None is a defence by itself: an attacker who knows a detector can aim at it too. What it is worth is what it still
catches then, at a threshold from ``hardpoint.defenses.calibration``.
"""

from hardpoint.defenses.detectors.activations import ActivationAnomaly
from hardpoint.defenses.detectors.deep_neighbours import DeepNearestNeighbours
from hardpoint.defenses.detectors.density import KernelDensity
from hardpoint.defenses.detectors.dimensionality import LocalDimensionality
from hardpoint.defenses.detectors.disagreement import LayerDisagreement
from hardpoint.defenses.detectors.logits import Energy, Entropy, Margin, MaxLogit
from hardpoint.defenses.detectors.mahalanobis import Mahalanobis
from hardpoint.defenses.detectors.neighbours import NearestNeighbours
from hardpoint.defenses.detectors.reconstruction import ReconstructionError, Reconstructs
from hardpoint.defenses.detectors.squeezing import FeatureSqueezing
from hardpoint.defenses.detectors.trained import TrainedDetector
from hardpoint.defenses.detectors.uncertainty import PredictiveUncertainty

__all__ = [
    "ActivationAnomaly",
    "DeepNearestNeighbours",
    "Energy",
    "Entropy",
    "FeatureSqueezing",
    "KernelDensity",
    "LayerDisagreement",
    "LocalDimensionality",
    "Mahalanobis",
    "Margin",
    "MaxLogit",
    "NearestNeighbours",
    "PredictiveUncertainty",
    "ReconstructionError",
    "Reconstructs",
    "TrainedDetector",
]

"""Certificates against poisoned training data: votes of models that each learn from a part of it."""

from hardpoint.bounds.poisoning.ensemble import Assignment, PoisonCertificates, VotingEnsemble
from hardpoint.bounds.poisoning.finite import FiniteAggregation
from hardpoint.bounds.poisoning.partition import DeepPartition
from hardpoint.bounds.poisoning.radius import poison_radius
from hardpoint.bounds.poisoning.training import Labels, OfEstimator, Train

__all__ = [
    "Assignment",
    "DeepPartition",
    "FiniteAggregation",
    "Labels",
    "OfEstimator",
    "PoisonCertificates",
    "Train",
    "VotingEnsemble",
    "poison_radius",
]

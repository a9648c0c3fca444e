"""Attacks made on models of the attacker's own, in the hope that they carry over."""

from hardpoint.attacks.transfer.directions import Momentum, TranslationInvariant, VarianceTuning
from hardpoint.attacks.transfer.processor import Processor
from hardpoint.attacks.transfer.transfer import Transfer
from hardpoint.attacks.transfer.views import DiverseInput, ScaleInvariant

__all__ = [
    "DiverseInput",
    "Momentum",
    "Processor",
    "ScaleInvariant",
    "Transfer",
    "TranslationInvariant",
    "VarianceTuning",
]

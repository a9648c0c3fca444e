"""What an attacker may do: perturbation sets, goals, access, budgets."""

from hardpoint.threats.colour import Colour
from hardpoint.threats.flow import Flow
from hardpoint.threats.goals import Goal, Targeted, Untargeted
from hardpoint.threats.l0 import L0
from hardpoint.threats.l1 import L1
from hardpoint.threats.l2 import L2
from hardpoint.threats.linf import Linf
from hardpoint.threats.patch import Patch
from hardpoint.threats.perceptual import Perceptual
from hardpoint.threats.perturbation import Perturbation, Region
from hardpoint.threats.snr import SNR
from hardpoint.threats.spatial import Spatial
from hardpoint.threats.threat import Threat

__all__ = [
    "L0",
    "L1",
    "L2",
    "SNR",
    "Colour",
    "Flow",
    "Goal",
    "Linf",
    "Patch",
    "Perceptual",
    "Perturbation",
    "Region",
    "Spatial",
    "Targeted",
    "Threat",
    "Untargeted",
]

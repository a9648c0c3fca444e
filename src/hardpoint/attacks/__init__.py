"""Ways to break a model. Each is a frozen dataclass, usable alone: ``APGD(steps=100)(model, x, y, threat)``."""

from hardpoint.attacks.base import AttackResult, Passes
from hardpoint.attacks.decision.boundary import BoundaryAttack
from hardpoint.attacks.decision.geoda import GeoDA
from hardpoint.attacks.decision.hopskipjump import HopSkipJump
from hardpoint.attacks.decision.rays import RayS
from hardpoint.attacks.decision.surfree import SurFree
from hardpoint.attacks.gradient.apgd import APGD
from hardpoint.attacks.gradient.fgsm import FGSM
from hardpoint.attacks.gradient.memetic import Memetic
from hardpoint.attacks.gradient.multi_targeted import MultiTargeted
from hardpoint.attacks.gradient.pgd import PGD
from hardpoint.attacks.losses import Loss
from hardpoint.attacks.minimal.carlini_wagner import CarliniWagner
from hardpoint.attacks.minimal.ddn import DDN
from hardpoint.attacks.minimal.deepfool import DeepFool
from hardpoint.attacks.minimal.ead import EAD
from hardpoint.attacks.minimal.fab import FAB
from hardpoint.attacks.minimal.fmn import FMN
from hardpoint.attacks.minimal.pdpgd import PDPGD
from hardpoint.attacks.minimal.sigma_zero import SigmaZero
from hardpoint.attacks.minimal.superdeepfool import SuperDeepFool
from hardpoint.attacks.parametrised.ascent import ParameterAscent
from hardpoint.attacks.parametrised.search import ParameterSearch
from hardpoint.attacks.patch.placement import Poses
from hardpoint.attacks.patch.search import PatchSearch
from hardpoint.attacks.patch.single import PatchAttack
from hardpoint.attacks.patch.universal import UniversalPatch
from hardpoint.attacks.score.nes import NES
from hardpoint.attacks.score.simba import Basis, SimBA
from hardpoint.attacks.score.square import Square
from hardpoint.attacks.spatial.grid import SpatialGrid
from hardpoint.attacks.tabular import (
    CAPGD,
    MOEVA,
    CoordinateAttack,
    ExactDistances,
    LeafTupleAttack,
    TableSearch,
    caa,
    exact_distances,
)
from hardpoint.attacks.transfer import Transfer
from hardpoint.attacks.universal import UniversalPerturbation

__all__ = [
    "APGD",
    "CAPGD",
    "DDN",
    "EAD",
    "FAB",
    "FGSM",
    "FMN",
    "MOEVA",
    "NES",
    "PDPGD",
    "PGD",
    "AttackResult",
    "Basis",
    "BoundaryAttack",
    "CarliniWagner",
    "CoordinateAttack",
    "DeepFool",
    "ExactDistances",
    "GeoDA",
    "HopSkipJump",
    "LeafTupleAttack",
    "Loss",
    "Memetic",
    "MultiTargeted",
    "ParameterAscent",
    "ParameterSearch",
    "Passes",
    "PatchAttack",
    "PatchSearch",
    "Poses",
    "RayS",
    "SigmaZero",
    "SimBA",
    "SpatialGrid",
    "Square",
    "SuperDeepFool",
    "SurFree",
    "TableSearch",
    "Transfer",
    "UniversalPatch",
    "UniversalPerturbation",
    "caa",
    "exact_distances",
]

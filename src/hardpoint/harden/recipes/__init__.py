"""Ways of robust training."""

from hardpoint.harden.penalties import GradAlign, InputGradient, Jacobian, LocalLinearity, Penalty
from hardpoint.harden.recipes.atta import Atta
from hardpoint.harden.recipes.awp import Awp
from hardpoint.harden.recipes.certified import CrownIbp, Ibp, MtlIbp, Sabr
from hardpoint.harden.recipes.denoiser import Denoiser
from hardpoint.harden.recipes.distilled import Distilled
from hardpoint.harden.recipes.free import Free
from hardpoint.harden.recipes.lipschitz_margin import LipschitzMargin
from hardpoint.harden.recipes.longer import longer
from hardpoint.harden.recipes.mixed import Mixed, Noise, Plain, WorstOf
from hardpoint.harden.recipes.pgd import Pgd
from hardpoint.harden.recipes.recipe import (
    Attacked,
    Carries,
    ChecksData,
    KeepsNetwork,
    Prepares,
    Proves,
    Recipe,
    Replays,
    ShiftsWeights,
    Taught,
    Wraps,
)
from hardpoint.harden.recipes.regularised import Regularised
from hardpoint.harden.recipes.single_step import FgsmRs, NFgsm
from hardpoint.harden.recipes.trades import Mart, Trades

__all__ = [
    "Atta",
    "Attacked",
    "Awp",
    "Carries",
    "ChecksData",
    "CrownIbp",
    "Denoiser",
    "Distilled",
    "FgsmRs",
    "Free",
    "GradAlign",
    "Ibp",
    "InputGradient",
    "Jacobian",
    "KeepsNetwork",
    "LipschitzMargin",
    "LocalLinearity",
    "Mart",
    "Mixed",
    "MtlIbp",
    "NFgsm",
    "Noise",
    "Penalty",
    "Pgd",
    "Plain",
    "Prepares",
    "Proves",
    "Recipe",
    "Regularised",
    "Replays",
    "Sabr",
    "ShiftsWeights",
    "Taught",
    "Trades",
    "WorstOf",
    "Wraps",
    "longer",
]

"""Ways of robust training."""

from hardpoint.harden.recipes.atta import Atta
from hardpoint.harden.recipes.awp import Awp
from hardpoint.harden.recipes.free import Free
from hardpoint.harden.recipes.longer import longer
from hardpoint.harden.recipes.mixed import Mixed, Noise, Plain, WorstOf
from hardpoint.harden.recipes.pgd import Pgd
from hardpoint.harden.recipes.recipe import Attacked, Carries, Recipe, Replays, ShiftsWeights, Taught
from hardpoint.harden.recipes.single_step import FgsmRs, NFgsm
from hardpoint.harden.recipes.trades import Mart, Trades

__all__ = [
    "Atta",
    "Attacked",
    "Awp",
    "Carries",
    "FgsmRs",
    "Free",
    "Mart",
    "Mixed",
    "NFgsm",
    "Noise",
    "Pgd",
    "Plain",
    "Recipe",
    "Replays",
    "ShiftsWeights",
    "Taught",
    "Trades",
    "WorstOf",
    "longer",
]

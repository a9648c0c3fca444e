"""``hp.harden``: robust training, its recipes, and what it was worth."""

from hardpoint.evidence.training import Epoch
from hardpoint.harden.augment import Augmentation, Crop, Cutout, Flip, Jitter, Mixup
from hardpoint.harden.before_after import BeforeAfter
from hardpoint.harden.harden import harden
from hardpoint.harden.learner import CraftMode
from hardpoint.harden.result import HardenResult
from hardpoint.harden.settings import Training

__all__ = [
    "Augmentation",
    "BeforeAfter",
    "CraftMode",
    "Crop",
    "Cutout",
    "Epoch",
    "Flip",
    "HardenResult",
    "Jitter",
    "Mixup",
    "Training",
    "harden",
]

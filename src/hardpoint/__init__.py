"""Hardpoint: how a model breaks under attack, with evidence that can be checked.

>>> import hardpoint as hp
>>> hp.Linf(8 / 255).name
'linf-8of255'

Names load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hardpoint import attacks as attacks
    from hardpoint import defenses as defenses
    from hardpoint import models as models
    from hardpoint.assess.ablation import ablate as ablate
    from hardpoint.assess.assess import assess as assess
    from hardpoint.assess.assess import doctor as doctor
    from hardpoint.assess.groups import by_group as by_group
    from hardpoint.assess.result import Result as Result
    from hardpoint.assess.result import load_result as load_result
    from hardpoint.assess.tuning import tune as tune
    from hardpoint.certify.certify import certify as certify
    from hardpoint.defenses.defended import Defended as Defended
    from hardpoint.engine.budget import Budget as Budget
    from hardpoint.evidence.finding import Finding as Finding
    from hardpoint.evidence.finding import Severity as Severity
    from hardpoint.evidence.rate import Rate as Rate
    from hardpoint.harden import recipes as recipes
    from hardpoint.harden import tables as tables
    from hardpoint.harden.harden import harden as harden
    from hardpoint.harden.search.search import search as search
    from hardpoint.harden.settings import Training as Training
    from hardpoint.threats.colour import Colour as Colour
    from hardpoint.threats.features import FeatureEdits as FeatureEdits
    from hardpoint.threats.flow import Flow as Flow
    from hardpoint.threats.goals import Targeted as Targeted
    from hardpoint.threats.goals import Untargeted as Untargeted
    from hardpoint.threats.l0 import L0 as L0
    from hardpoint.threats.l1 import L1 as L1
    from hardpoint.threats.l2 import L2 as L2
    from hardpoint.threats.linf import Linf as Linf
    from hardpoint.threats.patch import Patch as Patch
    from hardpoint.threats.perceptual import Perceptual as Perceptual
    from hardpoint.threats.snr import SNR as SNR
    from hardpoint.threats.spatial import Spatial as Spatial
    from hardpoint.threats.threat import Threat as Threat

_HOMES = {
    "Colour": "threats.colour",
    "Flow": "threats.flow",
    "Patch": "threats.patch",
    "Perceptual": "threats.perceptual",
    "SNR": "threats.snr",
    "Spatial": "threats.spatial",
    "FeatureEdits": "threats.features",
    "Defended": "defenses.defended",
    "Result": "assess.result",
    "ablate": "assess.ablation",
    "assess": "assess.assess",
    "by_group": "assess.groups",
    "certify": "certify.certify",
    "doctor": "assess.assess",
    "harden": "harden.harden",
    "search": "harden.search.search",
    "load_result": "assess.result",
    "tune": "assess.tuning",
    "Budget": "engine.budget",
    "Finding": "evidence.finding",
    "L0": "threats.l0",
    "L1": "threats.l1",
    "L2": "threats.l2",
    "Linf": "threats.linf",
    "Rate": "evidence.rate",
    "Severity": "evidence.finding",
    "Targeted": "threats.goals",
    "Threat": "threats.threat",
    "Training": "harden.settings",
    "Untargeted": "threats.goals",
}
_PACKAGES = {
    **{name: name for name in ("attacks", "data", "defenses", "engine", "evidence")},
    **{name: name for name in ("models", "testing", "threats")},
    "recipes": "harden.recipes",
    "tables": "harden.tables",
}

__all__ = ["__version__", *sorted(_HOMES), *_PACKAGES]


class _Front(ModuleType):
    """The package, except that its verbs stay functions.

    Importing ``hardpoint.assess`` would otherwise put that sub-package in the place of ``hardpoint.assess()``.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Front


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"hardpoint.{_HOMES[name]}"), name)
    if name in _PACKAGES:
        return importlib.import_module(f"hardpoint.{_PACKAGES[name]}")
    raise AttributeError(f"module 'hardpoint' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)

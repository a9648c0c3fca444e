"""Which attacks run, in which order. Each stage meets only the inputs that still stand.

In ``fast`` mode the dear stages meet only the inputs that came close. How close is the share of the clean lead that
is left: the margin of the nearest miss over the margin of the clean input, both negative while the answer is right.
It is free, does not depend on the scale or shift of the scores or on other inputs, and tells well what a longer search
will still break (docs/cascade.md has the experiment). A twentieth of the inputs, drawn by the seed, go through every
stage however far they are: they show what the rule costs, and whether it can be trusted on this model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray

from hardpoint.attacks import (
    APGD,
    CAPGD,
    DDN,
    FAB,
    FMN,
    MOEVA,
    PGD,
    HopSkipJump,
    MultiTargeted,
    RayS,
    SigmaZero,
    Square,
    SuperDeepFool,
    SurFree,
    TableSearch,
)
from hardpoint.core.access import Access
from hardpoint.core.errors import ConfigError
from hardpoint.core.rng import Rng
from hardpoint.engine.attack import Attack
from hardpoint.threats import L0, L1, L2, Linf, Perturbation
from hardpoint.threats.features import FeatureEdits
from hardpoint.threats.threat import Threat


class Mode(Enum):
    """How hard to try.

    ``FAST``: short attacks ordered by what they break per pass. ``STANDARD``: AutoAttack's protocol (Croce and
    Hein, ICML 2020): APGD-CE, APGD-T, FAB-T and Square with its budgets. ``THOROUGH``: both on every input, with
    restarts, minimal-norm and decision-based attacks.
    """

    FAST = "fast"
    STANDARD = "standard"
    THOROUGH = "thorough"

    @classmethod
    def parse(cls, value: Mode | str) -> Mode:
        """The mode called ``value``; raises ``ConfigError`` for an unknown name."""
        try:
            return cls(value)
        except ValueError:
            raise ConfigError(f"mode {value!r} is unknown", "use fast, standard or thorough") from None


QUOTA = 0.05
"""The share of inputs that go through every stage, however far from falling."""


@dataclass(frozen=True)
class Stage:
    """One attack of a cascade, for standing inputs with at most the share ``left`` of their clean lead left.

    ``sampled`` says whether the quota meets it too.
    """

    attack: Attack
    left: float = math.inf
    sampled: bool = True

    def beyond(self, lead_left: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which inputs stand too far from falling for this stage; one whose lead is not known does not."""
        return np.asarray(lead_left > self.left)


def quota(positions: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Which inputs go through every stage: drawn for each input alone."""
    drawn = Rng(seed).fork("quota").uniform(torch.from_numpy(positions), (1,), dtype=torch.float64)
    return np.asarray(drawn[:, 0].numpy() < QUOTA)


_QUERIES = {Mode.FAST: 1000, Mode.STANDARD: 5000, Mode.THOROUGH: 20_000}


def cascade(threat: Threat, mode: Mode, classes: int | None, queries: int | None = None) -> tuple[Stage, ...]:
    """The stages for a threat.

    Args:
        threat: decides between white-box, score-based and label-based attacks.
        mode: how hard to try.
        classes: how many the model has, where known; targeted attacks have one fewer targets.
        queries: a further limit on queries per input.

    >>> from hardpoint.threats import Linf
    >>> for stage in cascade(Threat(Linf(0.1)), Mode.FAST, classes=10):
    ...     print(stage.left, stage.attack.name)
    inf PGD-margin 10
    inf APGD-ce 30
    0.5 MultiTargeted 9×5 + 3×25
    0.25 MultiTargeted 9×10 + 4×100
    0.1 Square 2000
    """
    queries = min(threat.queries or _QUERIES[mode], queries or _QUERIES[Mode.THOROUGH])
    if isinstance(threat.perturbation, FeatureEdits) and threat.access < Access.GRADIENTS:
        return (Stage(TableSearch(queries=queries, needs=threat.access)),)
    if threat.access is Access.SCORES:
        return (Stage(Square(queries=queries)),)
    if threat.access is Access.LABELS:
        return (Stage(HopSkipJump(queries=queries)),)
    return _white_box(mode, min(9, max(1, (classes or 10) - 1)), threat.perturbation)


def _white_box(mode: Mode, targets: int, perturbation: Perturbation) -> tuple[Stage, ...]:
    fast = _fast(targets, perturbation)
    if mode is Mode.FAST:
        return fast
    standard: tuple[Attack, ...] = (
        APGD(loss="ce", steps=100),
        *(APGD(loss="dlr", steps=100, target_rank=rank) for rank in range(1, targets + 1)),
        *_nearest(perturbation, targets),
        _black_box(perturbation, 5000),
    )
    if mode is Mode.STANDARD:
        return tuple(Stage(attack) for attack in standard)
    extra: tuple[Attack, ...] = (
        PGD(steps=200, loss="margin", restarts=3),
        APGD(loss="margin", steps=200),
        MultiTargeted(targets=targets, probe_steps=10, top=targets, steps=100),
        *_thorough(perturbation),
    )
    return tuple(Stage(attack) for attack in (*(s.attack for s in fast), *standard, *extra))


def _nearest(perturbation: Perturbation, targets: int) -> tuple[Attack, ...]:
    """The minimal-norm attack of the standard protocol; in L0, which FAB does not know, sigma-zero. For tables the
    constrained adaptive attack."""
    if isinstance(perturbation, FeatureEdits):
        return CAPGD(steps=100), CAPGD(steps=100, random_start=True), MOEVA(generations=100, offspring=32)
    if isinstance(perturbation, L0):
        return (SigmaZero(steps=300),)
    return (FAB(steps=100, targets=targets),) if isinstance(perturbation, Linf | L2 | L1) else ()


def _thorough(perturbation: Perturbation) -> tuple[Attack, ...]:
    """Other ideas for the inputs that are left: minimal-norm attacks, and labels alone."""
    if isinstance(perturbation, Linf):
        return FMN(steps=500), RayS(queries=2000)
    if isinstance(perturbation, L2):
        return (
            FMN(steps=500),
            DDN(steps=500),
            SuperDeepFool(),
            SurFree(queries=2000),
            HopSkipJump(queries=2000),
        )
    return (FMN(steps=500),) if isinstance(perturbation, L1 | L0) else ()


def _black_box(perturbation: Perturbation, queries: int) -> Attack:
    if isinstance(perturbation, FeatureEdits):
        return TableSearch(queries=queries)
    return Square(queries=queries, rescale=queries < 5000)


def wider(threat: Threat, mode: Mode, classes: int | None) -> tuple[Stage, ...]:
    """What runs on top of ``fast`` where the checks say that gradients mislead: the stages of ``standard``."""
    if mode is not Mode.FAST or threat.access is not Access.GRADIENTS:
        return ()
    return cascade(threat, Mode.STANDARD, classes)


def _fast(targets: int, perturbation: Perturbation) -> tuple[Stage, ...]:
    """Orders, lengths and limits come from the experiment in docs/cascade.md."""
    probes: tuple[Attack, Attack] = (APGD(loss="margin", steps=75), APGD(loss="margin", steps=400))
    if targets > 1:
        probes = (
            MultiTargeted(targets=targets, probe_steps=5, top=min(3, targets), steps=25),
            MultiTargeted(targets=targets, probe_steps=10, top=min(4, targets), steps=100),
        )
    own: tuple[Attack, ...] = (SigmaZero(steps=100),) if isinstance(perturbation, L0) else ()
    if isinstance(perturbation, FeatureEdits):
        own = (CAPGD(steps=20), CAPGD(steps=20, random_start=True))
    return (
        Stage(PGD(steps=10, loss="margin", decay=True)),
        Stage(APGD(loss="ce", steps=30)),
        *(Stage(attack) for attack in own),
        Stage(probes[0], left=0.5),
        Stage(probes[1], left=0.25),
        Stage(_black_box(perturbation, 2000), left=0.1, sampled=False),
    )

"""Which attacks run, in which order. Each stage meets only the inputs that still stand.

The dear stages of ``fast`` and ``standard`` meet only the inputs that came close. How close is the share of the clean
lead that is left: the margin of the nearest miss over the margin of the clean input, both negative while the answer is
right. It is free, does not depend on the scale or shift of the scores or on other inputs, and tells well what a longer
search will still break (docs/cascade.md has the experiment). A twentieth of the inputs, drawn by the seed, go through
every stage however far they are: they show what the rule costs, and whether it can be trusted on this model.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray

from hardpoint.assess.arsenal import arsenal_for
from hardpoint.assess.stage import Stage, everyone
from hardpoint.attacks.transfer import Momentum, Transfer, VarianceTuning
from hardpoint.core.access import Access
from hardpoint.core.errors import ConfigError
from hardpoint.core.rng import Rng
from hardpoint.models.base import Differentiable
from hardpoint.threats.threat import Threat


class Mode(Enum):
    """How hard to try.

    ``FAST``: short attacks ordered by what they break per pass. ``STANDARD``: then AutoAttack's (Croce and Hein, ICML
    2020) with its budgets: APGD-CE, APGD-T, FAB-T and Square. ``THOROUGH``: all of them on every input, however far it
    stands, with restarts, minimal-norm and decision-based attacks.
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


def quota(positions: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Which inputs go through every stage: drawn for each input alone."""
    drawn = Rng(seed).fork("quota").uniform(torch.from_numpy(positions), (1,), dtype=torch.float64)
    return np.asarray(drawn[:, 0].numpy() < QUOTA)


_QUERIES = {Mode.FAST: 1000, Mode.STANDARD: 5000, Mode.THOROUGH: 20_000}


def cascade(
    threat: Threat,
    mode: Mode,
    classes: int | None,
    queries: int | None = None,
    surrogates: tuple[Differentiable, ...] = (),
) -> tuple[Stage, ...]:
    """The stages for a threat.

    Args:
        threat: decides between white-box, score-based and label-based attacks.
        mode: how hard to try.
        classes: how many the model has, where known; targeted attacks have one fewer targets.
        queries: a further limit on queries per input.
        surrogates: the attacker's own models. What they break costs an attacker without gradients a query, so
            transfer comes first there; with gradients it is one more idea of ``thorough``.

    >>> from hardpoint.threats import Linf
    >>> for stage in cascade(Threat(Linf(0.1)), Mode.FAST, classes=10):
    ...     print(stage.left, stage.attack.name)
    inf PGD-margin 10
    inf APGD-ce 30
    0.5 MultiTargeted 9×5 + 3×25
    0.25 MultiTargeted 9×10 + 4×100
    0.1 Memetic 4 × (500 + 25)
    0.3 Memetic 4 × (500 + 25)
    """
    arsenal, thorough = arsenal_for(threat.perturbation, classes), mode is Mode.THOROUGH
    transfer = transfers(surrogates)
    if threat.access is Access.GRADIENTS:
        stages = arsenal.fast()
        if mode is not Mode.FAST:
            stages += arsenal.further()
        if thorough:
            attacks = (*(stage.attack for stage in stages), *arsenal.extra(), *transfer)
            stages = everyone(*dict.fromkeys(attacks))
        if getattr(threat.goal, "refusal", None) is None:
            return stages
        sparing = [i for i, stage in enumerate(stages) if not stage.meets_all]
        first = sparing[0] if sparing else len(stages)
        return (*stages[:first], *everyone(*arsenal.evasions()), *stages[first:])
    left = threat.queries or _QUERIES[mode]
    left = left if queries is None else min(left, queries)
    left = max(1, left - sum(attack.queries for attack in transfer))
    find = arsenal.by_scores if threat.access is Access.SCORES else arsenal.by_labels
    return everyone(*transfer, *find(left, thorough=thorough))


def transfers(surrogates: tuple[Differentiable, ...]) -> tuple[Transfer, ...]:
    """Attacks through the attacker's own models: with momentum alone, which suits models that are alike, and with
    gradients averaged around the point, which suits those that are not."""
    if not surrogates:
        return ()
    steadier = (Momentum(1.0, nesterov=True), VarianceTuning(neighbours=5))
    return (
        Transfer(surrogates, steps=20, ask_every=5),
        Transfer(surrogates, processors=steadier, steps=20, ask_every=5),
    )


def wider(threat: Threat, mode: Mode, classes: int | None) -> tuple[Stage, ...]:
    """What runs on top where the checks say that the search was misled: the attacks of ``standard``, this time on every
    input that has not met them."""
    if threat.access is not Access.GRADIENTS:
        return ()
    whole = [stage.attack for stage in cascade(threat, mode, classes) if stage.meets_all]
    attacks = dict.fromkeys(stage.attack for stage in cascade(threat, Mode.STANDARD, classes))
    return everyone(*(attack for attack in attacks if attack not in whole))

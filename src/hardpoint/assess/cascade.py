"""Which attacks run, in which order. Each stage meets only the inputs that still stand."""

from __future__ import annotations

from enum import Enum

from hardpoint.attacks import APGD, PGD, HopSkipJump, MultiTargeted, Square, TableSearch
from hardpoint.core.access import Access
from hardpoint.core.errors import ConfigError
from hardpoint.engine.attack import Attack
from hardpoint.threats.features import FeatureEdits
from hardpoint.threats.threat import Threat


class Mode(Enum):
    """How hard to try.

    ``FAST``: short attacks ordered by what they break per pass. ``STANDARD``: AutoAttack's protocol (Croce and
    Hein, ICML 2020) as far as built: APGD-CE, APGD-T and Square with its budgets. ``THOROUGH``: both, with
    restarts and a decision-based attack.
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


_QUERIES = {Mode.FAST: 1000, Mode.STANDARD: 5000, Mode.THOROUGH: 20_000}


def cascade(
    threat: Threat, mode: Mode, classes: int | None, queries: int | None = None
) -> tuple[Attack, ...]:
    """The stages for a threat.

    Args:
        threat: decides between white-box, score-based and label-based attacks.
        mode: how hard to try.
        classes: how many the model has, where known; targeted attacks have one fewer targets.
        queries: a further limit on queries per input.

    >>> from hardpoint.threats import Linf
    >>> [a.name for a in cascade(Threat(Linf(0.1)), Mode.FAST, classes=10)]
    ['PGD-margin 10', 'APGD-ce 30', 'MultiTargeted 9×5 + 3×25']
    """
    queries = min(threat.queries or _QUERIES[mode], queries or _QUERIES[Mode.THOROUGH])
    if isinstance(threat.perturbation, FeatureEdits) and threat.access < Access.GRADIENTS:
        return (TableSearch(queries=queries, needs=threat.access),)
    if threat.access is Access.SCORES:
        return (Square(queries=queries),)
    if threat.access is Access.LABELS:
        return (HopSkipJump(queries=queries),)
    return _white_box(mode, max(1, (classes or 10) - 1), isinstance(threat.perturbation, FeatureEdits))


def _white_box(mode: Mode, wrong_classes: int, table: bool) -> tuple[Attack, ...]:
    targets = min(9, wrong_classes)
    fast: tuple[Attack, ...] = (PGD(steps=10, loss="margin", decay=True), APGD(loss="ce", steps=30))
    if targets > 1:
        fast += (MultiTargeted(targets=targets, probe_steps=5, top=min(3, targets), steps=25),)
    else:
        fast += (APGD(loss="margin", steps=75),)
    if mode is Mode.FAST:
        return fast
    black_box: Attack = TableSearch(queries=5000) if table else Square(queries=5000, rescale=False)
    standard: tuple[Attack, ...] = (
        APGD(loss="ce", steps=100),
        *(APGD(loss="dlr", steps=100, target_rank=rank) for rank in range(1, targets + 1)),
        black_box,
    )
    if mode is Mode.STANDARD:
        return standard
    extra: tuple[Attack, ...] = (PGD(steps=200, loss="margin", restarts=3), APGD(loss="margin", steps=200))
    return (*fast, *standard, *extra, *(() if table else (HopSkipJump(queries=2000),)))

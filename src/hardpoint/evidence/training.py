"""What happened in a robust training, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

TRAINING_SCHEMA_VERSION = 1
BEFORE, AFTER = "before", "after"
"""The two moments: alone, or before a threat's name, what assessments around a training are called."""


def moment_names(moment: str, threats: Sequence[str]) -> tuple[str, ...]:
    """What the assessments at a ``moment`` are called, one for each of the ``threats``, given by name.

    >>> moment_names(BEFORE, ["linf-0.1"]), moment_names(AFTER, ["linf-0.1", "l2-1"])
    (('before',), ('after-linf-0.1', 'after-l2-1'))
    """
    return (moment,) if len(threats) == 1 else tuple(f"{moment}-{threat}" for threat in threats)


def moment_of(name: str) -> str | None:
    """``BEFORE`` or ``AFTER``, for an assessment of that ``name``; None for any other.

    >>> moment_of("after-linf-0.1"), moment_of("linf-0.1")
    ('after', None)
    """
    moment = name.partition("-")[0]
    return moment if moment in (BEFORE, AFTER) else None


@dataclass(frozen=True)
class Epoch:
    """One pass over the data.

    Attributes:
        number: from 1.
        recipe: what was trained with at its end.
        loss: mean over its updates.
        attacked: the share of the examples learned from that were classified right.
        clean, robust: accuracy on the inputs held back, as they are and under a short attack; None without any.
        lr: the last step size.
        seconds: that it took, validation included.
        alignment: how far the slopes before and after a single step agree, -1 to 1; None for longer searches.
        alarms: how often single steps stopped working and training went back.
    """

    number: int
    recipe: str
    loss: float
    attacked: float
    clean: float | None
    robust: float | None
    lr: float
    seconds: float
    alignment: float | None = None
    alarms: int = 0

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Epoch:
        """The epoch that ``to_json`` told."""
        return cls(**value)


def best_epoch(history: tuple[Epoch, ...]) -> Epoch | None:
    """The one most robust on the inputs held back, or most accurate where no attack counts, the earliest of equals; the
    last where nothing was held back."""
    if not history:
        return None
    known = [epoch for epoch in history if epoch.robust is not None or epoch.clean is not None]
    return max(known, key=lambda e: (e.robust or 0.0, e.clean or 0.0, -e.number)) if known else history[-1]


@dataclass(frozen=True)
class TrainingRecord:
    """A robust training, finished or under way.

    Attributes:
        recipe: what was asked for, in words.
        units: what it was to cost, ordinary training being 1.
        planned: how many epochs were planned.
        epochs: those that are done.
    """

    recipe: str
    units: float
    planned: int
    epochs: tuple[Epoch, ...]

    @property
    def kept(self) -> Epoch | None:
        """The epoch whose weights are kept."""
        return best_epoch(self.epochs)

    @property
    def seconds(self) -> float:
        """Time spent."""
        return sum(epoch.seconds for epoch in self.epochs)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        told = {"recipe": self.recipe, "units": self.units, "planned": self.planned}
        epochs = [epoch.to_json() for epoch in self.epochs]
        return {"schema": TRAINING_SCHEMA_VERSION, **told, "epochs": epochs}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainingRecord:
        """The record that ``to_json`` told; raises ``KeyError``, ``TypeError`` or ``ValueError`` for anything else."""
        epochs = tuple(Epoch.from_json(epoch) for epoch in value["epochs"])
        return cls(str(value["recipe"]), float(value["units"]), int(value["planned"]), epochs)

"""What a search for an architecture tried, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hardpoint.evidence.rate import Rate

SEARCH_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Trial:
    """One network that was trained.

    Attributes:
        number: 0 for the baseline, then from 1.
        network: what says how it is made; empty for the baseline, which is as it was given.
        words: the same, for people.
        weights, operations: numbers that it learns, and multiplications with an addition for one input.
        curve: accuracy under a short attack on the inputs held back, epoch by epoch; shorter where it was given up.
        clean, robust: on the inputs that trials are judged by; None where it was given up.
        seconds: that it took.
        problem: why it could not be trained; empty where it could.
    """

    number: int
    network: dict[str, Any]
    words: str
    weights: int
    operations: int
    curve: tuple[float, ...]
    clean: Rate | None
    robust: Rate | None
    seconds: float
    problem: str = ""

    @property
    def outcome(self) -> str:
        """In a word."""
        return "failed" if self.problem else "given up" if self.robust is None else "finished"

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        rates = {
            "clean": self.clean and self.clean.describe(),
            "robust": self.robust and self.robust.describe(),
        }
        return {**asdict(self), "curve": list(self.curve), **rates}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Trial:
        """The trial that ``to_json`` told."""
        rates = {key: Rate.read(value[key]) if value[key] else None for key in ("clean", "robust")}
        counts = {key: int(value[key]) for key in ("number", "weights", "operations")}
        if bool(value["network"]) != bool(counts["number"]):
            raise ValueError("a trial does not say what it trained")
        curve = tuple(float(robust) for robust in value["curve"])
        return cls(**{**value, "network": dict(value["network"]), **counts, "curve": curve, **rates})


@dataclass(frozen=True)
class SearchRecord:
    """A search, finished or under way.

    Attributes:
        threat: what networks were to hold under, in words.
        recipe: what they were trained by.
        epochs: of a whole training.
        planned: how many trials besides the baseline.
        weights, operations: the limits.
        trials: those that are done, by number.
    """

    threat: str
    recipe: str
    epochs: int
    planned: int
    weights: int
    operations: int
    trials: tuple[Trial, ...]

    @property
    def baseline(self) -> Trial | None:
        """The network that was given, trained like the others."""
        return next((trial for trial in self.trials if trial.number == 0), None)

    @property
    def found(self) -> Trial | None:
        """The most robust of the others, the smallest of equals."""
        known = [trial for trial in self.trials if trial.number and trial.robust is not None]
        return max(
            known, key=lambda t: (t.robust.value if t.robust else 0, -t.weights, -t.number), default=None
        )

    @property
    def front(self) -> tuple[Trial, ...]:
        """Those that no other beats in robust accuracy at as few operations, the cheapest first."""
        kept: list[Trial] = []
        known = [t for t in self.trials if t.robust is not None]
        for trial in sorted(known, key=lambda t: (t.operations, -(t.robust.value if t.robust else 0))):
            if not kept or (trial.robust and kept[-1].robust and trial.robust.value > kept[-1].robust.value):
                kept.append(trial)
        return tuple(kept)

    @property
    def seconds(self) -> float:
        """Time spent in trials."""
        return sum(trial.seconds for trial in self.trials)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        trials = [trial.to_json() for trial in self.trials]
        return {"schema": SEARCH_SCHEMA_VERSION, **{**asdict(self), "trials": trials}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SearchRecord:
        """The record that ``to_json`` told; raises ``KeyError``, ``TypeError`` or ``ValueError`` for anything else."""
        known = {key: held for key, held in value.items() if key not in ("schema", "trials")}
        return cls(**known, trials=tuple(Trial.from_json(trial) for trial in value["trials"]))

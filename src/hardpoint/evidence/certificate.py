"""What was proven, input by input: the record that reports and gates read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from hardpoint.evidence.assessment import Verdict
from hardpoint.evidence.rate import Rate

CERTIFICATES_SCHEMA_VERSION = 1


class Standing(StrEnum):
    """What is known of one input."""

    ROBUST = "robust"
    VULNERABLE = "vulnerable"
    UNKNOWN = "unknown"
    MISTAKEN = "mistaken"  # wrong already where nothing is changed


class Level(StrEnum):
    """For which network a proof holds.

    ``REAL``: for the network in exact arithmetic, by bounds in float64 whose own rounding an allowance stands for.
    ``RIGOROUS``: for the network in exact arithmetic, with every rounding of the bounds accounted for.
    ``DEPLOYED``: for the network as float32 computes it, layer by layer, in whatever order it sums.
    """

    REAL = "real"
    RIGOROUS = "rigorous"
    DEPLOYED = "deployed"

    @property
    def words(self) -> str:
        """What it covers, for reports."""
        return {
            Level.REAL: "the network in exact arithmetic; rounding of the bounds by an allowance",
            Level.RIGOROUS: "the network in exact arithmetic; every rounding of the bounds counted",
            Level.DEPLOYED: "the network as float32 computes it, in any order of summation",
        }[self]


@dataclass(frozen=True)
class Certificate:
    """What is known of one input, and how.

    Attributes:
        index: of the input.
        label: the class that is to stand.
        standing: see ``Standing``.
        bound: the least that the score of ``label`` is above every other, in units of the scores, over all allowed
            changes; NaN where no bound was computed. Above 0 proves the input robust.
        stage: which stage decided, or came last.
        seconds: that were spent on it by itself, a batch's time shared out evenly.
        reason: why it is unknown.
    """

    index: int
    label: int
    standing: Standing
    bound: float = math.nan
    stage: str = ""
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class StageOutcome:
    """What one stage did to the inputs that it met.

    Attributes:
        name: of the stage.
        inputs: that met it.
        proven, broken: what became of them.
        seconds: of the clock.
    """

    name: str
    inputs: int
    proven: int
    broken: int
    seconds: float


@dataclass(frozen=True)
class CertificateRecord:
    """All certificates of one run, for one threat.

    Attributes:
        name: of the threat, as folders are named.
        threat: what the attacker may change, in words and numbers.
        level: for which network the proofs hold.
        method: how far the stages were to go.
        seconds_per_input: what branch and bound might spend on one.
        stages: in order.
        certificates: one per input.
        notes: what a reader must know besides.
        gate: the proven share asked for; None for none.
        model, data: what they say of themselves.
    """

    name: str
    threat: dict[str, Any]
    level: Level
    method: str
    seconds_per_input: float
    stages: tuple[StageOutcome, ...]
    certificates: tuple[Certificate, ...]
    notes: tuple[str, ...] = ()
    gate: float | None = None
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    def count(self, *standings: Standing) -> int:
        """How many inputs stand so."""
        return sum(each.standing in standings for each in self.certificates)

    @property
    def clean(self) -> Rate:
        """Share of inputs that are right where nothing is changed."""
        n = len(self.certificates)
        return Rate.of(n - self.count(Standing.MISTAKEN), n)

    @property
    def certified(self) -> Rate:
        """Share of inputs proven robust: robust accuracy is at least this."""
        return Rate.of(self.count(Standing.ROBUST), len(self.certificates))

    @property
    def unbroken(self) -> Rate:
        """Share of inputs that no point was found to break: robust accuracy is at most this."""
        return Rate.of(self.count(Standing.ROBUST, Standing.UNKNOWN), len(self.certificates))

    @property
    def seconds(self) -> float:
        """Of the clock, all stages together."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def verdict(self) -> Verdict:
        """Passes where the proven share reaches the gate, or none was set; fails where it could not even if all that is
        unknown were proven; between them nothing is decided."""
        if self.gate is None or self.certified.value >= self.gate:
            return Verdict.PASS
        return Verdict.FAIL if self.unbroken.value < self.gate else Verdict.WARN

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "schema": CERTIFICATES_SCHEMA_VERSION,
            **{part.name: getattr(self, part.name) for part in fields(self) if part.name not in _NESTED},
            "stages": [asdict(stage) for stage in self.stages],
            "certificates": [asdict(each) for each in self.certificates],
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CertificateRecord:
        """The inverse of ``as_json``.

        Raises:
            KeyError, TypeError, ValueError: for anything else.
        """
        return cls(
            name=value["name"],
            threat=value["threat"],
            level=Level(value["level"]),
            method=value["method"],
            seconds_per_input=value["seconds_per_input"],
            stages=tuple(StageOutcome(**stage) for stage in value["stages"]),
            certificates=tuple(_certificate(each) for each in value["certificates"]),
            notes=tuple(value["notes"]),
            gate=value["gate"],
            model=value["model"],
            data=value["data"],
        )


_NESTED = ("stages", "certificates", "notes")


def _certificate(value: dict[str, Any]) -> Certificate:
    bound = math.nan if value["bound"] is None else value["bound"]
    return Certificate(**{**value, "standing": Standing(value["standing"]), "bound": bound})


def merged(stages: Sequence[StageOutcome]) -> tuple[StageOutcome, ...]:
    """Stages of the same name as one, in the order in which they first came."""
    found: dict[str, StageOutcome] = {}
    for stage in stages:
        before = found.get(stage.name, StageOutcome(stage.name, 0, 0, 0, 0.0))
        found[stage.name] = StageOutcome(
            stage.name,
            before.inputs + stage.inputs,
            before.proven + stage.proven,
            before.broken + stage.broken,
            before.seconds + stage.seconds,
        )
    return tuple(found.values())

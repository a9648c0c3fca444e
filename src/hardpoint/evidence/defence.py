"""What is known of a model's defences: what each part costs, what it is worth, and what its thresholds do."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from hardpoint.evidence.rate import Rate


class Worth(Enum):
    """``ADDS``: inputs that fall without it stand with it, more than chance explains. ``NOTHING``: they do not.
    ``HIDES``: nor do they, yet it looks so to an attacker who does not know it. ``HARMS``: more fall with it.
    """

    ADDS = "adds"
    NOTHING = "adds nothing"
    HIDES = "hides"
    HARMS = "harms"


class PartKind(Enum):
    """Where a part stands: before the network, beside it, or as several parts taken together."""

    STAGE = "stage"
    DETECTOR = "detector"
    STACK = "stack"


@dataclass(frozen=True)
class PartRecord:
    """One part of a defence by itself, or several together.

    Attributes:
        name: of the part.
        kind: where it stands.
        how: how gradients cross a stage, or what is guaranteed of a detector's false alarms, in words.
        clean: inputs answered right, and accepted, without an attack.
        refused: inputs refused without an attack; None where the part cannot refuse.
        naive: those that stand against examples made for the undefended model. Never shown without ``adaptive``.
        adaptive: those that stand against an attacker who knows the part.
        worth: what the difference to the model without it says.
        added_ms: milliseconds per input on top of the undefended model; None where not measured.
        assessment: the name of the adaptive assessment.
    """

    name: str
    kind: PartKind
    how: str
    clean: Rate
    refused: Rate | None
    naive: Rate
    adaptive: Rate
    worth: Worth
    added_ms: float | None
    assessment: str


@dataclass(frozen=True)
class ThresholdRecord:
    """One threshold of one detector, or those of several together, with exact 95 % intervals.

    Attributes:
        detector: its name.
        alpha: the share of benign inputs that may be refused.
        threshold: inputs whose score exceeds it are refused; None where several detectors have one each, and where
            there are too few benign inputs to enforce any.
        guarantee: what is guaranteed of false alarms, in words; or why nothing is.
        false_positives: the share refused of benign inputs that neither fitted nor calibrated anything; None where
            nothing is enforced.
        caught_naive: the share refused of inputs that someone who ignores the detector led astray; None where not
            measured.
        caught_adaptive: of inputs that can be led astray, the share for which someone who attacks the detector too
            found nothing accepted; None where not measured.
        added_ms: milliseconds per input that the detector adds; None where not measured.
        needed: where there are too few benign inputs, how many it takes to calibrate; else None.
    """

    detector: str
    alpha: float
    threshold: float | None
    guarantee: str
    false_positives: Rate | None
    caught_naive: Rate | None
    caught_adaptive: Rate | None
    added_ms: float | None
    needed: int | None = None

    def describe(self) -> dict[str, Any]:
        """JSON-ready; what was not measured is null."""
        return _plain(self)


@dataclass(frozen=True)
class DefenceRecord:
    """All that was measured of one defended model under one threat.

    Attributes:
        stack: the names of its parts in order: stages, ``"network"``, detectors.
        threat: the threat's ``describe()``.
        clean, robust: accuracies of the undefended model.
        parts: each part alone, the last row all together; empty where not measured.
        thresholds: what other thresholds would do; empty where not measured.
    """

    stack: tuple[str, ...]
    threat: dict[str, Any]
    clean: Rate
    robust: Rate
    parts: tuple[PartRecord, ...] = ()
    thresholds: tuple[ThresholdRecord, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "stack": list(self.stack),
            "threat": self.threat,
            "clean": self.clean.describe(),
            "robust": self.robust.describe(),
            "parts": [_plain(part) for part in self.parts],
            "thresholds": [_plain(row) for row in self.thresholds],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> DefenceRecord:
        """The inverse of ``to_json``."""
        return cls(
            tuple(value["stack"]),
            value["threat"],
            Rate.read(value["clean"]),
            Rate.read(value["robust"]),
            tuple(
                PartRecord(**{**_read(part), "kind": PartKind(part["kind"]), "worth": Worth(part["worth"])})
                for part in value["parts"]
            ),
            tuple(ThresholdRecord(**_read(row)) for row in value["thresholds"]),
        )


_RATES = ("clean", "refused", "naive", "adaptive", "false_positives", "caught_naive", "caught_adaptive")


def _plain(row: PartRecord | ThresholdRecord) -> dict[str, Any]:
    held = {f.name: getattr(row, f.name) for f in fields(row)}
    return {
        name: value.describe()
        if isinstance(value, Rate)
        else value.value
        if isinstance(value, Enum)
        else value
        for name, value in held.items()
    }


def _read(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: Rate.read(value) if name in _RATES and value is not None else value
        for name, value in row.items()
    }

"""What is known of a model's defences: what each part costs, what it is worth, and what its thresholds do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

from hardpoint.evidence.rate import Rate

DEFENCE_SCHEMA_VERSION = 1


class Worth(Enum):
    """``ADDS``: inputs that fall without it stand with it, more than chance explains. ``NOTHING``: they do not.
    ``HIDES``: nor do they, yet it looks so to an attacker who does not know it. ``HARMS``: more fall with it.
    """

    ADDS = "adds"
    NOTHING = "adds nothing"
    HIDES = "hides"
    HARMS = "harms"


class PartKind(Enum):
    """Where a part stands: before the network, the network itself, beside it; or several parts taken together."""

    STAGE = "stage"
    NETWORK = "network"
    DETECTOR = "detector"
    STACK = "stack"


@dataclass(frozen=True)
class StackPart:
    """What an input meets on its way to an answer.

    Attributes:
        name: of the stage, network or detector.
        kind: which of them it is.
        gradient: how the attacker's gradient crosses it, in words.
        guarantee: what is guaranteed of a detector's false alarms, in words; empty where nothing is.
    """

    name: str
    kind: PartKind
    gradient: str
    guarantee: str = ""


@dataclass(frozen=True)
class PartRecord:
    """One part of a defence by itself, or several together.

    Attributes:
        name: of the part.
        kind: where it stands.
        against: the name of the part without which it is judged; None for the undefended model.
        clean: inputs answered right, and accepted, without an attack.
        refused: inputs refused without an attack; None where the part cannot refuse.
        naive: those that stand against examples made for the undefended model. Never shown without ``adaptive``.
        adaptive: those that stand against an attacker who knows the part.
        won, lost: how many inputs stand only with it, and only without it.
        worth: what that says.
        added_ms: milliseconds per input on top of what it is judged against; None where not measured.
        assessment: the name of the adaptive assessment.
        doubts: why fewer may stand than ``adaptive`` says, one line each.
    """

    name: str
    kind: PartKind
    against: str | None
    clean: Rate
    refused: Rate | None
    naive: Rate
    adaptive: Rate
    won: int
    lost: int
    worth: Worth
    added_ms: float | None
    assessment: str
    doubts: tuple[str, ...] = ()


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
        held: dict[str, Any] = _plain(self)
        return held


@dataclass(frozen=True)
class DefenceRecord:
    """All that was measured of one defended model under one threat.

    Attributes:
        stack: its parts in order: stages, the network, detectors.
        threat: the threat's ``describe()``.
        clean, robust: accuracies of the undefended model.
        parts: each part alone, the last row all together; empty where not measured.
        thresholds: what other thresholds would do; empty where not measured.
        assessment: the name of the undefended model's assessment.
        doubts: why that model's robust accuracy may be lower, one line each.
    """

    stack: tuple[StackPart, ...]
    threat: dict[str, Any]
    clean: Rate
    robust: Rate
    parts: tuple[PartRecord, ...] = ()
    thresholds: tuple[ThresholdRecord, ...] = ()
    assessment: str = ""
    doubts: tuple[str, ...] = ()

    def without(self, part: PartRecord) -> Rate:
        """What stands without ``part``, against an attacker who knows what is left."""
        known = {p.name: p.adaptive for p in self.parts}
        return self.robust if part.against is None else known[part.against]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"schema": DEFENCE_SCHEMA_VERSION, **_plain(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> DefenceRecord:
        """The inverse of ``to_json``.

        Raises:
            KeyError, TypeError, ValueError: for what is no record.
        """
        made = cls(
            stack=tuple(StackPart(**{**part, "kind": PartKind(part["kind"])}) for part in value["stack"]),
            threat=dict(value["threat"]),
            clean=Rate.read(value["clean"]),
            robust=Rate.read(value["robust"]),
            parts=tuple(PartRecord(**_read(part)) for part in value["parts"]),
            thresholds=tuple(ThresholdRecord(**_read(row)) for row in value["thresholds"]),
            assessment=value["assessment"],
            doubts=tuple(value["doubts"]),
        )
        names = {part.name for part in made.parts}
        strangers = [p.against for p in made.parts if p.against is not None and p.against not in names]
        if strangers:
            raise ValueError(f"there is no part {strangers[0]!r}")
        return made


_READERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(
        ("clean", "refused", "naive", "adaptive", "false_positives", "caught_naive", "caught_adaptive"),
        Rate.read,
    ),
    "kind": PartKind,
    "worth": Worth,
    "doubts": tuple,
}


def _read(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _READERS[name](value) if name in _READERS and value is not None else value
        for name, value in row.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Rate):
        return value.describe()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return value

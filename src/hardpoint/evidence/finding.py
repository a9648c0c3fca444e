"""Something a person must know, with a stable id, what was measured and the cure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

from hardpoint.evidence.catalogue import RULES


class Severity(IntEnum):
    """How much a finding weighs: notes inform, warnings weaken a number, failures void it."""

    NOTE = 1
    WARNING = 2
    FAIL = 3

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        id: stable id, ``HP101`` and so on; its rule is in the catalogue.
        severity: see ``Severity``.
        message: what was found, naming the layer, row, key or stage.
        cure: what to do about it.
        measured: the number the finding rests on, where there is one.
        threshold: the number it was compared with.

    >>> finding("HP105", "3 of 64 answers changed between two passes", measured=3 / 64).title
    'The model is random'
    """

    id: str
    severity: Severity
    message: str
    cure: str
    measured: float | None = None
    threshold: float | None = None

    @property
    def title(self) -> str:
        """The rule's title."""
        return RULES[self.id].title

    def __str__(self) -> str:
        return f"{self.id} {self.severity.word}: {self.message}; {self.cure}"

    def describe(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**asdict(self), "severity": self.severity.word, "title": self.title}

    @classmethod
    def read(cls, value: dict[str, Any]) -> Finding:
        """The inverse of ``describe``."""
        return cls(
            value["id"],
            Severity[value["severity"].upper()],
            value["message"],
            value["cure"],
            value.get("measured"),
            value.get("threshold"),
        )


def finding(
    rule_id: str,
    message: str,
    *,
    severity: Severity | None = None,
    cure: str | None = None,
    measured: float | None = None,
    threshold: float | None = None,
) -> Finding:
    """A finding under a catalogue rule; severity and cure default to the rule's."""
    rule = RULES[rule_id]
    return Finding(
        rule_id,
        severity if severity is not None else Severity[rule.severity.upper()],
        message,
        cure or rule.cure,
        measured,
        threshold,
    )

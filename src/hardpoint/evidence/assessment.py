"""What one assessment found: the record that reports, gates and comparisons read.

Everything here is plain data. The per-input part is a table of arrays, the rest is JSON.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardpoint.evidence.finding import Finding, Severity
from hardpoint.evidence.rate import Rate

SCHEMA_VERSION = 1


class Status(IntEnum):
    """What became of one input."""

    CLEAN_ERROR = 0
    BROKEN = 1
    STANDING = 2
    UNFINISHED = 3  # the budget ran out first; counts as standing, and a finding says so


class Verdict(IntEnum):
    """The outcome of a check or a gate."""

    PASS = 0
    WARN = 1
    FAIL = 2
    NOT_RUN = 3

    @property
    def word(self) -> str:
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Outcomes:
    """One row per input, in data order.

    ``stage`` is the 0-based stage that broke the input, -1 where none did. ``distance`` is that of the
    adversarial example in the perturbation's unit, NaN where there is none. ``forward``, ``backward`` and
    ``queries`` count what the attacks spent on the input.
    """

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    clean_prediction: NDArray[np.int64]
    final_prediction: NDArray[np.int64]
    status: NDArray[np.uint8]
    stage: NDArray[np.int16]
    distance: NDArray[np.float64]
    forward: NDArray[np.int64]
    backward: NDArray[np.int64]
    queries: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Column name to array."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def broken(self) -> NDArray[np.bool_]:
        """Misclassified after the attack; clean errors count as broken."""
        return np.isin(self.status, (Status.CLEAN_ERROR, Status.BROKEN))


@dataclass(frozen=True)
class StageRecord:
    """What one stage of a cascade did: ``inputs`` entered, ``broken`` fell (verified).

    ``spared`` inputs stood too far from falling to enter; ``sampled`` of those that entered stood as far and were drawn
    to show what that spares, and ``sampled_broken`` of them fell.
    """

    name: str
    inputs: int
    broken: int
    forward: int
    backward: int
    queries: int
    seconds: float
    spared: int = 0
    sampled: int = 0
    sampled_broken: int = 0


@dataclass(frozen=True)
class CurvePoint:
    """Robust accuracy at one ``x`` (a budget eps, or a number of queries per input)."""

    x: float
    rate: Rate


@dataclass(frozen=True)
class Check:
    """One check of the attack's own strength."""

    id: str
    name: str
    measured: float | None
    threshold: float | None
    verdict: Verdict
    explanation: str


@dataclass(frozen=True)
class Examples:
    """Some broken inputs with their adversarial examples, for people to look at; ``[m, ...]`` each."""

    index: NDArray[np.int64]
    original: NDArray[Any]
    adversarial: NDArray[Any]
    label: NDArray[np.int64]
    clean_prediction: NDArray[np.int64]
    final_prediction: NDArray[np.int64]
    distance: NDArray[np.float64]


@dataclass(frozen=True)
class Assessment:
    """The record of one model under one threat.

    Attributes:
        name: the assessment's folder name, from the threat.
        model: the model's ``describe()``.
        data: ``name``, ``n``, ``shape``, ``sha256``, and where given ``features`` and ``classes`` (names).
        threat: the threat's ``describe()``.
        mode: ``fast``, ``standard`` or ``thorough``, or the attack's name.
        seed: the run's seed.
        clean_accuracy, robust_accuracy: rates over all inputs.
        outcomes: one row per input.
        stages: what each stage did, in order.
        findings: what a person must know.
        checks: the attack-strength checks.
        eps_curve: robust accuracy against eps on the pilot inputs, smallest first.
        query_curve: robust accuracy against queries per input, for black-box threats.
        examples: some broken inputs, at most a dozen.
        gate: the robust accuracy asked for, or None.
        passes: mean forward and backward passes and queries per input.
        twin: what the attacks searched on.
        verification: how claims were checked: ``claimed``, ``confirmed``, ``rejected``.
        seconds: wall time.
        complete: whether every input was attacked in full.
        metrics: further rates by name (for tables: ``mcc_clean``, ``mcc_robust`` …).
    """

    name: str
    model: dict[str, Any]
    data: dict[str, Any]
    threat: dict[str, Any]
    mode: str
    seed: int
    clean_accuracy: Rate
    robust_accuracy: Rate
    outcomes: Outcomes
    stages: tuple[StageRecord, ...]
    findings: tuple[Finding, ...]
    checks: tuple[Check, ...]
    eps_curve: tuple[CurvePoint, ...]
    query_curve: tuple[CurvePoint, ...]
    examples: Examples | None
    gate: float | None
    passes: dict[str, float]
    twin: dict[str, Any]
    verification: dict[str, int]
    seconds: float
    complete: bool
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """Fails when the gate is missed; warns when the run is incomplete or a finding voids the number.

        Without a gate a pass says only that nothing voids the number; people are shown "no gate" then.
        """
        if self.gate is not None and self.robust_accuracy.value < self.gate:
            return Verdict.FAIL
        if not self.complete or any(f.severity is Severity.FAIL for f in self.findings):
            return Verdict.WARN
        return Verdict.PASS

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays."""
        out: dict[str, Any] = {"schema": SCHEMA_VERSION}
        for f in fields(self):
            if f.name in ("outcomes", "examples"):
                continue
            out[f.name] = _plain(getattr(self, f.name))
        out["verdict"] = self.verdict.word
        return out

    @classmethod
    def from_json(cls, value: dict[str, Any], outcomes: Outcomes, examples: Examples | None) -> Assessment:
        """The inverse of ``to_json``, given the arrays."""
        known = {f.name for f in fields(cls)} - {"outcomes", "examples"}
        plain = {k: v for k, v in value.items() if k in known}
        plain["clean_accuracy"] = Rate.read(plain["clean_accuracy"])
        plain["robust_accuracy"] = Rate.read(plain["robust_accuracy"])
        plain["stages"] = tuple(StageRecord(**s) for s in plain["stages"])
        plain["findings"] = tuple(Finding.read(f) for f in plain["findings"])
        plain["checks"] = tuple(
            Check(**{**c, "verdict": Verdict[c["verdict"].upper().replace(" ", "_")]})
            for c in plain["checks"]
        )
        for curve in ("eps_curve", "query_curve"):
            plain[curve] = tuple(CurvePoint(p["x"], Rate.read(p["rate"])) for p in plain[curve])
        return cls(outcomes=outcomes, examples=examples, **plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Rate | Finding):
        return value.describe()
    if isinstance(value, Check):
        return {**asdict(value), "verdict": value.verdict.word}
    if isinstance(value, CurvePoint):
        return {"x": value.x, "rate": value.rate.describe()}
    if isinstance(value, StageRecord):
        return asdict(value)
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value

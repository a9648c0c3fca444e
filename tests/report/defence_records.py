"""Synthetic records of defences, and of assessments of models that can refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from report_records import CLASSES, HOSTILE, labels, record, statuses, threat

from hardpoint.evidence import (
    Assessment,
    DefenceRecord,
    PartKind,
    PartRecord,
    Rate,
    StackPart,
    Status,
    ThresholdRecord,
    Worth,
)

REFUSAL = len(CLASSES)
GUARANTEE = "With 95 % confidence, at most 5 % of benign inputs are flagged."
STACK = (
    StackPart("BitDepth", PartKind.STAGE, "straight-through"),
    StackPart("AdditiveNoise", PartKind.STAGE, "autograd, random"),
    StackPart("resnet-small", PartKind.NETWORK, "autograd"),
    StackPart("energy", PartKind.DETECTOR, "autograd", GUARANTEE),
)


def part(name: str, kind: PartKind, adaptive: int, worth: Worth, **changes: Any) -> PartRecord:
    """A part with which ``adaptive`` of 200 inputs stand."""
    base = PartRecord(
        name=name,
        kind=kind,
        against=None,
        clean=Rate.of(190, 200),
        refused=None,
        naive=Rate.of(max(adaptive, 150), 200),
        adaptive=Rate.of(adaptive, 200),
        won=30,
        lost=2,
        worth=worth,
        added_ms=0.25,
        assessment=f"linf-{name.replace(' ', '-').lower()}",
    )
    return replace(base, **changes)


def defence(**changes: Any) -> DefenceRecord:
    """Three parts and all together, every verdict once."""
    base = DefenceRecord(
        stack=STACK,
        threat=threat(),
        clean=Rate.of(194, 200),
        robust=Rate.of(82, 200),
        parts=(
            part("BitDepth", PartKind.STAGE, 80, Worth.HIDES),
            part("AdditiveNoise", PartKind.STAGE, 110, Worth.ADDS),
            part("all stages", PartKind.STACK, 60, Worth.HARMS, won=2, lost=24, naive=Rate.of(70, 200)),
            part(
                "all together",
                PartKind.STACK,
                81,
                Worth.NOTHING,
                won=3,
                lost=4,
                refused=Rate.of(12, 200),
                against=None,
                naive=Rate.of(85, 200),
            ),
        ),
        assessment="linf-undefended",
    )
    return replace(base, **changes)


def threshold(alpha: float = 0.05, **changes: Any) -> ThresholdRecord:
    base = ThresholdRecord(
        "energy", alpha, -3.25, GUARANTEE, Rate.of(6, 200), Rate.of(30, 40), Rate.of(8, 40), 0.12
    )
    return replace(base, **changes)


THRESHOLDS = (
    threshold(0.1),
    threshold(0.05, caught_adaptive=None),
    threshold(0.01, detector="all together", threshold=None),
    threshold(
        0.001,
        threshold=None,
        false_positives=None,
        caught_naive=None,
        caught_adaptive=None,
        added_ms=None,
        needed=2995,
    ),
)


def hostile_defence() -> DefenceRecord:
    """Every name is hostile."""
    return defence(
        stack=tuple(replace(p, name=HOSTILE, gradient=HOSTILE, guarantee=HOSTILE) for p in STACK),
        threat=threat(HOSTILE, HOSTILE, 1.0, HOSTILE, HOSTILE),
        parts=(part(HOSTILE, PartKind.DETECTOR, 80, Worth.NOTHING, doubts=(HOSTILE,)),),
        thresholds=(threshold(detector=HOSTILE),),
        doubts=(HOSTILE,),
    )


def refusing_assessment(**changes: Any) -> Assessment:
    """A defended model that refuses 12 of 200 inputs without an attack; 8 more are wrong, 60 fall."""
    status, label = statuses(20, 60, 120), labels(200)
    made = record(status, label)
    clean, final = made.outcomes.clean_prediction.copy(), made.outcomes.final_prediction.copy()
    turned_away = np.flatnonzero(status == Status.CLEAN_ERROR)[:12]
    clean[turned_away] = final[turned_away] = REFUSAL
    model = {
        **made.model,
        "defences": [{"kind": "BitDepth", "bits": 3, "low": 0.0, "high": 1.0}],
        "detectors": [
            {"kind": "energy", "name": "energy", "threshold": -3.25, "guarantee": GUARANTEE, "fitted": "ab"}
        ],
        "refusal": REFUSAL,
    }
    base: dict[str, Any] = {
        "model": model,
        "outcomes": replace(made.outcomes, clean_prediction=clean, final_prediction=final),
    }
    return record(status, label, **{**base, **changes})

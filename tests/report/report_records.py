"""Synthetic assessment records for the report tests: images, tables, series, hostile names, bare minimum."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardpoint.evidence import (
    Assessment,
    Check,
    CurvePoint,
    Examples,
    Outcomes,
    Rate,
    StageRecord,
    Status,
    Verdict,
    finding,
)

IDENTIFIERS = {
    "atlas": ["AML.T0015", "AML.T0043.000"],
    "nist": ["NISTAML.022"],
    "owasp": ["ML01:2023"],
    "cwe": ["CWE-1039"],
    "mitigations": ["AML.M0003"],
}
HOSTILE = "<script>alert('x')</script>&\"'{{7*7}}]]>\x00\u202egnp.exe"
CLASSES = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FEATURES = ["age", "income", "loan amount", "months employed", "open accounts", "missed payments"]


def threat(
    name: str = "linf-8of255",
    kind: str = "Linf",
    eps: float | str = 8 / 255,
    text: str = "Linf ≤ 8/255",
    access: str = "gradients",
    queries: int | None = None,
    goal: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "name": name,
        "perturbation": {"kind": kind, "eps": eps, "text": text},
        "goal": goal or {"kind": "untargeted"},
        "access": access,
        "queries": queries,
        "identifiers": IDENTIFIERS,
    }


def outcomes(status: NDArray[np.uint8], label: NDArray[np.int64], classes: int = 10) -> Outcomes:
    n = len(status)
    wrong = (label + 1) % classes
    broken = np.isin(status, (Status.CLEAN_ERROR, Status.BROKEN))
    return Outcomes(
        index=np.arange(n),
        label=label,
        clean_prediction=np.where(status == Status.CLEAN_ERROR, wrong, label),
        final_prediction=np.where(broken, wrong, label),
        status=status.astype(np.uint8),
        stage=np.where(status == Status.BROKEN, np.arange(n) % 2, -1).astype(np.int16),
        distance=np.where(status == Status.BROKEN, 8 / 255, np.nan),
        forward=np.full(n, 40),
        backward=np.full(n, 30),
        queries=np.zeros(n, np.int64),
    )


def record(status: NDArray[np.uint8], label: NDArray[np.int64], **changes: Any) -> Assessment:
    """An assessment whose rates follow from the statuses."""
    n = len(status)
    base = Assessment(
        name="linf-8of255",
        model={
            "kind": "torch",
            "name": "resnet-small",
            "sha256": "ab" * 32,
            "parameters": 272474,
            "input_range": [0.0, 1.0],
        },
        data={"name": "shapes", "n": n, "shape": [3, 16, 16], "sha256": "cd" * 32, "classes": CLASSES},
        threat=threat(),
        mode="fast",
        seed=0,
        clean_accuracy=Rate.of(int((status != Status.CLEAN_ERROR).sum()), n),
        robust_accuracy=Rate.of(int(np.isin(status, (Status.STANDING, Status.UNFINISHED)).sum()), n),
        outcomes=outcomes(status, label),
        stages=(),
        findings=(),
        checks=(),
        eps_curve=(),
        query_curve=(),
        examples=None,
        gate=None,
        passes={"forward": 40.0, "backward": 30.0, "queries": 0.0},
        twin={},
        verification={},
        seconds=12.5,
        complete=True,
    )
    return replace(base, **changes)


def statuses(clean_error: int, broken: int, standing: int, unfinished: int = 0) -> NDArray[np.uint8]:
    """The given counts, mixed deterministically."""
    counts = (clean_error, broken, standing, unfinished)
    status = np.repeat(np.arange(4, dtype=np.uint8), counts)
    return np.random.default_rng(1).permutation(status)


def labels(n: int, classes: int = 10) -> NDArray[np.int64]:
    return np.arange(n, dtype=np.int64) % classes


def _pictures(m: int, channels: int = 3, size: int = 16) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:size, 0:size] / size
    images = []
    for _ in range(m):
        cx, cy, r = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7), rng.uniform(0.15, 0.3)
        disc = ((x - cx) ** 2 + (y - cy) ** 2 < r * r)[None]
        sky, thing = rng.uniform(0.2, 0.9, (channels, 1, 1)), rng.uniform(0.1, 0.9, (channels, 1, 1))
        images.append(np.where(disc, thing, sky * (0.75 + 0.25 * y)))
    original = np.stack(images).astype(np.float32)
    step = np.where(rng.random(original.shape) < 0.5, -8 / 255, 8 / 255)
    return original, np.clip(original + step, 0, 1).astype(np.float32)


def examples(original: NDArray[Any], adversarial: NDArray[Any]) -> Examples:
    m = len(original)
    return Examples(
        index=np.arange(m) * 7,
        original=original,
        adversarial=adversarial,
        label=labels(m),
        clean_prediction=labels(m),
        final_prediction=(labels(m) + 3) % 10,
        distance=np.linspace(0.02, 8 / 255, m) if m else np.zeros(0),
    )


CHECKS = (
    Check("HP301", "Noise does not beat the attack", 0.89, 0.87, Verdict.PASS, "Random changes break less."),
    Check("HP302", "More budget, more broken", 0.0, 0.0, Verdict.PASS, "The curve falls."),
    Check("HP303", "Unlimited budget breaks all", 0.02, 0.05, Verdict.PASS, "Almost every input falls."),
    Check("HP304", "Black box agrees", 0.031, 0.02, Verdict.WARN, "Square found 3 % that gradients missed."),
    Check("HP305", "Last stage found little", None, None, Verdict.NOT_RUN, "One stage only."),
)
STAGES = (
    StageRecord("apgd-ce", 912, 330, 36480, 18240, 0, 41.2),
    StageRecord("apgd-dlr-targeted", 582, 44, 87300, 43650, 0, 95.0),
    StageRecord("square", 538, 9, 53800, 0, 53800, 31.7),
)


def image_assessment(**changes: Any) -> Assessment:
    """1,000 small pictures under Linf, everything filled in, gate missed."""
    n = 1000
    curve = [(0.5, 58), (1, 54), (2, 50), (4, 44), (8, 34), (16, 12), (32, 1)]
    base: dict[str, Any] = {
        "stages": STAGES,
        "checks": CHECKS,
        "findings": (
            finding("HP403", "64 pilot inputs"),
            finding("HP304", "square broke 9 inputs that the gradient attacks missed", measured=9 / 538),
            finding("HP305", "the last stage broke 1.7 % of what was left", measured=0.017, threshold=0.01),
        ),
        "eps_curve": tuple(CurvePoint(e / 255, Rate.of(k, 64)) for e, k in curve),
        "examples": examples(*_pictures(12)),
        "gate": 0.6,
        "passes": {"forward": 177.6, "backward": 61.9, "queries": 53.8},
        "twin": {
            "copied": True,
            "folded": True,
            "speedup": 4.7,
            "text": "parameters frozen, batch norms folded",
        },
        "verification": {"claimed": 386, "confirmed": 383, "rejected": 3},
        "seconds": 168.0,
    }
    return record(statuses(88, 383, 529), labels(n), **{**base, **changes})


def black_box_assessment(**changes: Any) -> Assessment:
    """400 pictures, scores only, with a query curve; gate reached."""
    points = [(1, 365), (3, 360), (10, 352), (30, 340), (100, 321), (300, 300), (1000, 276), (5000, 262)]
    base: dict[str, Any] = {
        "name": "l2-0.5-scores-5000q",
        "threat": threat("l2-0.5-scores-5000q", "L2", 0.5, "L2 ≤ 0.5", "scores", 5000),
        "stages": (StageRecord("square", 365, 103, 1_100_000, 0, 1_100_000, 240.0),),
        "query_curve": tuple(CurvePoint(float(q), Rate.of(k, 400)) for q, k in points),
        "gate": 0.6,
    }
    return record(statuses(35, 103, 262), labels(400), **{**base, **changes})


def table_assessment(**changes: Any) -> Assessment:
    """300 rows of a table, no gate."""
    rng = np.random.default_rng(5)
    original = np.round(rng.uniform([18, 1e4, 1e3, 0, 0, 0], [80, 2e5, 5e4, 300, 12, 9], (4, 6)), 2)
    adversarial = original.copy()
    adversarial[:, 1] += 1250.5
    adversarial[:, 4] -= 1
    base: dict[str, Any] = {
        "name": "l0-2",
        "model": {"kind": "sklearn", "name": "credit-forest", "sha256": None, "input_range": ["-inf", 1]},
        "data": {
            "name": "loans",
            "n": 300,
            "shape": [6],
            "sha256": None,
            "features": FEATURES,
            "classes": ["repaid", "default"],
        },
        "threat": threat("l0-2", "L0", 2.0, "L0 ≤ 2", "labels", 1000),
        "examples": replace(
            examples(original, adversarial),
            label=np.array([0, 1, 0, 1]),
            clean_prediction=np.array([0, 1, 0, 1]),
            final_prediction=np.array([1, 0, 1, 0]),
            distance=np.full(4, 2.0),
        ),
        "metrics": {"mcc_clean": 0.71, "mcc_robust": 0.18},
    }
    return record(statuses(30, 120, 150), labels(300, 2), **{**base, **changes})


def series_assessment(**changes: Any) -> Assessment:
    """Long one-dimensional signals, unfinished, with a failing finding."""
    t = np.linspace(0, 12, 400)
    original = np.stack([np.sin(t * k) + 0.2 * np.sin(17 * t) for k in (1.0, 1.3, 1.7)])
    base: dict[str, Any] = {
        "name": "l2-1",
        "data": {"name": "heartbeats", "n": 60, "shape": [400], "sha256": "ef" * 32},
        "threat": threat("l2-1", "L2", 1.0, "L2 ≤ 1"),
        "examples": examples(original, original + 0.15 * np.sin(31 * t)),
        "findings": (
            finding("HP401", "12 of 60 inputs were not attacked in full", measured=12, threshold=0),
            finding("HP301", "noise broke 40 % and the attack 25 %", measured=0.4, threshold=0.25),
        ),
        "gate": 0.4,
        "complete": False,
    }
    return record(statuses(5, 15, 28, 12), labels(60), **{**base, **changes})


def bare_assessment(**changes: Any) -> Assessment:
    """One input, nothing optional."""
    return record(np.array([Status.STANDING], np.uint8), labels(1), **{"name": "bare", **changes})


def hostile_assessment(**changes: Any) -> Assessment:
    """Every name that a model or data file can choose is hostile."""
    original = np.zeros((2, 3))
    base: dict[str, Any] = {
        "name": "hostile",
        "model": {"kind": "torch", "name": HOSTILE, "sha256": HOSTILE, "input_range": HOSTILE},
        "data": {
            "name": HOSTILE,
            "n": 40,
            "shape": [3],
            "sha256": HOSTILE,
            "features": [HOSTILE] * 3,
            "classes": [HOSTILE] * 10,
        },
        "threat": threat(HOSTILE, HOSTILE, 1.0, HOSTILE, HOSTILE),
        "mode": HOSTILE,
        "stages": (StageRecord(HOSTILE, 40, 10, 1, 1, 1, 1.0),),
        "checks": (Check(HOSTILE, HOSTILE, 1.0, 2.0, Verdict.FAIL, HOSTILE),),
        "findings": (finding("HP301", HOSTILE, cure=HOSTILE),),
        "eps_curve": (CurvePoint(0.5, Rate.of(20, 40)), CurvePoint(1.0, Rate.of(10, 40))),
        "query_curve": (CurvePoint(1.0, Rate.of(20, 40)), CurvePoint(90.0, Rate.of(10, 40))),
        "examples": examples(original, original + 1),
        "twin": {HOSTILE: HOSTILE},
        "metrics": {HOSTILE: 1.0},
    }
    return record(statuses(5, 10, 25), labels(40), **{**base, **changes})


def header(**changes: Any) -> dict[str, Any]:
    """A run's header."""
    base = {
        "schema": 1,
        "command": "hardpoint assess shop.model:load --data shapes.npz --threat 'linf 8/255' --seed 0",
        "code": "import hardpoint as hp\n\nresult = hp.assess(model, x, y, threat=hp.Linf(8 / 255), seed=0)",
        "created": "2025-06-01T12:00:00+00:00",
        "status": "finished",
        "environment": {
            "hardpoint": "0.1.0",
            "python": "3.11.9",
            "platform": "linux x86_64",
            "cores": 8,
            "devices": [],
            "versions": {"torch": "2.4.0", "numpy": "1.26.4"},
        },
        "config": {"mode": "fast", "budget": None},
    }
    return {**base, **changes}

"""Two runs side by side: what changed, whether the change is more than chance, which inputs flipped."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardpoint.evidence import Assessment, Finding, Rate
from hardpoint.report.reading import model_name, threat_name


@dataclass(frozen=True)
class Difference:
    """``b - a`` of two shares with its 95 % interval, and whether the same inputs stand behind both.

    ``n`` is the number of pairs, or the smaller of the two samples.
    """

    value: float
    low: float
    high: float
    n: int
    paired: bool

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes no difference."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class ThreatComparison:
    """Two assessments under one threat; ``a`` is the earlier or reference run.

    Attributes:
        threat: the threat's name.
        a, b: the two records.
        robust, clean: how robust and clean accuracy differ.
        why_unpaired: why inputs could not be matched one to one; empty where they were.
        repaired: indices broken in ``a`` and standing in ``b``.
        lost: indices standing in ``a`` and broken in ``b``.
        appeared, gone: findings only in ``b``, only in ``a``, by id and as often as they occur.
        metrics: name to the values in ``a`` and ``b``, None where a side lacks it.
    """

    threat: str
    a: Assessment
    b: Assessment
    robust: Difference
    clean: Difference
    why_unpaired: str
    repaired: NDArray[np.int64]
    lost: NDArray[np.int64]
    appeared: tuple[Finding, ...]
    gone: tuple[Finding, ...]
    metrics: dict[str, tuple[float | None, float | None]]


@dataclass(frozen=True)
class Comparison:
    """Two runs: the threats they share, and those only one of them has."""

    model_a: str
    model_b: str
    threats: tuple[ThreatComparison, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


def unpaired_difference(a: Rate, b: Rate) -> Difference:
    """The difference ``b - a`` of two independent shares.

    The hybrid score interval (Newcombe, Statistics in Medicine 17:873, 1998, method 10): each side's Wilson
    limits, combined in quadrature.

    >>> d = unpaired_difference(Rate.of(48, 80), Rate.of(56, 70))  # the paper's first example
    >>> round(d.low, 4), round(d.high, 4)
    (0.0524, 0.3339)
    """
    value = b.value - a.value
    low = value - math.hypot(b.value - b.low, a.high - a.value)
    high = value + math.hypot(b.high - b.value, a.value - a.low)
    return Difference(value, max(low, -1.0), min(high, 1.0), min(a.n, b.n), paired=False)


def paired_difference(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> Difference:
    """The difference of the shares of True in ``b`` and ``a``, which hold the same inputs in the same order.

    The score interval for paired shares (Newcombe, Statistics in Medicine 17:2635, 1998, method 10): as for
    independent shares, less twice the product of the two sides times their correlation phi, which is taken
    at zero where a margin is empty and corrected for continuity where positive. It rests, as McNemar's test
    does, on the inputs that flipped, and is far narrower than an unpaired one when few did.

    >>> standing = np.arange(100) < 50
    >>> d = paired_difference(standing, standing | (np.arange(100) < 60))
    >>> round(d.value, 2), round(d.low, 2), round(d.high, 2)
    (0.1, 0.04, 0.16)
    """
    n = len(a)
    both, only_a = int((a & b).sum()), int((a & ~b).sum())
    only_b, neither = int((~a & b).sum()), int((~a & ~b).sum())
    rate_a, rate_b = Rate.of(both + only_a, n), Rate.of(both + only_b, n)
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    cross = float(both * neither - only_a * only_b)
    if cross > 0:
        cross = max(cross - n / 2, 0.0)
    phi = cross / math.sqrt(margins) if margins else 0.0
    value = rate_b.value - rate_a.value
    down = _combined(rate_b.value - rate_b.low, rate_a.high - rate_a.value, phi)
    up = _combined(rate_b.high - rate_b.value, rate_a.value - rate_a.low, phi)
    return Difference(value, max(value - down, -1.0), min(value + up, 1.0), n, paired=True)


def _combined(p: float, q: float, phi: float) -> float:
    return math.sqrt(max(p * p + q * q - 2 * phi * p * q, 0.0))


def compare(a: Sequence[Assessment], b: Sequence[Assessment]) -> Comparison:
    """What changed from run ``a`` to run ``b``, threat by threat.

    Threats are matched by name. Inputs are matched by index where both runs name the same data (equal
    SHA-256) with the same labels; else the two shares are compared as independent ones.
    """
    left, right = _by_threat(a), _by_threat(b)
    shared = [key for key in left if key in right]
    return Comparison(
        model_a=", ".join(dict.fromkeys(model_name(x) for x in a)),
        model_b=", ".join(dict.fromkeys(model_name(x) for x in b)),
        threats=tuple(_compare(key[0], left[key], right[key]) for key in shared),
        only_a=tuple(key[0] for key in left if key not in right),
        only_b=tuple(key[0] for key in right if key not in left),
    )


def _by_threat(assessments: Sequence[Assessment]) -> dict[tuple[str, int], Assessment]:
    """By threat name; of several under one threat the first, second … are matched with each other."""
    seen: Counter[str] = Counter()
    out = {}
    for a in assessments:
        name = threat_name(a)
        out[(name, seen[name])] = a
        seen[name] += 1
    return out


def _compare(threat: str, a: Assessment, b: Assessment) -> ThreatComparison:
    common, rows_a, rows_b = np.intersect1d(a.outcomes.index, b.outcomes.index, return_indices=True)
    why = _why_unpaired(a, b, rows_a, rows_b)
    none = np.zeros(0, np.int64)
    repaired, lost = none, none
    if why:
        robust = unpaired_difference(a.robust_accuracy, b.robust_accuracy)
        clean = unpaired_difference(a.clean_accuracy, b.clean_accuracy)
    else:
        standing_a, standing_b = ~a.outcomes.broken[rows_a], ~b.outcomes.broken[rows_b]
        robust = paired_difference(standing_a, standing_b)
        clean = paired_difference(_right(a)[rows_a], _right(b)[rows_b])
        repaired, lost = common[~standing_a & standing_b], common[standing_a & ~standing_b]
    return ThreatComparison(
        threat=threat,
        a=a,
        b=b,
        robust=robust,
        clean=clean,
        why_unpaired=why,
        repaired=repaired,
        lost=lost,
        appeared=_extra(b.findings, a.findings),
        gone=_extra(a.findings, b.findings),
        metrics={k: (a.metrics.get(k), b.metrics.get(k)) for k in sorted({*a.metrics, *b.metrics})},
    )


def _why_unpaired(a: Assessment, b: Assessment, rows_a: NDArray[np.int64], rows_b: NDArray[np.int64]) -> str:
    hashes = (a.data.get("sha256"), b.data.get("sha256"))
    if not all(hashes):
        return "a run did not record the hash of its data"
    if hashes[0] != hashes[1]:
        return "the two runs used different data"
    if len(rows_a) == 0:
        return "the two runs have no input in common"
    if bool((a.outcomes.label[rows_a] != b.outcomes.label[rows_b]).any()):
        return "the two runs used different labels"
    return ""


def _right(a: Assessment) -> NDArray[np.bool_]:
    """Which inputs the model gets right before any attack."""
    return np.asarray(a.outcomes.clean_prediction == a.outcomes.label)


def _extra(these: Sequence[Finding], those: Sequence[Finding]) -> tuple[Finding, ...]:
    left = Counter(f.id for f in those)
    out = []
    for f in these:
        if left[f.id]:
            left[f.id] -= 1
        else:
            out.append(f)
    return tuple(out)

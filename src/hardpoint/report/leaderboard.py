"""Many models under the same threats, ranked, with what chance and doubt allow one to say."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from hardpoint.evidence import Assessment, CertificateRecord, Rate, Standing, Verdict
from hardpoint.evidence.store import finite, write_atomically
from hardpoint.report import charts, words
from hardpoint.report.compare import paired_difference
from hardpoint.report.html import render
from hardpoint.report.reading import class_name, class_rates, threat_name, tool_version, weaknesses


@dataclass(frozen=True)
class Entrant:
    """A model of the benchmark: its finished assessments, why there are none or too few, and what was proven of it."""

    name: str
    records: tuple[Assessment, ...]
    problem: str = ""
    proofs: tuple[CertificateRecord, ...] = ()


@dataclass(frozen=True)
class Row:
    """One line of the board.

    Attributes:
        rank: 1 for the best; models that the inputs do not tell apart from the best of their group share a rank. None
            where the number is in doubt or incomplete: such a model is listed, and not ranked.
        robust: share of inputs that stand under every threat at once.
        worst_threat, worst_class: where it is weakest, with the rate.
        under: robust accuracy by threat name.
        passes: mean forward and backward passes and queries per input, over all threats.
        masking: whether the attacks' own checks passed: "passed", "warned" or "failed".
        doubts: why the number may be worth less than it looks.
        certified: share of inputs proven to stand under every threat; None where one was not certified.
    """

    rank: int | None
    name: str
    clean: Rate | None
    robust: Rate | None
    worst_threat: tuple[str, Rate] | None
    worst_class: tuple[str, Rate] | None
    under: dict[str, Rate]
    passes: float
    masking: str
    doubts: tuple[str, ...]
    certified: Rate | None = None

    @property
    def bar(self) -> Markup:
        """The robust accuracy drawn, the clean one behind it."""
        return Markup("" if self.robust is None else charts.bar(self.robust, clean=self.clean))

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "rank": self.rank,
            "name": self.name,
            "clean": _rate(self.clean),
            "robust": _rate(self.robust),
            "certified": _rate(self.certified),
            "under": {name: _rate(rate) for name, rate in self.under.items()},
            "worst_threat": self.worst_threat and self.worst_threat[0],
            "worst_class": self.worst_class and [self.worst_class[0], _rate(self.worst_class[1])],
            "passes": self.passes,
            "masking": self.masking,
            "doubts": list(self.doubts),
        }


def _rate(rate: Rate | None) -> dict[str, Any] | None:
    return None if rate is None else {"value": rate.value, "low": rate.low, "high": rate.high, "n": rate.n}


def leaderboard(entrants: Sequence[Entrant], threats: Sequence[str]) -> list[Row]:
    """The ranked rows, best first, then those that cannot be ranked.

    Two models are told apart by the inputs on which they differ: the 95 % interval of the paired difference must
    exclude zero. A model ranks behind the best one of the group above only where it does.
    """
    rows = [(_row(entrant, threats), _standing(entrant.records)) for entrant in entrants]
    ranked = sorted(
        (pair for pair in rows if not pair[0].doubts), key=lambda pair: (-_value(pair[0]), pair[0].name)
    )
    board: list[Row] = []
    rank, best = 0, None
    for place, (row, standing) in enumerate(ranked, start=1):
        if best is None or len(best) != len(standing) or paired_difference(best, standing).high < 0:
            rank, best = place, standing
        board.append(_placed(row, rank))
    return board + sorted((row for row, _ in rows if row.doubts), key=lambda row: (-_value(row), row.name))


def _value(row: Row) -> float:
    return -1.0 if row.robust is None else row.robust.value


def _placed(row: Row, rank: int) -> Row:
    return Row(**{**row.__dict__, "rank": rank})


def _standing(records: Sequence[Assessment]) -> NDArray[np.bool_]:
    """Which inputs stand under every threat."""
    if not records:
        return np.zeros(0, dtype=bool)
    return np.asarray(np.all([~record.outcomes.broken for record in records], axis=0))


def _row(entrant: Entrant, threats: Sequence[str]) -> Row:
    records = entrant.records
    missing = [name for name in threats if name not in {r.name for r in records}]
    doubts = [entrant.problem] if entrant.problem else []
    doubts += [f"not assessed under {', '.join(missing)}"] if missing and records else []
    doubts += [reason for record in records for reason in weaknesses(record)]
    if not records:
        return Row(
            None, entrant.name, None, None, None, None, {}, 0.0, "not run", tuple(doubts or ["not run"])
        )
    standing = _standing(records)
    weakest = min(records, key=lambda record: record.robust_accuracy.value)
    label, rate = class_rates(weakest)[0]
    return Row(
        rank=None,
        name=entrant.name,
        clean=records[0].clean_accuracy,
        robust=Rate.of(int(standing.sum()), len(standing)),
        worst_threat=(threat_name(weakest), weakest.robust_accuracy),
        worst_class=(class_name(weakest, label), rate),
        under={record.name: record.robust_accuracy for record in records},
        passes=sum(sum(record.passes.values()) for record in records),
        masking=_masking(records),
        doubts=tuple(doubts),
        certified=_certified(entrant),
    )


def _certified(entrant: Entrant) -> Rate | None:
    """The share proven under every threat that the model was assessed under, on the same inputs and weights."""
    stands: list[NDArray[np.bool_]] = []
    for record in entrant.records:
        change = record.threat.get("perturbation")
        proofs = next((c for c in entrant.proofs if c.threat == change and _same(c, record)), None)
        if proofs is None:
            return None
        stands.append(np.array([each.standing is Standing.ROBUST for each in proofs.certificates]))
    proven = np.all(stands, axis=0)
    return Rate.of(int(proven.sum()), len(proven))


def _same(proofs: CertificateRecord, record: Assessment) -> bool:
    """Whether both are about the same weights and inputs."""
    pairs = ((proofs.model, record.model), (proofs.data, record.data))
    return all(ours.get("sha256") and ours["sha256"] == theirs.get("sha256") for ours, theirs in pairs)


def _masking(records: Sequence[Assessment]) -> str:
    verdicts = {check.verdict for record in records for check in record.checks}
    if Verdict.FAIL in verdicts:
        return "failed"
    return "warned" if Verdict.WARN in verdicts else "passed" if verdicts else "not run"


def leaderboard_json(rows: Sequence[Row], about: dict[str, Any]) -> dict[str, Any]:
    """The board for machines."""
    made: dict[str, Any] = finite({"schema": 1, **about, "models": [row.to_json() for row in rows]})
    return made


def write_leaderboard_html(
    path: str | os.PathLike[str], rows: Sequence[Row], threats: Sequence[str], about: dict[str, Any]
) -> Path:
    """Write the page, which loads nothing from anywhere. Returns where it is.

    Raises:
        RunError: when the file cannot be written.
    """
    n = max((row.robust.n for row in rows if row.robust is not None), default=0)
    page = render(
        "leaderboard.html.j2",
        rows=rows,
        threats=threats,
        about=about,
        inputs=words.number(n),
        version=tool_version({}),
        tones={"passed": "pass", "warned": "warn", "failed": "fail", "not run": "none"},
    )
    target = Path(path)
    write_atomically(target, page.encode("utf-8"))
    return target

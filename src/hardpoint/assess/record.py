"""The record of an assessment, made of what the table holds when all is done."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hardpoint.assess.metrics import table_metrics
from hardpoint.assess.panel import Strength
from hardpoint.assess.prepare import Prepared
from hardpoint.assess.queries import query_curve
from hardpoint.assess.result import ExampleSource
from hardpoint.assess.work import Session, Table
from hardpoint.evidence.assessment import Assessment, Examples, StageRecord, Status
from hardpoint.evidence.finding import Finding, Severity, finding
from hardpoint.evidence.rate import Rate
from hardpoint.models.base import Differentiable, Model, refusal_of

_SHOWN = 12
_INVALID_SHARE = 0.01


def make_record(
    prepared: Prepared,
    table: Table,
    stages: tuple[StageRecord, ...],
    strength: Strength,
    source: ExampleSource,
    *,
    gate: float | None,
    seconds: float,
    out_of_time: bool,
) -> Assessment:
    """The record; ``source`` holds the verified examples of the broken inputs."""
    session = prepared.session
    outcomes = table.outcomes(prepared.black_box)
    n = len(outcomes)
    clean = int((outcomes.status != Status.CLEAN_ERROR).sum())
    standing = int((~outcomes.broken).sum())
    cut = int((outcomes.status == Status.UNFINISHED).sum())
    budget_spent = out_of_time or (cut > 0 and (not prepared.black_box or prepared.short_of_queries))
    allowed = sum(getattr(stage.attack, "queries", None) or 0 for stage in session.stages)
    queries = prepared.query_limit or max(1, allowed, int(outcomes.queries.max(initial=0)))
    curve = query_curve(table, queries) if prepared.black_box else ()
    found = [*prepared.diagnosis.findings, *prepared.findings, *strength.findings]
    if budget_spent:
        found.append(finding("HP401", f"{cut} of {n} inputs were not attacked in full", measured=cut / n))
    found += _unattackable(table)
    claimed, rejected, _ = (int(v) for v in table.checks)
    if rejected and not any(f.id == "HP306" for f in strength.findings):
        found.append(
            finding("HP306", f"{rejected} of {claimed} claims did not stand", measured=float(rejected))
        )
    model = prepared.diagnosis.model
    if isinstance(model, Differentiable) and not session.target.twin.copied and not prepared.black_box:
        found.append(finding("HP402", "the model cannot be copied, or a copy of it answers differently"))
    return Assessment(
        name=prepared.name,
        model=_told(model),
        data=session.data.describe(),
        threat=session.threat.describe(),
        mode=prepared.mode.value,
        seed=session.seed,
        clean_accuracy=Rate.of(clean, n),
        robust_accuracy=Rate.of(standing, n),
        outcomes=outcomes,
        stages=stages,
        findings=tuple(found),
        checks=strength.checks,
        eps_curve=strength.eps_curve,
        query_curve=curve,
        examples=shown_examples(session, table, source),
        gate=gate,
        passes={
            "forward": float(outcomes.forward.mean()),
            "backward": float(outcomes.backward.mean()),
            "queries": float(outcomes.queries.mean()),
        },
        twin=session.target.twin.describe(),
        verification={"claimed": claimed, "confirmed": claimed - rejected, "rejected": rejected},
        seconds=seconds,
        complete=not budget_spent,
        metrics=table_metrics(outcomes, session.data.shape),
    )


def _told(model: Model) -> dict[str, Any]:
    """What the model says of itself, and which of its answers is a refusal."""
    refusal = refusal_of(model)
    return model.describe() if refusal is None else {**model.describe(), "refusal": refusal}


def _unattackable(table: Table) -> list[Finding]:
    """Inputs that no attack was run on, and why."""
    right, n = table.status != Status.CLEAN_ERROR, len(table.status)
    found = []
    invalid = int((right & ~table.valid).sum())
    if invalid:
        share = invalid / n
        found.append(
            finding(
                "HP205",
                f"{invalid} of {n} rows break the constraints before any attack; they cannot be attacked and count "
                "as standing",
                severity=Severity.FAIL if share > _INVALID_SHARE else Severity.WARNING,
                measured=share,
                threshold=_INVALID_SHARE,
            )
        )
    unwanted = int((right & table.valid & ~table.wanted).sum())
    if unwanted:
        found.append(
            finding(
                "HP206",
                f"{unwanted} of {n} inputs have the target as their right answer",
                measured=unwanted / n,
            )
        )
    return found


def shown_examples(session: Session, table: Table, source: ExampleSource) -> Examples | None:
    """A dozen broken inputs, spread over the data."""
    fell = np.flatnonzero(table.status == Status.BROKEN)
    if not len(fell):
        return None
    chosen = fell[np.unique(np.linspace(0, len(fell) - 1, _SHOWN).astype(int))]
    found: dict[int, NDArray[Any]] = {}
    wanted = set(chosen.tolist())
    for positions, examples in source.examples():
        for row, position in enumerate(positions.tolist()):
            if position in wanted:
                found[position] = np.asarray(examples[row])
    chosen = np.array([c for c in chosen.tolist() if c in found], dtype=np.int64)
    if not len(chosen):
        return None
    x, _ = session.data.rows(torch.from_numpy(chosen))
    return Examples(
        index=chosen,
        original=x.cpu().numpy(),
        adversarial=np.stack([found[c] for c in chosen.tolist()]),
        label=table.label[chosen],
        clean_prediction=table.clean[chosen],
        final_prediction=table.final[chosen],
        distance=table.distance[chosen],
    )

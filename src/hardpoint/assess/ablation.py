"""What each part of a defence is worth: against an attacker who does not know it, and against one who does."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardpoint.assess.answers import answers
from hardpoint.assess.assess import as_code, as_dataset, assess
from hardpoint.assess.cascade import Mode
from hardpoint.assess.columns import aligned, percent
from hardpoint.assess.parts import Part, added_ms, parts_of, stack_of
from hardpoint.assess.progress import Progress
from hardpoint.assess.result import Result
from hardpoint.core.errors import ModelError
from hardpoint.data import Dataset
from hardpoint.defenses.defended import DefendedModel
from hardpoint.engine.budget import Budget
from hardpoint.evidence.assessment import Status
from hardpoint.evidence.defence import DefenceRecord, PartRecord, ThresholdRecord, Worth
from hardpoint.evidence.rate import Rate
from hardpoint.evidence.store import RunFolder
from hardpoint.report.html import write_html
from hardpoint.report.reading import weaknesses
from hardpoint.threats.goals import Goal, Untargeted
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat

HIDDEN = 0.1
"""A part that adds nothing and whose naive number is higher than the adaptive one by this much hides."""
_SERVED = 32  # inputs at once, when time is taken


@dataclass(frozen=True, eq=False)
class Ablation:
    """The undefended model, every part alone, and all together.

    Attributes:
        record: everything that was measured, as reports read it.
        undefended: the assessment of the model without its defences.
        results: the adaptive assessments, one for each of ``parts``.
        run: the run folder that holds the record under ``name``, if any does.
    """

    record: DefenceRecord
    undefended: Result
    results: tuple[Result, ...]
    name: str
    run: RunFolder | None = None

    @property
    def parts(self) -> tuple[PartRecord, ...]:
        """Each part alone, the last row all together."""
        return self.record.parts

    @property
    def whole(self) -> PartRecord:
        """All parts together."""
        return self.record.parts[-1]

    def with_thresholds(self, rows: Iterable[ThresholdRecord]) -> Ablation:
        """The same with what other thresholds would do, in the run folder as well where there is one."""
        record = replace(self.record, thresholds=tuple(rows))
        if self.run is not None:
            self.run.write_defence(self.name, record)
        return replace(self, record=record)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write the report, one self-contained HTML file: the defence first, then every assessment behind it."""
        records = [result.record for result in (self.undefended, *self.results)]
        return write_html(Path(path), records, self.results[-1].header, [self.record])

    def __str__(self) -> str:
        """A table; the naive number never stands without the adaptive one."""
        bare = percent(self.record.robust)
        rows = [
            ("part", "clean", "naive", "adaptive", "worth"),
            ("undefended", percent(self.record.clean), bare, bare, ""),
        ]
        rows += [
            (p.name, percent(p.clean), percent(p.naive), percent(p.adaptive), p.worth.value)
            for p in self.parts
        ]
        return aligned(rows)


def ablate(
    model: DefendedModel,
    x: Any,
    y: Any = None,
    *,
    threat: Threat | Perturbation,
    mode: Mode | str = "fast",
    seed: int = 0,
    budget: Budget | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    progress: bool | Progress = True,
    resume: bool = False,
    batch_size: int | None = None,
    name: str | None = None,
) -> Ablation:
    """Assess a defended model without its defences, with each of them alone, and with all.

    Args:
        model: what ``hp.Defended`` made of a network.
        x, y, threat, mode, seed, budget, progress, batch_size: as for ``assess``.
        run_dir: folder that keeps every assessment, and the record of the defence; an interrupted run continues with
            ``resume``.
        resume: continue the run in ``run_dir``, or add this ablation to it.
        name: what the record is called in the run folder, and the assessments begin with; the threat's name by default.

    Raises:
        ModelError: for a model without defences.
        HardpointError: as ``assess``.
    """
    if not isinstance(model, DefendedModel) or not (model.stages or model.alarms):
        raise ModelError("there is no defence to take apart", "give what hp.Defended(network, [...]) returns")
    data, parts, wanted = as_dataset(x, y), parts_of(model), Threat.of(threat)
    name = name or wanted.name
    run = RunFolder(run_dir) if run_dir is not None else None
    names = [
        f"{name}-{number}-{_slug(part)}"
        for number, part in enumerate(("undefended", *(p.name for p in parts)))
    ]
    settings: dict[str, Any] = {"threat": threat, "mode": mode, "seed": seed, "progress": progress}
    settings |= {"budget": budget, "batch_size": batch_size, "run_dir": run_dir}
    settings["header"] = {"assessments": names, "code": as_code("ablate", threat, mode, seed)}
    alone = assess(model.undefended, data, name=names[0], resume=resume, **settings)
    results = tuple(
        assess(part.model, data, name=called, resume=run is not None, **settings)
        for part, called in zip(parts, names[1:], strict=True)
    )
    record = DefenceRecord(
        stack=stack_of(model),
        threat=alone.record.threat,
        clean=alone.clean_accuracy,
        robust=alone.robust_accuracy,
        parts=_judged(parts, alone, results, data, wanted.goal, seed),
        assessment=names[0],
        doubts=tuple(weaknesses(alone.record)),
    )
    if run is not None:
        earlier = run.defence(name)
        record = replace(record, thresholds=earlier.thresholds if earlier is not None else ())
        run.write_defence(name, record)
    return Ablation(record, alone, results, name, run)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "part"


def _judged(
    parts: Sequence[Part], alone: Result, results: Sequence[Result], data: Dataset, goal: Goal, seed: int
) -> tuple[PartRecord, ...]:
    """What the assessments say of each part, and what it costs."""
    few, _ = data.rows(torch.arange(min(len(data), _SERVED)))
    times = added_ms(parts, few.to(parts[0].model.device))
    judged: dict[str | None, Result] = {None: alone}
    records = []
    for part, result, ms in zip(parts, results, times, strict=True):
        won, lost = differing(judged[part.against].broken, result.broken)
        naive = _naive(part.model, alone, result, goal, seed)
        records.append(
            PartRecord(
                name=part.name,
                kind=part.kind,
                against=part.against,
                clean=result.clean_accuracy,
                refused=_refused(part.model, result),
                naive=naive,
                adaptive=result.robust_accuracy,
                won=won,
                lost=lost,
                worth=worth_of(won, lost, hidden=(naive.count - result.robust_accuracy.count) / naive.n),
                added_ms=ms,
                assessment=result.record.name,
                doubts=tuple(weaknesses(result.record)),
            )
        )
        judged[part.name] = result
    return tuple(records)


def _refused(model: DefendedModel, result: Result) -> Rate | None:
    if model.refusal is None:
        return None
    answered = result.record.outcomes.clean_prediction
    return Rate.of(int((answered == model.refusal).sum()), len(answered))


def _naive(model: DefendedModel, alone: Result, result: Result, goal: Goal, seed: int) -> Rate:
    """What is answered right as it is, and not led astray by examples that were made for the undefended model."""
    outcomes = result.record.outcomes
    if isinstance(goal, Untargeted):
        goal = Untargeted(refusal=model.refusal)
    standing = torch.from_numpy(outcomes.status != Status.CLEAN_ERROR)
    label = torch.from_numpy(outcomes.label)
    for positions, examples in alone.examples():
        if len(positions):
            reached = goal.reached(answers(model, examples, seed), label[positions])
            standing[positions] &= ~reached
    return Rate.of(int(standing.sum()), len(outcomes))


def differing(broken_without: Tensor, broken_with: Tensor) -> tuple[int, int]:
    """How many inputs stand only with a part, and only without it."""
    won, lost = broken_without & ~broken_with, broken_with & ~broken_without
    return int(won.sum()), int(lost.sum())


def worth_of(won: int, lost: int, *, hidden: float) -> Worth:
    """What a part is worth: an exact one-sided sign test on the inputs about which the two differ (McNemar 1947).

    Args:
        won, lost: how many inputs stand only with it, and only without it.
        hidden: by how much the naive share that stands exceeds the adaptive one.
    """
    from scipy.stats import binom

    def beyond_chance(more: int) -> bool:
        return float(binom.sf(more - 1, won + lost, 0.5)) < 0.05

    if won > lost and beyond_chance(won):
        return Worth.ADDS
    if hidden >= HIDDEN:
        return Worth.HIDES
    return Worth.HARMS if lost > won and beyond_chance(lost) else Worth.NOTHING

"""Everything that can be checked before anything is spent or written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardpoint import __version__
from hardpoint.assess.cascade import Mode, cascade, wider
from hardpoint.assess.doctor import Diagnosis, diagnose
from hardpoint.assess.panel import PILOT, spread
from hardpoint.assess.work import Session
from hardpoint.attacks.base import check_target, checked_capacity, usable_threat
from hardpoint.attacks.transfer.surrogates import check_against
from hardpoint.core.access import Access
from hardpoint.core.box import UNBOUNDED
from hardpoint.core.rng import Rng
from hardpoint.data import Dataset, check_dataset
from hardpoint.engine.budget import Budget, Deadline
from hardpoint.engine.clean import clean_answers
from hardpoint.engine.randomness import samples_for
from hardpoint.engine.search import Target
from hardpoint.engine.twin import TwinPlan, choose_twin
from hardpoint.evidence.finding import Finding, finding
from hardpoint.models.base import Differentiable, Model
from hardpoint.models.limits import limit_access
from hardpoint.threats.features import FeatureEdits, LintKind, lint
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat

_ROWS_AGAINST_SCHEMA = (
    LintKind.BROKEN_RELATION,
    LintKind.OUT_OF_BOUNDS,
    LintKind.NOT_WHOLE,
    LintKind.WRONG_LEVEL,
    LintKind.NOT_ONE_HOT,
    LintKind.NOT_FINITE,
)


@dataclass(frozen=True)
class Prepared:
    """An assessment that may begin.

    Attributes:
        session: what workers need.
        diagnosis: what the pre-flight checks found.
        findings: what the data, the threat and the model's access gave rise to.
        mode, budget: as asked for.
        name: the assessment's folder.
    """

    session: Session
    diagnosis: Diagnosis
    findings: tuple[Finding, ...]
    mode: Mode
    budget: Budget
    name: str

    @property
    def black_box(self) -> bool:
        """Whether queries are what is counted."""
        return self.session.threat.access is not Access.GRADIENTS

    @property
    def query_limit(self) -> int | None:
        """Queries per input that threat and budget allow; None leaves it to the mode."""
        limits = [q for q in (self.session.threat.queries, self.budget.queries) if q is not None]
        return min(limits) if limits else None

    @property
    def short_of_queries(self) -> bool:
        """Whether the budget allows fewer queries than the threat, or than the mode where the threat is silent."""
        if self.budget.queries is None or not self.black_box:
            return False
        in_full = cascade(self.session.threat, self.mode, None)
        return self.budget.queries < sum(getattr(stage.attack, "queries", None) or 0 for stage in in_full)

    def plan(self) -> dict[str, Any]:
        """What identifies the work: everything that can change a bit of the result."""
        session = self.session
        twin = session.target.twin
        return {
            "hardpoint": __version__,
            "model": self.diagnosis.model.describe(),
            "data": session.data.describe(),
            "threat": session.threat.describe(),
            "mode": self.mode.value,
            "stages": [repr(stage) for stage in session.every_stage],
            "seed": session.seed,
            "passes": self.budget.passes,
            "queries": self.budget.queries,
            "capacity": session.target.capacity,
            "random": session.target.is_random,
            "samples": session.target.samples,
            "twin": {k: v for k, v in twin.describe().items() if k != "text"},
            **self._surrogates(),
        }

    def _surrogates(self) -> dict[str, Any]:
        """Nothing where there are none, as in folders that were begun before surrogates were told."""
        told = [model.describe() for model in self.session.surrogates]
        return {"surrogates": told} if told else {}


def prepare(
    model: Model,
    data: Dataset,
    wanted: Threat | Perturbation,
    *,
    mode: Mode,
    seed: int,
    budget: Budget,
    name: str | None,
    batch_size: int | None,
    surrogates: tuple[Differentiable, ...],
    allow_training: tuple[str, ...],
    twin_of: Callable[[str], TwinPlan | None],
) -> Prepared:
    """Check the model, the data and the threat, and fix stages, copy and batch size.

    ``twin_of(name)`` is the copy that an interrupted assessment of that name searched on, or None.

    Raises:
        HardpointError: when any of them cannot be used.
    """
    deadline = Deadline.after(budget.seconds)
    threat = usable_threat(wanted, model, Access.LABELS)
    diagnosis, sample = examined(model, data, threat.access, allow_training)
    diagnosis.raise_if_unusable()
    check_dataset(data, diagnosis.model.box, diagnosis.classes)
    check_target(threat, diagnosis.classes)
    check_against(surrogates, sample, diagnosis.model.box, diagnosis.classes)
    stages = cascade(threat, mode, diagnosis.classes, queries=budget.queries, surrogates=surrogates)
    black_box = threat.access is not Access.GRADIENTS
    searched = limit_access(diagnosis.model, threat.access) if black_box else diagnosis.model
    name = name or threat.name
    target = Target(
        searched,
        twin_of(name) or choose_twin(searched, sample, diagnosis.crossings),
        checked_capacity(batch_size, sample),
        diagnosis.is_random,
        _samples(searched, sample, threat, seed) if diagnosis.is_random else 1,
    )
    wide = wider(threat, mode, diagnosis.classes)
    session = Session(
        target, data, threat, stages, wide, seed, sample.device, deadline, diagnosis.classes, surrogates
    )
    findings = (
        *_access_findings(threat, Threat.of(wanted), model),
        *_schema_findings(threat, sample),
        *few_inputs(len(data)),
    )
    return Prepared(session, diagnosis, findings, mode, budget, name)


def _samples(model: Model, x: Tensor, threat: Threat, seed: int) -> int:
    """Passes averaged per question to a random model; its usual answers, refusals apart, stand in for labels."""
    answers = clean_answers(model, threat.access, x, torch.arange(len(x)), is_random=True)
    labels = answers.ranked[:, 0] if answers.ranked.shape[1] else answers.labels
    return samples_for(model, x, labels, Rng(seed), goal=threat.goal)


def examined(
    model: Model, data: Dataset, access: Access, allow_training: tuple[str, ...]
) -> tuple[Diagnosis, Tensor]:
    """The pre-flight checks on a pilot of the data, and the pilot's inputs on the model's device."""
    sample, _ = data.rows(torch.from_numpy(spread(len(data), PILOT)))
    if not bool(torch.isfinite(sample).all()):
        check_dataset(data, UNBOUNDED, None)  # names the row, before the model is blamed for it
    if not bool(model.box.contains(sample).all()):
        check_dataset(data, model.box, None)
    device = getattr(model, "device", None)
    sample = sample.to(device if isinstance(device, torch.device) else "cpu")
    return diagnose(model, sample, access, allow_training=allow_training), sample


def few_inputs(n: int) -> tuple[Finding, ...]:
    """HP403 for fewer than 200 inputs."""
    if n >= 200:
        return ()
    return (finding("HP403", f"{n} inputs", measured=float(n), threshold=200.0),)


def _access_findings(threat: Threat, wanted: Threat, model: Model) -> tuple[Finding, ...]:
    found: tuple[Finding, ...] = ()
    if threat.access < wanted.access:
        message = f"the model offers {model.access.word} only; assessed as a black box"
        found += (finding("HP111", message),)
    if threat.perturbation.eps == 0:
        found += (finding("HP203", f"{threat.perturbation.describe()['text']} allows no change"),)
    return found


def _schema_findings(threat: Threat, x: Tensor) -> tuple[Finding, ...]:
    """What is amiss with a table's constraints, seen on some rows."""
    if not isinstance(threat.perturbation, FeatureEdits):
        return ()
    kinds = {LintKind.VACUOUS_RELATION: "HP204", **dict.fromkeys(_ROWS_AGAINST_SCHEMA, "HP205")}
    return tuple(
        finding(
            kinds[issue.kind], f"{issue.subject}: {issue.message}", cure=issue.cure, measured=issue.measured
        )
        for issue in lint(threat.perturbation.schema, x.cpu())
        if issue.kind in kinds
    )

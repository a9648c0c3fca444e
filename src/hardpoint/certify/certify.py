"""``certify``: which inputs can no allowed change break?"""

from __future__ import annotations

import math
import time
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hardpoint.assess.assess import as_dataset
from hardpoint.assess.environment import describe_environment
from hardpoint.assess.progress import Progress, shown_progress
from hardpoint.bounds.ball import allowed
from hardpoint.bounds.certified import in_double, provable
from hardpoint.bounds.graph import Network
from hardpoint.bounds.tracing import traced
from hardpoint.certify.cascade import STAGES, Batch, Method, Plan
from hardpoint.certify.result import CertifyResult
from hardpoint.core.errors import BadModelOutput, ConfigError, DataError, ModelError, NothingToTest, ThreatError
from hardpoint.core.rows import chunks
from hardpoint.data import Dataset
from hardpoint.engine.guard import full_precision, preserved_random_state
from hardpoint.evidence.certificate import Certificate, CertificateRecord, Level, StageOutcome, merged
from hardpoint.models.loading import load_model
from hardpoint.models.torch import TorchModel
from hardpoint.threats.goals import Untargeted
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat

E = TypeVar("E", Level, Method)


def certify(
    model: nn.Module | TorchModel | str,
    x: Any,
    y: Any = None,
    *,
    threat: Threat | Perturbation,
    method: Method | str = "auto",
    soundness: Level | str = "real",
    seconds_per_input: float = 20.0,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool | Progress = True,
    name: str | None = None,
) -> CertifyResult:
    """Prove of each input that no allowed change makes the model answer another class, or find a change that does.

    Stages, each on what the ones before left: the clean answer, an attack, interval bounds, linear bounds (CROWN), lines
    chosen for each bound (alpha-CROWN), a longer attack, branch and bound. All bounds that count are computed in float64.

    Args:
        model: a network of layers that bounds are known for, in evaluation mode, or a ``TorchModel`` or
            ``"pkg.mod:factory"`` of one.
        x: float inputs ``[n, ...]`` in the model's input range, or a ``Dataset`` (``y`` is then left out).
        y: int64 ``[n]``: the classes that are to stand.
        threat: ``Linf``, ``L2``, ``L1`` or ``FeatureEdits``, alone or in an untargeted threat.
        method: how far the stages go: ``"interval"``, ``"crown"``, ``"alpha"``, ``"branch"``; ``"auto"`` for all.
        soundness: ``"real"``, ``"rigorous"`` or ``"deployed"``; see ``Level``.
        seconds_per_input: what branch and bound may spend on one input.
        seed: of the points that attacks begin at.
        batch_size: inputs that are bounded together.
        progress: whether to show progress on stderr, or a ``Progress`` of your own.
        name: what the run is called in reports; the threat's name by default.

    Raises:
        UnknownOperator: for a part of the network that no bound is known for, naming it and its line.
        ThreatError: for a threat that bounds say nothing about.
        DataError, ModelError, ConfigError: for inputs, models and settings that cannot be used.

    >>> net = nn.Sequential(nn.Linear(1, 2)).eval().requires_grad_(False)
    >>> _ = net[0].weight.copy_(torch.tensor([[-1.0], [1.0]])), net[0].bias.copy_(torch.tensor([0.5, -0.5]))
    >>> from hardpoint import Linf
    >>> found = certify(net, torch.tensor([[0.7], [0.55]]), torch.tensor([1, 1]), threat=Linf(0.1), progress=False)
    >>> [each.standing.value for each in found.certificates]
    ['robust', 'vulnerable']
    """
    data = as_dataset(x, y)
    inputs, labels = _gathered(data)
    plan = _planned(model, inputs, labels, threat, method, soundness, seconds_per_input, seed)
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}", "give 1 or more")
    batches: list[Batch] = []
    outcomes: list[StageOutcome] = []
    with preserved_random_state(), full_precision(), shown_progress(progress) as display:
        display.begin("certify", len(inputs))
        for part, of_part in zip(chunks(inputs, batch_size), chunks(labels, batch_size), strict=True):
            batch = Batch.of(plan, part, of_part)
            outcomes += _met(plan, batch)
            batches.append(batch)
            display.advance(len(part))
        record = _record(plan, batches, outcomes, name)
        display.end(f"{record.certified.value:.1%} proven")
    header = {"environment": describe_environment(), "code": _as_code(plan, soundness)}
    witnesses = torch.cat([batch.witness for batch in batches])
    return CertifyResult(record, header, plan, inputs, labels, witnesses)


def _met(plan: Plan, batch: Batch) -> list[StageOutcome]:
    """Every stage of the plan on one batch."""
    outcomes = []
    for name, needs, stage in STAGES:
        rows = batch.open
        if not len(rows) or (needs is not None and not plan.method.includes(needs)):
            continue
        began = time.monotonic()
        proven, fell = stage(plan, batch, rows)
        spent = time.monotonic() - began
        if name != "branch":
            batch.seconds[rows] += spent / len(rows)
        outcomes.append(StageOutcome(name, len(rows), proven, fell, spent))
    return outcomes


def _record(
    plan: Plan, batches: list[Batch], outcomes: list[StageOutcome], name: str | None
) -> CertificateRecord:
    certificates, start = [], 0
    for batch in batches:
        certificates += [
            Certificate(
                start + i,
                int(batch.y[i]),
                batch.standing[i],
                float(batch.bound[i]),
                batch.stage[i],
                float(batch.seconds[i]),
                batch.reason[i],
            )
            for i in range(len(batch.x))
        ]
        start += len(batch.x)
    return CertificateRecord(
        name=name or plan.perturbation.name,
        threat=plan.perturbation.describe(),
        level=plan.level,
        method=plan.method.value,
        seconds_per_input=plan.seconds,
        stages=merged(outcomes),
        certificates=tuple(certificates),
    )


def _planned(
    model: nn.Module | TorchModel | str,
    x: Tensor,
    y: Tensor,
    threat: Threat | Perturbation,
    method: Method | str,
    soundness: Level | str,
    seconds: float,
    seed: int,
) -> Plan:
    found = load_model(model)
    if not isinstance(found, TorchModel):
        raise ModelError(
            f"{type(found).__name__} is no torch network, which is what bounds are known for",
            "give the module itself; ONNX files have `hardpoint certify --onnx`, trees hardpoint.bounds.trees",
        )
    known = provable(found, x, y)
    wanted = Threat.of(threat)
    if not isinstance(wanted.goal, Untargeted):
        raise ThreatError("a targeted threat cannot be certified", "certify against the untargeted one: it holds more")
    if not math.isfinite(wanted.perturbation.eps) or not 0 < seconds < math.inf:
        raise ConfigError(
            f"eps is {wanted.perturbation.eps}, seconds_per_input is {seconds}", "give finite numbers above 0"
        )
    allowed(x[:1], known.box, wanted.perturbation)  # refuses what has no bounds
    with full_precision():
        exact = traced(in_double(known.module), x[:1].double())
        quick = traced(in_double(known.module).float(), x[:1].float())
        answer = exact(x[:1].double())
    if answer.dim() != 2:
        raise BadModelOutput(
            f"each input has scores of shape {tuple(answer.shape[1:])}", "return [n, classes]"
        )
    classes = answer.shape[1]
    if int(y.max()) >= max(2, classes):
        raise DataError(f"there is a label {int(y.max())}, the model has {classes} classes", "give labels it has")
    return Plan(
        known,
        Network(exact, quick),
        wanted.perturbation,
        classes,
        _parsed(Level, soundness, "soundness"),
        _parsed(Method, method, "method"),
        float(seconds),
        seed,
    )


def _gathered(data: Dataset) -> tuple[Tensor, Tensor]:
    """All inputs and labels of a data set, on the processor."""
    if not len(data):
        raise NothingToTest("there are no inputs", "give at least one")
    x, y = data.rows(torch.arange(len(data)))
    return x.cpu(), y.cpu().long()


def _parsed(kind: type[E], value: E | str, what: str) -> E:
    try:
        return kind(value)
    except ValueError:
        names = ", ".join(repr(each.value) for each in kind)
        raise ConfigError(f"{what} is {value!r}", f"give one of {names}") from None


def _as_code(plan: Plan, soundness: Level | str) -> str:
    return (
        f"hp.certify(model, x, y, threat={plan.perturbation!r}, method={plan.method.value!r}, "
        f"soundness={Level(soundness).value!r}, seconds_per_input={plan.seconds:g}, seed={plan.seed})"
    )

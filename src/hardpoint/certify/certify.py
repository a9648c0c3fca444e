"""``certify``: which inputs can no allowed change break?"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hardpoint import __version__
from hardpoint.assess.assess import as_dataset
from hardpoint.assess.environment import describe_environment
from hardpoint.assess.progress import Progress, shown_progress
from hardpoint.certify.cascade import STAGES, Batch, Certifiable, Method, Plan
from hardpoint.certify.parts import Kept, Part
from hardpoint.certify.planning import gathered, planned
from hardpoint.certify.result import CertifyResult
from hardpoint.core.errors import ConfigError
from hardpoint.data import Dataset
from hardpoint.engine.guard import full_precision, preserved_random_state
from hardpoint.engine.heap import kept_memory
from hardpoint.evidence.certificate import (
    Certificate,
    CertificateRecord,
    Level,
    StageOutcome,
    Standing,
    merged,
)
from hardpoint.evidence.store import RunFolder
from hardpoint.models.onnx import OnnxModel
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat


def certify(
    model: nn.Module | Certifiable | str,
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
    gate: float | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    header: Mapping[str, Any] | None = None,
) -> CertifyResult:
    """Prove of each input that no allowed change makes the model answer another class, or find a change that does.

    Stages, each on what the ones before left: the clean answer, an attack, interval bounds, linear bounds (CROWN),
    lines chosen for each bound (alpha-CROWN), a longer attack, branch and bound. All bounds that count are computed in
    float64.

    Args:
        model: a network of layers that bounds are known for, in evaluation mode, a ``TorchModel`` or ``OnnxModel``, or
            ``"pkg.mod:factory"`` or an ``.onnx`` file of one.
        x: float inputs ``[n, ...]`` in the model's input range, or a ``Dataset`` (``y`` is then left out).
        y: int64 ``[n]``: the classes that are to stand.
        threat: ``Linf``, ``L2``, ``L1`` or ``FeatureEdits``, alone or in an untargeted threat.
        method: how far the stages go: ``"interval"``, ``"crown"``, ``"alpha"``, ``"branch"``; ``"auto"`` for all.
        soundness: ``"real"``, ``"rigorous"`` or ``"deployed"``; see ``Level``.
        seconds_per_input: what branch and bound may spend on one input.
        seed: of the points that attacks begin at.
        batch_size: inputs that are bounded together.
        progress: whether to show progress on stderr, or a ``Progress`` of your own.
        name: what the proofs are called in reports and folders; the threat's name by default.
        gate: the proven share asked for, for reports.
        run_dir: a folder that keeps what is proven, batch by batch.
        resume: go on with the proofs in ``run_dir``; the standings are those of a run that was not interrupted.
        header: what else the folder and reports say of the run.

    Raises:
        UnknownOperator: for a part of the network that no bound is known for, naming it and its line.
        ThreatError: for a threat that bounds say nothing about.
        DataError, ModelError, ConfigError: for inputs, models and settings that cannot be used.
        RunError: for a folder that holds another run, or cannot be written.

    >>> net = nn.Sequential(nn.Linear(1, 2)).eval().requires_grad_(False)
    >>> _ = net[0].weight.copy_(torch.tensor([[-1.0], [1.0]])), net[0].bias.copy_(torch.tensor([0.5, -0.5]))
    >>> from hardpoint import Linf
    >>> found = certify(net, torch.tensor([[0.7], [0.55]]), torch.tensor([1, 1]), threat=Linf(0.1), progress=False)
    >>> [each.standing.value for each in found.certificates]
    ['robust', 'vulnerable']
    """
    data = as_dataset(x, y)
    inputs, labels = gathered(data)
    plan = planned(model, inputs, labels, threat, method, soundness, seconds_per_input, seed)
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}", "give 1 or more")
    if gate is not None and not 0 <= gate <= 1:
        raise ConfigError(f"gate is {gate}", "give a share from 0 to 1")
    name = name or plan.perturbation.name
    told = {"environment": describe_environment(), "code": _as_code(plan), **(header or {})}
    run = None if run_dir is None else RunFolder(run_dir)
    kept = None if run is None else _begun(run, name, plan, data, batch_size, told, resume)
    parts: list[Part] = []
    with preserved_random_state(), full_precision(), kept_memory(), shown_progress(progress) as display:
        display.begin(f"certify {name}", len(inputs))
        for start in range(0, len(inputs), batch_size):
            x_here, y_here = inputs[start : start + batch_size], labels[start : start + batch_size]
            part = None if kept is None else kept.get(start, len(x_here))
            if part is None:
                batch = Batch.of(plan, x_here, y_here)
                part = _part(batch, _met(plan, batch), start)
                if kept is not None:
                    kept.put(part)
            parts.append(part)
            display.advance(len(x_here))
        record = _record(plan, parts, name, gate, data)
        display.end(f"{record.certified.value:.1%} proven")
    broken, points = torch.cat([part.broken for part in parts]), torch.cat([part.points for part in parts])
    if run is not None:
        run.write_certificates(record, {"index": broken.numpy(), "point": points.numpy()})
    return CertifyResult(record, told, plan, inputs, labels, inputs.index_copy(0, broken, points))


def _begun(
    run: RunFolder,
    name: str,
    plan: Plan,
    data: Dataset,
    batch_size: int,
    header: Mapping[str, Any],
    resume: bool,
) -> Kept:
    """The folder for the parts, where the run that is to be resumed is this one."""
    folder = run.certificate_parts(name)
    identity = {
        "hardpoint": __version__,
        "model": plan.model.describe(),
        "data": data.describe(),
        "threat": plan.perturbation.describe(),
        "level": plan.level.value,
        "method": plan.method.value,
        "seconds_per_input": plan.seconds,
        "seed": plan.seed,
        "batch_size": batch_size,
    }
    if resume and (folder.path / "plan.json").exists():
        folder.begin(identity)  # work under another plan is refused before anything is written
    run.begin({"certificates": [name], **header}, resume=resume)
    folder.begin(identity)
    return Kept(folder)


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


def _part(batch: Batch, stages: list[StageOutcome], start: int) -> Part:
    certificates = tuple(
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
    )
    fell = [i for i, standing in enumerate(batch.standing) if standing is Standing.VULNERABLE]
    rows = torch.tensor(fell, dtype=torch.int64)
    return Part(certificates, merged(stages), rows + start, batch.witness[rows])


def _record(plan: Plan, parts: list[Part], name: str, gate: float | None, data: Dataset) -> CertificateRecord:
    return CertificateRecord(
        name=name,
        threat=plan.perturbation.describe(),
        level=plan.level,
        method=plan.method.value,
        seconds_per_input=plan.seconds,
        stages=merged([stage for part in parts for stage in part.stages]),
        certificates=tuple(each for part in parts for each in part.certificates),
        gate=gate,
        model=plan.model.describe(),
        data=data.describe(),
        notes=_notes(plan),
    )


def _notes(plan: Plan) -> tuple[str, ...]:
    if not isinstance(plan.model, OnnxModel) or not plan.model.left_out:
        return ()
    last = plan.model.left_out
    return (
        f"The scores are those before the file's final {last}. Where it rounds two of them to one, the file itself "
        "does not tell which is larger.",
    )


def _as_code(plan: Plan) -> str:
    return (
        f"hp.certify(model, x, y, threat={plan.perturbation!r}, method={plan.method.value!r}, "
        f"soundness={plan.level.value!r}, seconds_per_input={plan.seconds:g}, seed={plan.seed})"
    )

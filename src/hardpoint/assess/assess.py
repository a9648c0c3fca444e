"""``assess``: how many inputs does an attacker break, and how do we know?"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Any

import torch

from hardpoint.assess.cascade import Mode
from hardpoint.assess.environment import describe_environment
from hardpoint.assess.prepare import examined, few_inputs, prepare
from hardpoint.assess.progress import Progress, shown_progress
from hardpoint.assess.result import Result
from hardpoint.assess.run import Run, remembered_twin
from hardpoint.attacks.transfer.surrogates import load_surrogates
from hardpoint.data import Dataset, MemoryDataset
from hardpoint.engine.budget import Budget
from hardpoint.engine.executors import Executor, executor_of
from hardpoint.engine.guard import preserved_random_state
from hardpoint.engine.heap import kept_memory
from hardpoint.evidence.finding import Finding
from hardpoint.evidence.store import RunFolder
from hardpoint.models.loading import load_model
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat


def assess(
    model: Any,
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
    workers: int | Executor = 1,
    batch_size: int | None = None,
    surrogates: Any = (),
    gate: float | None = None,
    name: str | None = None,
    allow_training: tuple[str, ...] = (),
    header: dict[str, Any] | None = None,
) -> Result:
    """Attack every input, verify every success on the model itself, and say what was found.

    Args:
        model: an ``nn.Module`` in evaluation mode, a ``hardpoint.models`` adapter, a fitted scikit-learn classifier,
            ``"pkg.mod:factory"``, or a path to an ONNX file.
        x: float inputs ``[n, ...]`` in the model's input range, or a ``Dataset`` (``y`` is then left out).
        y: integer labels ``[n]``.
        threat: a threat, or a bare perturbation for the untargeted threat with the model's best access.
        mode: ``"fast"``, ``"standard"`` or ``"thorough"``; see ``Mode``.
        seed: every random draw follows from it and an input's position.
        budget: limits on passes or queries per input and on wall time; inputs cut short count as standing and
            a finding says so.
        run_dir: folder that keeps the evidence while running; an interrupted run continues with ``resume``.
        progress: whether to show progress on stderr, or a ``Progress`` of your own.
        resume: continue the run in ``run_dir``.
        workers: local processes, or an executor.
        batch_size: inputs in flight; chosen from the input's size by default.
        surrogates: models of the attacker's own, one or several, to attack this one through; transfer then comes first
            for black-box threats, and is one more attack of ``thorough`` and of the checks for others.
        gate: the robust accuracy asked for; the record's verdict fails below it.
        name: what the assessment is called in reports and run folders; the threat's name by default.
        allow_training: names of layers that may stay in training mode.
        header: further entries for the run's header, for example the command.

    Raises:
        HardpointError: when model, data, threat or folder cannot be used; the message names the cure.

    >>> model = torch.nn.Linear(2, 2).eval()
    >>> x = torch.rand(32, 2, generator=torch.Generator().manual_seed(0))
    >>> from hardpoint import Linf
    >>> assess(model, x, model(x).argmax(1), threat=Linf(0.0)).robust_accuracy.value
    1.0
    """
    began = time.monotonic()
    adapter, data = load_model(model), as_dataset(x, y)
    with preserved_random_state(), kept_memory(), shown_progress(progress) as display:
        folder = RunFolder(run_dir) if run_dir is not None else None
        prepared = prepare(
            adapter,
            data,
            threat,
            mode=Mode.parse(mode),
            seed=seed,
            budget=budget or Budget(),
            name=name,
            batch_size=batch_size,
            surrogates=load_surrogates(surrogates) if surrogates else (),
            allow_training=allow_training,
            twin_of=lambda known: remembered_twin(folder.assessment(known)) if folder and resume else None,
        )
        about = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "code": as_code("assess", threat, prepared.mode, seed),
            **(header or {}),
            "environment": describe_environment(),
        }
        run = Run(prepared, folder, executor_of(workers), display, about)
        run.begin(resume=resume)
        given = isinstance(x, torch.Tensor) and x.is_floating_point()
        kept = x.detach() if given else data.x if isinstance(data, MemoryDataset) else None
        return run.stored(gate, kept) or run.complete(gate, began, kept)


def doctor(model: Any, x: Any, y: Any = None, *, allow_training: tuple[str, ...] = ()) -> tuple[Finding, ...]:
    """The pre-flight checks alone: what would make a robustness number meaningless or weak.

    >>> doctor(torch.nn.Linear(2, 3).eval(), torch.rand(32, 2), torch.zeros(32, dtype=torch.int64))[-1].id
    'HP403'
    """
    adapter, data = load_model(model), as_dataset(x, y)
    with preserved_random_state():
        found, _ = examined(adapter, data, adapter.access, allow_training)
        return (*found.findings, *few_inputs(len(data)))


def as_dataset(x: Any, y: Any) -> Dataset:
    """The data set in ``x``, or one made of the tensors or arrays ``x`` and ``y``."""
    return x if isinstance(x, Dataset) and y is None else MemoryDataset(x, y)


def as_code(verb: str, threat: Threat | Perturbation, mode: Mode | str, seed: int) -> str:
    """The call, for the report's section on reproducing it."""
    what = threat if isinstance(threat, Perturbation) else Threat.of(threat)
    return f"hp.{verb}(model, x, y, threat={what!r}, mode={Mode.parse(mode).value!r}, seed={seed})"

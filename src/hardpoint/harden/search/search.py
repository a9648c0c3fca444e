"""``search``: find an architecture that robust training makes more of."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hardpoint.assess.assess import as_dataset, assess
from hardpoint.assess.cascade import Mode
from hardpoint.assess.environment import describe_environment
from hardpoint.assess.progress import Progress, shown_progress
from hardpoint.assess.result import Result
from hardpoint.core.errors import ConfigError, ModelError, RunError
from hardpoint.core.rng import Rng, split_rows
from hardpoint.data import Dataset, check_dataset, subset
from hardpoint.engine.clean import first_answer
from hardpoint.engine.executors import Executor, executor_of
from hardpoint.evidence.search import SearchRecord, Trial
from hardpoint.evidence.store import RunFolder, begin_plan, write_atomically
from hardpoint.harden.against import trainable_threat
from hardpoint.harden.harden import optional_dataset, refuse_overlap, trainable
from hardpoint.harden.names import DEFAULT, recipe_named
from hardpoint.harden.recipes import Atta, Recipe
from hardpoint.harden.recipes.recipe import check_data, keeping
from hardpoint.harden.search.limits import Limits
from hardpoint.harden.search.proposals import Proposal, proposed
from hardpoint.harden.search.result import SearchResult
from hardpoint.harden.search.space import Space
from hardpoint.harden.search.trying import Session, Task, tried
from hardpoint.harden.settings import Training
from hardpoint.models.torch import TorchModel
from hardpoint.models.weights import load_weights
from hardpoint.report.tradeoff import drawn
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat

BASELINE, FOUND = "baseline", "found"
"""Names of the two assessments in a run folder."""
_JUDGED, _PASSES = 500, 300


def search(
    baseline: Any,
    x: Any,
    y: Any = None,
    *,
    threat: Threat | Perturbation,
    trials: int = 20,
    space: Space | None = None,
    limits: Limits | None = None,
    recipe: Recipe | str | None = None,
    training: Training | None = None,
    test: Dataset | tuple[Any, Any] | None = None,
    judged: int = _JUDGED,
    passes: int = _PASSES,
    mode: Mode | str = "fast",
    seed: int = 0,
    workers: int | Executor = 1,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool | Progress = True,
    header: dict[str, Any] | None = None,
) -> SearchResult:
    """Search for an architecture no larger than ``baseline`` that is more robust once it is trained in the same way.

    Each trial trains a network by ``recipe`` and judges it by its robust accuracy under the ``fast`` attacks, on inputs
    that are neither trained nor tested on; a baseline that was trained before may know them. Networks that fall behind
    are given up at a third or two of their training, or after it, where a short attack already breaks more of those
    inputs than all attacks did of the best so far.

    Args:
        baseline: a network to be beaten, as for ``harden``: it is trained like the others, from the weights it has.
        x, y: training inputs ``[n, features]`` or ``[n, channels, height, width]`` and labels, as for ``harden``.
        threat: what to hold under.
        trials: networks that are tried besides the baseline.
        space: among what is searched.
        limits: the most that a network may hold and compute; as many weights as the baseline, and twice its
            operations, where None.
        recipe: how all are trained; ``Atta()`` where None.
        training: how long and how fast; it must hold inputs back (``validation``).
        test: inputs for the assessments of the trained baseline and of the network that was found.
        judged: inputs that are held back to judge finished networks by; at most a fifth of all.
        passes: forward and backward passes that judging one of them may cost. Networks that hide their gradients would
            cost many times that, and what is left of them is seen on ``test``.
        mode: of the assessments on ``test``.
        seed: of every draw.
        workers: trials that run at once: processes here, or an ``Executor`` such as ``RayCluster``, whose machines must
            share ``run_dir``.
        run_dir: folder for all trials, the page, ``architecture.py`` and ``model.safetensors``.
        resume: go on in ``run_dir``.
        progress: whether to show progress on stderr, or a ``Progress`` of your own.
        header: further entries for the run's header.

    Raises:
        HardpointError: where ``harden`` does, for shapes that no architecture is known for, and where no trial could be
            trained to the end.
    """
    training, space, chosen = training or Training(), space or Space(), _recipe(recipe)
    if not all(isinstance(count, int) and count >= 1 for count in (trials, judged, passes)):
        raise ConfigError(f"trials is {trials!r}, judged {judged!r} and passes {passes!r}", "give 1 or more")
    if not training.validation:
        raise ConfigError("training holds no inputs back", "give Training(validation=0.05) or more")
    given, data, held_out, executor = (
        trainable(baseline),
        as_dataset(x, y),
        optional_dataset(test),
        executor_of(workers),
    )
    wanted = trainable_threat(threat, given, chosen)
    few = data.rows(torch.arange(min(2, len(data))))[0]
    classes = first_answer(given.scores, few).shape[1]
    check_dataset(data, given.box, classes)
    check_data(chosen, few, classes)
    if held_out is not None:
        refuse_overlap(data, held_out)
    limits = limits or Limits.like(given.module, data.shape)
    if proposed(space, data.shape, classes, limits, (), 1, seed) is None:
        raise ConfigError(
            f"no network has at most {limits.weights} weights and {limits.operations} operations",
            "give wider limits",
        )
    rows, judges = split_rows(len(data), min(0.2, judged / len(data)), Rng(seed).fork("judges"))
    about = {
        "model": {**given.describe(), "network": str(given.module)},
        "data": data.describe(),
        "threat": wanted.describe(),
        "space": {key: [str(value) for value in held] for key, held in vars(space).items()},
        "limits": vars(limits),
        "recipe": repr(chosen),
        "training": training.describe(),
        "judged": len(judges),
        "passes": passes,
        "seed": seed,
        "at_once": executor.workers,
        "versions": describe_environment().get("versions"),
    }
    with _folder(run_dir) as path, shown_progress(progress) as display:
        run = RunFolder(path)
        _refuse_others(run, about, resume)
        run.begin(_header(about, wanted, mode, held_out, trials, training, header), resume=resume)
        begin_plan(run.search_path / "plan.json", about)
        session = Session(
            baseline=given,
            learn=subset(data, rows),
            judge=subset(data, judges),
            threat=wanted,
            recipe=chosen,
            training=training,
            seed=seed,
            passes=passes,
            folder=path / "trials",
            display=display,
        )
        size = vars(limits)
        record = run.search() or SearchRecord(
            str(wanted.name), chosen.name, session.epochs, trials, **size, trials=()
        )
        record = _searched(session, replace(record, planned=trials), space, limits, classes, executor, run)
        result = _best(session, record, isinstance(baseline, nn.Module))
        write_atomically(path / "architecture.py", result.architecture.source().encode())
        write_atomically(path / "model.safetensors", session.weights(result.found.number).read_bytes())
        before = None
        if held_out is not None and record.baseline is not None and record.baseline.robust is not None:
            before = _assessed(_trained(session, 0, None), held_out, session, BASELINE, mode, run)
        after = _assessed(result.model, held_out, session, FOUND, mode, run)
        run.update(status="finished")
        return replace(result, before=before, after=after)


def _searched(
    session: Session,
    record: SearchRecord,
    space: Space,
    limits: Limits,
    classes: int,
    executor: Executor,
    run: RunFolder,
) -> SearchRecord:
    """The record with all trials, as many at once as there are workers; kept after each."""
    at_once = executor.workers
    with executor.open(tried, session) as pool:
        for first in range(0, record.planned + 1, at_once):
            numbers = range(first, min(first + at_once, record.planned + 1))
            known = tuple(trial for trial in record.trials if trial.number < first)
            tasks = list(_tasks(session, known, numbers, space, limits, classes))
            done = {trial.number for trial in record.trials}
            left = [task for task in tasks if task.number not in done]
            for task in left:
                session.display.begin(_named(task, record.planned), 1)
                session.display.end("begins")
            for _, trial in pool.run(left):
                trials = sorted([*record.trials, trial], key=lambda t: t.number)
                record = replace(record, trials=tuple(trials))
                run.write_search(record)
                write_atomically(run.search_path / "tradeoff.svg", drawn(record).encode())
            if len(tasks) < len(numbers):
                break  # the space is exhausted
    return record


def _named(task: Task, planned: int) -> str:
    if task.proposal is None:
        return "the baseline"
    return f"trial {task.number} of {planned}: {task.proposal.architecture}"


def _tasks(
    session: Session, known: tuple[Trial, ...], numbers: range, space: Space, limits: Limits, classes: int
) -> Iterator[Task]:
    """The trials of these numbers, each unlike those before; fewer where no others are left."""
    asked: list[Proposal] = []
    for number in numbers:
        if number == 0:
            yield Task(0, None, ())
            continue
        proposal = proposed(
            space, session.learn.shape, classes, limits, known, number, session.seed, besides=asked
        )
        if proposal is None:
            return
        asked.append(proposal)
        yield Task(number, proposal, known)


def _refuse_others(run: RunFolder, about: dict[str, Any], resume: bool) -> None:
    """Raise ``RunError`` where the folder holds other work than this search; nothing is written."""
    if not resume or not run.exists:
        return
    plan = run.search_path / "plan.json"
    others = [name for name in run.names() if name not in (BASELINE, FOUND)]
    if not plan.exists() and (others or run.training_path.exists()):
        raise RunError(f"{run.path} holds no search", "give a new folder")
    if plan.exists():
        begin_plan(plan, about)


def _best(session: Session, record: SearchRecord, is_module: bool) -> SearchResult:
    found = record.found
    if found is None:
        failed = [trial.problem for trial in record.trials if trial.problem]
        raise ModelError(
            "no network was trained to the end" + (f" ({failed[0]})" if failed else ""),
            "give more trials, or train slower",
        )
    proposal = Proposal.from_json(found.network)
    model = _trained(session, found.number, proposal)
    return SearchResult(model.module if is_module else model, proposal.architecture, record, None, None)


def _trained(session: Session, number: int, proposal: Proposal | None) -> TorchModel:
    """The network of a finished trial with its weights."""
    model = session.network(number, proposal)
    model.module.load_state_dict(load_weights(session.weights(number)))
    return replace(model, module=model.module.eval())


def _assessed(
    model: Any, test: Dataset | None, session: Session, name: str, mode: Mode | str, run: RunFolder
) -> Result | None:
    if test is None:
        return None
    return assess(
        model if isinstance(model, TorchModel) else replace(session.baseline, module=model),
        test,
        threat=session.threat,
        mode=mode,
        seed=session.seed,
        name=name,
        run_dir=run.path,
        resume=True,
        progress=session.display,
    )


def _recipe(recipe: Recipe | str | None) -> Recipe:
    if recipe is None:
        return Atta()
    if recipe == DEFAULT:
        raise ConfigError(
            "the default recipe differs from network to network", 'give one for all, such as "atta"'
        )
    chosen = recipe_named(recipe) if isinstance(recipe, str) else recipe
    if keeping(chosen) is not None:
        raise ConfigError(f"{chosen.name} leaves networks as they are", "give a recipe that trains them")
    return chosen


@contextmanager
def _folder(run_dir: str | os.PathLike[str] | None) -> Iterator[Path]:
    """The run's folder, or one for the time of the search."""
    if run_dir is not None:
        yield Path(run_dir)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "search"


def _header(
    about: dict[str, Any],
    threat: Threat,
    mode: Mode | str,
    test: Dataset | None,
    trials: int,
    training: Training,
    header: dict[str, Any] | None,
) -> dict[str, Any]:
    how = f"threat={threat!r}, trials={trials}, recipe={about['recipe']}, training={training!r}"
    how += f", judged={about['judged']}, passes={about['passes']}, limits=Limits(**{about['limits']})"
    how += f", mode={Mode.parse(mode).value!r}, seed={about['seed']}"
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": describe_environment(),
        "code": f"hp.search(baseline, x, y, {how})",
        "model": about["model"],
        "mode": Mode.parse(mode).value,
        **(header or {}),
        "assessments": [BASELINE, FOUND] if test is not None else [],
    }

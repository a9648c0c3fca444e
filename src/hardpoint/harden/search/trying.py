"""One trial: a network trained as far as it is worth it, and judged. Runs in any process."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hardpoint.assess.arsenal import arsenal_for
from hardpoint.assess.assess import assess
from hardpoint.assess.progress import Progress, Silent
from hardpoint.attacks.base import attack_alone
from hardpoint.core.access import Access
from hardpoint.core.errors import ModelError
from hardpoint.core.rng import Rng
from hardpoint.data import Dataset, MemoryDataset
from hardpoint.engine.budget import Budget
from hardpoint.engine.guard import preserved_random_state
from hardpoint.evidence.search import Trial
from hardpoint.evidence.training import Epoch
from hardpoint.harden.harden import harden
from hardpoint.harden.recipes import Recipe
from hardpoint.harden.recipes.recipe import replaying
from hardpoint.harden.search.limits import Size
from hardpoint.harden.search.proposals import Proposal, given_up
from hardpoint.harden.settings import Training
from hardpoint.models.torch import TorchModel
from hardpoint.threats.threat import Threat


@dataclass(frozen=True)
class Session:
    """What all trials share. Picklable.

    Attributes:
        baseline: the network to be beaten, with the input range that all have.
        learn, judge: what is trained on, and what finished networks are judged by.
        threat, recipe, training, seed: as for ``harden``.
        passes: that judging an input may cost.
        folder: where each trial has a folder.
        display: where progress is shown, in this process.
    """

    baseline: TorchModel
    learn: Dataset
    judge: Dataset
    threat: Threat
    recipe: Recipe
    training: Training
    seed: int
    passes: int
    folder: Path
    display: Progress

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "display": Silent()}

    @property
    def epochs(self) -> int:
        """Of a whole training."""
        part = replaying(self.recipe)
        return max(1, math.ceil(self.training.epochs / (1 if part is None else part.replays)))

    def network(self, number: int, proposal: Proposal | None) -> TorchModel:
        """The network of a trial before training; the baseline's weights are those it has."""
        if proposal is None:
            return replace(self.baseline, module=copy.deepcopy(self.baseline.module))
        seed = Rng(self.seed).fork("weights").fork(number).torch_seed()
        with preserved_random_state(seed=seed):
            built = proposal.architecture.build()
        return replace(self.baseline, module=built.to(self.baseline.device).eval())

    def weights(self, number: int) -> Path:
        """Where the trained weights of a finished trial are."""
        return self.of(number) / "training" / "training" / "model.safetensors"

    def of(self, number: int) -> Path:
        """The folder of a trial."""
        return self.folder / f"{number:03d}"


@dataclass(frozen=True)
class Task:
    """A trial to run: its number, what it trains (None for the baseline), and what it may be compared with."""

    number: int
    proposal: Proposal | None
    known: tuple[Trial, ...]


class _GivenUp(Exception):
    """The trial is behind the others."""


def tried(session: Session, task: Task) -> Trial:
    """Train and judge the network of ``task``; goes on in the trial's folder where it was interrupted."""
    model, folder = session.network(task.number, task.proposal), session.of(task.number)
    size = Size.of(model.module, session.learn.shape)
    words = "the network as given" if task.proposal is None else str(task.proposal.architecture)
    history: list[Epoch] = []

    def watch(epochs: tuple[Epoch, ...]) -> None:
        history[:] = epochs
        curve = [epoch.robust or 0.0 for epoch in epochs]
        if task.number and given_up(task.known, curve, session.epochs):
            raise _GivenUp

    clean = robust = None
    problem, judging = "", 0.0
    try:
        trained = harden(
            model,
            session.learn,
            threat=session.threat,
            recipe=session.recipe,
            training=session.training,
            seed=session.seed,
            run_dir=folder / "training",
            resume=True,
            progress=session.display,
            each_epoch=watch,
        )
        began = time.monotonic()
        if _is_behind(session, task, trained.model):
            raise _GivenUp
        judged = assess(
            trained.model,
            session.judge,
            threat=session.threat,
            seed=session.seed,
            budget=Budget(passes=session.passes),
            name="judged",
            run_dir=folder / "judged",
            resume=True,
            progress=session.display,
        )
        judging = time.monotonic() - began
        clean, robust = judged.clean_accuracy, judged.robust_accuracy
    except _GivenUp:
        pass
    except (ModelError, RuntimeError) as error:  # it diverged, or there is no memory for it; others may not
        problem = str(error).splitlines()[0]
    return Trial(
        number=task.number,
        network={} if task.proposal is None else task.proposal.to_json(),
        words=words,
        weights=size.weights,
        operations=size.operations,
        curve=tuple(epoch.robust or 0.0 for epoch in history),
        clean=clean,
        robust=robust,
        seconds=judging + sum(epoch.seconds for epoch in history),
        problem=problem,
    )


def _is_behind(session: Session, task: Task, model: TorchModel) -> bool:
    """Whether a short attack breaks so many of the inputs that the trial cannot be the best: more would break more."""
    best = max((trial.robust.value for trial in task.known if trial.number and trial.robust), default=0.0)
    if task.number == 0 or best == 0:
        return False
    x, y = session.judge.rows(torch.arange(len(session.judge)))
    threat = replace(session.threat, access=Access.GRADIENTS, queries=None)
    classes = model.scores(x[:1]).shape[1]
    attack = arsenal_for(threat.perturbation, classes).quick
    found = attack_alone(
        attack, replace(model, access=Access.GRADIENTS), MemoryDataset(x, y), threat, session.seed
    )
    return float((~found.broken).double().mean()) <= best

"""One of several processes that train together: what it is given, how it tells the caller, and what it does."""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hardpoint.assess.progress import Progress, Silent
from hardpoint.core.errors import HardpointError, RunError
from hardpoint.engine.executors.processes import behave_as_worker
from hardpoint.engine.heap import keep_memory
from hardpoint.engine.twin import TwinPlan
from hardpoint.evidence.training import Epoch
from hardpoint.harden.checkpoint import Checkpoint, under
from hardpoint.harden.learner import CraftMode, Learner
from hardpoint.harden.ranks import Ranks
from hardpoint.harden.recipes import Recipe
from hardpoint.harden.settings import Training
from hardpoint.harden.trainer import Lesson, Trainer
from hardpoint.models.torch import TorchModel
from hardpoint.threats.perturbation import Perturbation

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Told = Callable[[tuple[Epoch, ...], int], None]
"""What is called after each epoch."""
LOGGERS = ("lightning_fabric", "torch.multiprocessing.spawn")
"""Who else would write to the user's screen."""


@dataclass(frozen=True)
class Session:
    """All that a process needs to train; it is made again from this in each.

    Attributes:
        model: with its module on the CPU.
        perturbation, craft_mode, plan: of the learner.
        recipe, lesson, training, seed, file: as for ``Trainer``.
    """

    model: TorchModel
    perturbation: Perturbation
    craft_mode: CraftMode
    plan: TwinPlan
    recipe: Recipe
    lesson: Lesson
    training: Training
    seed: int
    file: Path | None

    def trainer(self, ranks: Ranks, device: torch.device, display: Progress, told: Told | None) -> Trainer:
        """A trainer of this process' own copy of the network, on ``device``."""
        model = replace(self.model, module=self.model.module.to(device).train())
        return Trainer(
            Learner(model, self.perturbation, self.craft_mode, self.plan),
            self.recipe,
            self.lesson,
            self.training,
            seed=self.seed,
            file=self.file,
            display=display,
            told=told,
            ranks=ranks,
        )


class Word(Enum):
    """What rank 0 tells the caller."""

    BEGIN = "begin"
    ADVANCE = "advance"
    END = "end"
    EPOCHS = "epochs"


@dataclass(frozen=True)
class Errand:
    """What a process is started with.

    Attributes:
        folder: where the session lies and the result goes.
        mouth: where rank 0 speaks.
        threads: of each process on the CPU.
        parent: the caller.
    """

    folder: str
    mouth: Connection
    threads: int
    parent: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # unpickled before Fabric connects the processes, and says so
        return _arrived, (self.folder, self.mouth, self.threads, os.getpid())


def _arrived(folder: str, mouth: Connection, threads: int, parent: int) -> Errand:
    """In the new process: what libraries print must not mix with what the caller prints."""
    import lightning_fabric  # sets its own level

    assert lightning_fabric is not None
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    os.dup2(2, 1)
    behave_as_worker(parent)
    return Errand(folder, mouth, threads, parent)


class Stopped(Exception):
    """The caller has had enough."""


@dataclass(frozen=True)
class Voice:
    """A display and a callback whose other end is in the calling process."""

    mouth: Connection

    def begin(self, what: str, total: int) -> None:
        self.mouth.send((Word.BEGIN, (what, total)))

    def advance(self, count: int) -> None:
        self.mouth.send((Word.ADVANCE, (count,)))

    def end(self, outcome: str) -> None:
        self.mouth.send((Word.END, (outcome,)))

    def told(self, history: tuple[Epoch, ...], planned: int) -> None:
        self.mouth.send((Word.EPOCHS, (history, planned)))
        if not self.mouth.recv():
            raise Stopped


def work(errand: Errand, fabric: Fabric) -> None:
    """Train as one of several."""
    folder, rank = Path(errand.folder), int(fabric.global_rank)
    if fabric.device.type == "cpu":
        torch.set_num_threads(errand.threads)
        keep_memory()
    ranks = Ranks(rank, int(fabric.world_size), _adding(fabric.device))
    voice = Voice(errand.mouth)
    try:
        session = _unpickled(folder / "session")
        trainer = session.trainer(
            ranks,
            fabric.device,
            voice if ranks.is_first else Silent(),
            voice.told if ranks.is_first else None,
        )
        history = trainer.run()
        if ranks.is_first:
            facts = {"history": [epoch.to_json() for epoch in history]}
            Checkpoint(under("module", trainer.module.state_dict()), facts).write(folder / "result")
        ranks.sums(0.0)  # nobody leaves before all are done
    except HardpointError as error:
        told = {"kind": type(error).__name__, "what": error.what, "cure": error.cure}
        (folder / f"failed-{rank}").write_text(json.dumps(told))
        raise
    except SystemExit as error:  # must not look like success
        raise RuntimeError(f"the process was asked to end ({error})") from error
    torch.distributed.destroy_process_group()


def _unpickled(path: Path) -> Session:
    try:
        with path.open("rb") as source:
            session = pickle.load(source)
    except (AttributeError, ImportError) as error:
        raise RunError(
            f"a training process cannot make the model again ({error})",
            "define its classes in a module that can be imported, or use one device",
        ) from None
    assert isinstance(session, Session)
    return session


def _adding(device: torch.device) -> Callable[[Tensor], Tensor]:
    """The sum over the processes that Fabric connected, its own ``all_reduce`` without a barrier before each."""

    def add(tensor: Tensor) -> Tensor:
        total = tensor.to(device).contiguous()
        torch.distributed.all_reduce(total)
        return total.to(tensor.device)

    return add

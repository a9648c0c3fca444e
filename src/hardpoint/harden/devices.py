"""Training on several devices of this machine: processes that Lightning Fabric starts and connects.

The calling process keeps what is the user's (progress, callbacks, the record); one process for each device trains, the
first of them tells the caller what happens through a pipe, and the weights come back in a file.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import multiprocessing
import os
import pickle
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from io import BytesIO
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Any

import torch

from hardpoint.assess.progress import Progress
from hardpoint.core import errors
from hardpoint.core.errors import ConfigError, HardpointError, MissingExtra, RunError
from hardpoint.evidence.training import Epoch
from hardpoint.harden.checkpoint import Checkpoint
from hardpoint.harden.learner import Learner
from hardpoint.harden.recipes import Recipe
from hardpoint.harden.settings import Training
from hardpoint.harden.trainer import Lesson
from hardpoint.harden.worker import LOGGERS, Errand, Session, Told, Word, work
from hardpoint.models.torch import TorchModel

_SILENCE = timedelta(hours=1)
"""A process that hears nothing from the others for so long gives up; rank 0 validates meanwhile."""


def check_devices(devices: int, model: TorchModel, training: Training, *sent: object) -> None:
    """Raise where training on so many ``devices`` cannot begin; ``sent`` is what processes must be given.

    Raises:
        ConfigError: for a number that makes no sense here.
        MissingExtra: without the ``devices`` extra.
        RunError: where the model or anything ``sent`` cannot be sent to a process.
    """
    if not isinstance(devices, int) or isinstance(devices, bool) or devices < 1:
        raise ConfigError(f"devices is {devices!r}", "give a whole number of 1 or more")
    if devices == 1:
        return
    _places(model.device, devices)
    if training.batch_size < 2 * devices:
        raise ConfigError(
            f"a batch of {training.batch_size} leaves {devices} devices less than two inputs each",
            f"raise batch_size to {2 * devices} or more",
        )
    if "LOCAL_RANK" in os.environ:
        raise ConfigError("another launcher has started this process", "start it alone, or use one device")
    if hasattr(sys, "ps1"):
        raise ConfigError("an interactive session cannot start devices", "run a script, or use one device")
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RunError("this script starts itself again", 'put it under if __name__ == "__main__":')
    if importlib.util.find_spec("lightning_fabric") is None:
        raise MissingExtra("devices", "training on several devices")
    _pickle((model, training, *sent), BytesIO())


def _places(device: torch.device, devices: int) -> int | list[int]:
    """What Fabric is to train on: the model's kind of device, on GPUs the model's own first."""
    if device.type == "cpu":
        return devices
    if device.type != "cuda":
        raise ConfigError(f"{device.type} devices do not train together", "use one device, or CUDA")
    there = torch.cuda.device_count()
    if devices > there:
        raise ConfigError(f"this machine has {there} CUDA devices, not {devices}", f"use at most {there}")
    own = device.index or 0
    return [own, *(other for other in range(there) if other != own)][:devices]


def trained(
    devices: int,
    learner: Learner,
    model: TorchModel,
    recipe: Recipe,
    lesson: Lesson,
    training: Training,
    *,
    seed: int,
    display: Progress,
    file: Path | None = None,
    told: Told | None = None,
) -> tuple[Epoch, ...]:
    """Train the network of ``learner`` as ``Trainer.run`` would, on several devices; it then has the best weights.

    Args:
        devices: two or more.
        model: whose module the learner trains.
        learner, recipe, lesson, training, seed, display, file, told: as for ``Trainer``.

    Raises:
        RunError: where a process dies or cannot begin; what else they raise of Hardpoint's is raised here.
    """
    sent = replace(model, module=copy.deepcopy(model.module).cpu())
    learned = learner.perturbation, learner.craft_mode, learner.plan
    session = Session(sent, *learned, recipe, lesson, training, seed, file)
    with tempfile.TemporaryDirectory(prefix="hardpoint-") as place:
        folder = Path(place)
        with (folder / "session").open("wb") as target:
            _pickle(session, target)
        del session, sent
        threads = max(1, torch.get_num_threads() // devices)
        with _listening(display, told) as mouth:
            _launch(_places(model.device, devices), model.device.type, Errand(place, mouth, threads))
        if not (folder / "result").exists():
            raise _lost("the processes ended without a result")
        result = Checkpoint.read(folder / "result")
    model.module.load_state_dict(result.part("module"))
    return tuple(Epoch.from_json(epoch) for epoch in result.facts["history"])


def _pickle(what: object, target: IO[bytes]) -> None:
    try:
        pickle.dump(what, target, protocol=pickle.HIGHEST_PROTOCOL)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise RunError(
            f"the model or the recipe cannot be sent to another process ({error})",
            "define its classes and functions in a module that can be imported, or use one device",
        ) from error


@contextmanager
def _listening(display: Progress, told: Told | None) -> Iterator[Connection]:
    """The end of a pipe that rank 0 speaks into; what the caller's own display or callback raises is raised at the
    end, and rank 0 hears that it is to stop."""
    ear, mouth = multiprocessing.get_context("spawn").Pipe()
    raised: list[BaseException] = []

    def heard(word: Word, said: tuple[Any, ...]) -> None:
        try:
            if word is Word.BEGIN:
                display.begin(*said)
            elif word is Word.ADVANCE:
                display.advance(*said)
            elif word is Word.END:
                display.end(*said)
            elif told is not None and not raised:
                told(*said)
        except BaseException as error:
            raised.append(error)
        if word is Word.EPOCHS:
            ear.send(not raised)

    def listen() -> None:
        with suppress(EOFError, OSError):  # all who could speak are gone
            while True:
                heard(*ear.recv())

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    with closing(ear):
        try:
            with closing(mouth):
                yield mouth
        except RunError:
            listener.join()
            if not raised:
                raise
        listener.join()
    if raised:
        raise raised[0]


def _launch(places: int | list[int], kind: str, errand: Errand) -> None:
    """Start the processes, and wait until they have ended; none is left behind."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

    before = set(multiprocessing.active_children())
    with _own_environment(), _quiet():
        try:
            fabric = Fabric(
                accelerator=kind,
                devices=places,
                strategy=DDPStrategy(start_method="spawn", timeout=_SILENCE),
                plugins=[LightningEnvironment()],  # of this machine, whatever cluster it is part of
            )
            fabric.launch(partial(work, errand))
        except (ProcessExitedException, ProcessRaisedException) as error:
            raise _reason(Path(errand.folder), str(error)) from error
        finally:
            _end(set(multiprocessing.active_children()) - before)


def _end(processes: set[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join()


def _reason(folder: Path, otherwise: str) -> HardpointError:
    """What one of the processes said before it ended; where none did, how it ended."""
    for file in sorted(folder.glob("failed-*")):
        told = json.loads(file.read_text())
        kind: type[HardpointError] = getattr(errors, told["kind"], RunError)
        return kind(told["what"], told["cure"])
    return _lost(otherwise.strip().splitlines()[-1])


def _lost(how: str) -> RunError:
    return RunError(f"a training process failed: {how}", "go on with resume=True, or use one device")


@contextmanager
def _own_environment() -> Iterator[None]:
    """Fabric tells its processes by environment variables where to meet."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for key in set(os.environ) - set(before):
            del os.environ[key]
        os.environ.update(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """No banners on the user's screen."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

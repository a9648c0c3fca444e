"""``harden``: train a network that holds under attack."""

from __future__ import annotations

import copy
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn

from hardpoint.assess.arsenal import arsenal_for
from hardpoint.assess.assess import as_dataset
from hardpoint.assess.cascade import Mode
from hardpoint.assess.environment import describe_environment
from hardpoint.assess.progress import Progress, shown_progress
from hardpoint.core.access import Access
from hardpoint.core.errors import DataError, ModelError
from hardpoint.core.rng import Rng, split_rows
from hardpoint.data import Dataset, check_dataset
from hardpoint.data.dataset import row_chunks
from hardpoint.defenses.networks.denoised import Denoised
from hardpoint.engine.clean import first_answer
from hardpoint.engine.guard import preserved_random_state
from hardpoint.engine.heap import kept_memory
from hardpoint.engine.shadow import fastest_plan
from hardpoint.engine.twin import TwinPlan
from hardpoint.evidence.store import RunFolder
from hardpoint.evidence.training import AFTER, BEFORE, Epoch, TrainingRecord
from hardpoint.harden.against import gates_for, recipe_against, trainable_threats
from hardpoint.harden.before_after import Assessor
from hardpoint.harden.cost import Cost, measured_seconds, within_budget
from hardpoint.harden.devices import check_devices, trained
from hardpoint.harden.folder import TrainingFolder
from hardpoint.harden.learner import CraftMode, Learner
from hardpoint.harden.names import DEFAULT, recipe_named
from hardpoint.harden.recipes import Noise, Plain, Recipe
from hardpoint.harden.recipes.recipe import check_data, keeping, preparing, proving
from hardpoint.harden.result import HardenResult
from hardpoint.harden.settings import Training
from hardpoint.harden.trainer import Lesson, Trainer
from hardpoint.harden.validation import Proven, UnderAttack
from hardpoint.models.loading import load_model
from hardpoint.models.torch import TorchModel
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat

_HELD_BACK = 1000
_LOOKED_AT = 2048
_REMEMBERED = 1 << 30
"""Most numbers of training data whose examples the default recipe keeps, at two bytes each."""


def harden(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    threat: Threat | Perturbation | Sequence[Threat | Perturbation],
    recipe: Recipe | str = DEFAULT,
    training: Training | None = None,
    craft_mode: CraftMode | str = CraftMode.EVAL,
    test: Dataset | tuple[Any, Any] | None = None,
    mode: Mode | str = "fast",
    seed: int = 0,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool | Progress = True,
    gate: float | Sequence[float | None] | None = None,
    devices: int = 1,
    header: dict[str, Any] | None = None,
    each_epoch: Callable[[tuple[Epoch, ...]], None] | None = None,
) -> HardenResult:
    """Train a copy of ``model`` to hold under ``threat``, and say what it was worth before and after.

    Args:
        model: an ``nn.Module``, a ``TorchModel``, or ``"pkg.mod:factory"``; trained from the weights it has.
        x: training inputs ``[n, ...]`` in the model's input range, or a ``Dataset`` (``y`` is then left out).
        y: integer labels ``[n]``.
        threat: what to hold under, untargeted; of several, each input is learned from under the worst.
        recipe: how: a recipe, its name, or ``"default"``: as many gradient steps as twice the price of ordinary
            training buys on this machine, and for several threats ``WorstOf`` with its usual search.
        training: how long and how fast.
        craft_mode: search for examples on the network as it will answer (``"eval"``) or as it learns (``"train"``).
        test: inputs and labels, or a ``Dataset``, that are not trained on, for the assessments before and after.
        mode: of these assessments.
        seed: of every draw.
        run_dir: folder for checkpoints, curves, weights and assessments; with ``resume``, training goes on there to
            the same weights that it would have had without the interruption.
        resume: go on in ``run_dir``.
        progress: whether to show progress on stderr, or a ``Progress`` of your own.
        gate: the robust accuracy asked for after training, under every threat or one for each.
        devices: how many train together, through Lightning Fabric: processes where the model is on the CPU, GPUs where
            it is on one. Each takes its part of every batch; weights are those of one device but for rounding, batch
            norms, which normalise by a part, and dropout. Scripts need ``if __name__ == "__main__":``.
        header: further entries for the run's header, for example the command.
        each_epoch: called after each epoch with all so far; what it raises ends the training, which can be resumed.

    Raises:
        HardpointError: when model, data, threat, settings or folder cannot be used, or training diverges.
        MissingExtra: for several devices without the ``devices`` extra.

    >>> from hardpoint import L2, Linf
    >>> x = torch.rand(256, 2, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > x[:, 1]).long()
    >>> net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> done = harden(net, x, y, threat=Linf(0.05), recipe="pgd", training=Training(epochs=3), progress=False)
    >>> len(done.history), done.model is net
    (3, False)
    >>> both = [Linf(0.05), L2(0.1)]  # with test=(x, y), done.by_threat["l2-0.1"].after and done.under_all
    >>> harden(net, x, y, threat=both, training=Training(epochs=3), progress=False).recipe
    'worst of 2 threats (pgd-5)'
    """
    training, craft_mode = training or Training(), CraftMode.parse(craft_mode)
    named = recipe_named(recipe) if isinstance(recipe, str) and recipe != DEFAULT else recipe
    keeps = None if isinstance(named, str) else keeping(named)
    given = trainable(model, frozen=keeps is not None)
    data, held_out = as_dataset(x, y), optional_dataset(test)
    wanted = trainable_threats(threat, given, named)
    known, gates = recipe_against(named, wanted), gates_for(gate, wanted)
    if keeps is not None:
        keeps.check_network(given.module, data.shape)
    check_devices(devices, given, training, wanted, known)
    run = RunFolder(run_dir) if run_dir is not None else None
    with preserved_random_state(), kept_memory(), shown_progress(progress) as display:
        lesson = _lesson(given, data, wanted, training, known, seed)  # refuses before anything is written
        if held_out is not None:
            refuse_overlap(data, held_out)
        folder = TrainingFolder(run) if run is not None else None
        about = _about(given, data, wanted, named, training, craft_mode, seed, devices)
        assessor = Assessor(held_out, wanted, mode, seed, run, display)
        if run is not None and folder is not None:
            folder.refuse_others(about, assessor.planned, resume=resume)  # before anything in it is changed
            heading = {**_header(about, wanted, training, mode), **(header or {})}
            heading["assessments"] = assessor.planned
            run.begin(heading, resume=resume)
            folder.begin(about)
        before = assessor.results(given, BEFORE)
        fresh = copy.deepcopy(given.module)
        begins = None if isinstance(known, str) else preparing(known)
        if begins is not None:
            fresh = begins.prepared(fresh, Rng(seed).fork("weights"), _some(data).to(given.device))
        own = replace(given, module=fresh.train())
        first = wanted[0].perturbation  # recipes for several threats bring all of them along
        learner, chosen, cost = _prepared(own, lesson, first, known, training, craft_mode, folder)
        told = _teller(folder, chosen, cost, each_epoch)
        file = None if folder is None else folder.checkpoint
        where = "" if devices == 1 else f" on one device; {devices} share it"
        display.begin(f"training by {chosen.name}: {cost}{where}", 1)
        display.end("begins")
        if devices == 1:
            trainer = Trainer(
                learner, chosen, lesson, training, seed=seed, display=display, file=file, told=told
            )
            history = trainer.run()
        else:
            history = trained(
                devices,
                learner,
                own,
                chosen,
                lesson,
                training,
                seed=seed,
                display=display,
                file=file,
                told=told,
            )
        own.module.eval()
        shown = own.module if isinstance(model, nn.Module) else own
        denoiser = own.module.stage() if keeps is not None and isinstance(own.module, Denoised) else None
        result = HardenResult(shown, history, chosen.name, cost, denoiser)
        if folder is not None:
            folder.save(result)  # whatever becomes of the assessment
        after = assessor.results(own, AFTER, gates)
        if run is not None:
            run.update(status="finished")
        return replace(result, by_threat=assessor.paired(before, after))


def _some(data: Dataset) -> Tensor:
    """Inputs spread over the data, for statistics."""
    count = min(len(data), _LOOKED_AT)
    return data.rows(torch.linspace(0, len(data) - 1, count, dtype=torch.float64).long())[0]


def trainable(model: Any, *, frozen: bool = False) -> TorchModel:
    """The model as one that can be trained, its network in evaluation mode; ``frozen`` weights will do where it is not
    they that are."""
    if isinstance(model, nn.Module):
        model = TorchModel(copy.deepcopy(model).eval())
    loaded = load_model(model)
    if not isinstance(loaded, TorchModel):
        raise ModelError(
            f"{type(loaded).__name__} has no network that could be trained",
            "give a torch module or a TorchModel",
        )
    if not frozen and not any(p.numel() and p.requires_grad for p in loaded.module.parameters()):
        raise ModelError(
            "the network has no weights to train", "give one that has, and set their requires_grad"
        )
    odd = [name for name, held in loaded.module.state_dict().items() if not isinstance(held, Tensor)]
    if odd:
        raise ModelError(
            f"{odd[0]!r} in the network's state is no tensor, and would be lost", "keep tensors only in it"
        )
    return replace(loaded, module=copy.deepcopy(loaded.module).eval())


def optional_dataset(test: Dataset | tuple[Any, Any] | None) -> Dataset | None:
    if test is None:
        return None
    if isinstance(test, Dataset):
        return test
    if not isinstance(test, tuple | list) or len(test) != 2:
        raise DataError(f"test is {type(test).__name__}", "give (x, y) or a Dataset")
    return as_dataset(*test)


def _lesson(
    model: TorchModel,
    data: Dataset,
    threats: Sequence[Threat],
    training: Training,
    recipe: Recipe | str,
    seed: int,
) -> Lesson:
    model = replace(
        model, access=Access.GRADIENTS
    )  # who trains it sees all of it, whatever the attacker sees
    everyone = torch.arange(len(data))
    few = data.rows(everyone[:2])[0]
    classes = first_answer(model.scores, few).shape[1]
    check_dataset(data, model.box, classes)
    check_data(recipe, few, classes)
    share = min(training.validation, _HELD_BACK / len(data), 1 - 1 / len(data))  # one at least is trained on
    if share * len(data) < 1:
        return Lesson(data, everyone, classes, None)
    rows, held = split_rows(len(data), share, Rng(seed).fork("validation"))
    kept, reader = data.rows(held), replace(model, module=nn.Identity())  # asked with the network of the day
    proof = None if isinstance(recipe, str) else proving(recipe)
    if proof is not None:
        return Lesson(data, rows, classes, Proven(reader, *kept, threats[0], proof))
    attacks = tuple(
        (
            replace(threat, access=Access.GRADIENTS, queries=None),
            arsenal_for(threat.perturbation, classes).quick,
        )
        for threat in threats
        if not isinstance(recipe, Plain | Noise)
    )
    return Lesson(data, rows, classes, UnderAttack(reader, *kept, attacks, seed))


def _about(
    model: TorchModel,
    data: Dataset,
    threats: Sequence[Threat],
    recipe: Recipe | str,
    training: Training,
    craft_mode: CraftMode,
    seed: int,
    devices: int,
) -> dict[str, Any]:
    """What identifies the training; going on with it must mean the same."""
    return {
        "model": {**model.describe(), "network": str(model.module), "probabilities": model.probabilities},
        "data": data.describe(),
        "threat": threats[0].describe(),
        **({} if len(threats) == 1 else _several(threats)),
        "recipe": recipe if isinstance(recipe, str) else repr(recipe),
        "training": training.describe(),
        "craft_mode": craft_mode.value,
        "seed": seed,
        **({} if devices == 1 else {"devices": devices}),
        "versions": describe_environment().get("versions"),
    }


def _several(threats: Sequence[Threat]) -> dict[str, Any]:
    """All threats, their names first: what an error about another list of them can show."""
    names = ", ".join(threat.name for threat in threats)
    return {"threat_list": names, "threats": [threat.describe() for threat in threats]}


def refuse_overlap(train: Dataset, test: Dataset) -> None:
    """Raise ``DataError`` where half of the inputs in ``test`` or more are in ``train``; single ones are common in
    tables."""
    asked = Counter(_digests(test))
    met = sum(asked.pop(digest, 0) for digest in _digests(train))
    if 2 * met >= len(test):
        raise DataError(
            f"{met} of the {len(test)} inputs to assess on are among those to learn from", "give others"
        )


def _digests(data: Dataset) -> Iterator[bytes]:
    """Of the bytes of each input."""
    for part in row_chunks(data):
        for row in data.rows(part)[0].contiguous().flatten(1):
            yield blake2b(row.view(torch.uint8).numpy().tobytes(), digest_size=16).digest()


def _prepared(
    model: TorchModel,
    lesson: Lesson,
    perturbation: Perturbation,
    recipe: Recipe | str,
    training: Training,
    craft_mode: CraftMode,
    folder: TrainingFolder | None,
) -> tuple[Learner, Recipe, Cost]:
    """What trains, by what, at what price: measured, or as the folder remembers it."""
    x, y = (part.to(model.device) for part in lesson.data.rows(lesson.rows[: training.batch_size]))
    known = None if folder is None else folder.remembered()
    plan = fastest_plan(model, x) if known is None else known.plan
    if craft_mode is CraftMode.TRAIN:
        plan = TwinPlan(copied=False)
    learner = Learner(model, perturbation, craft_mode, plan)
    chosen: Recipe
    if known is not None:
        chosen = known.chosen() if isinstance(recipe, str) else recipe
        return learner, chosen, known.cost
    if isinstance(recipe, str):
        small = len(lesson.data) * x[0].numel() <= _REMEMBERED
        chosen, plain = within_budget(learner, training, x, y, lesson.classes, remembers=small)
        (own,) = measured_seconds(learner, [chosen], training, x, y, lesson.classes)
    else:
        chosen = recipe
        plain, own = measured_seconds(learner, [Plain(), chosen], training, x, y, lesson.classes)
    updates = math.ceil(len(lesson.rows) / training.batch_size) * training.epochs
    cost = Cost(plain, own, updates)
    if folder is not None:
        folder.remember(plan, chosen, cost)
    return learner, chosen, cost


def _teller(
    folder: TrainingFolder | None,
    recipe: Recipe,
    cost: Cost,
    each_epoch: Callable[[tuple[Epoch, ...]], None] | None,
) -> Callable[[tuple[Epoch, ...], int], None]:
    """Keeps what happened after each epoch, and passes it on."""

    def tell(history: tuple[Epoch, ...], planned: int) -> None:
        if folder is not None:
            folder.tell(TrainingRecord(recipe.name, cost.units, planned, history))
        if each_epoch is not None:
            each_epoch(history)

    return tell


def _header(
    about: dict[str, Any], threats: Sequence[Threat], training: Training, mode: Mode | str
) -> dict[str, Any]:
    threat = repr(threats[0] if len(threats) == 1 else list(threats))
    how = f"threat={threat}, recipe={about['recipe']}, training={training!r}, seed={about['seed']}"
    if isinstance(about["recipe"], str) and about["recipe"] == DEFAULT:
        how = how.replace(f"recipe={DEFAULT}", f"recipe={DEFAULT!r}")
    if "devices" in about:
        how += f", devices={about['devices']}"
    where = f"craft_mode={about['craft_mode']!r}, test=test, mode={Mode.parse(mode).value!r}"
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": f"hp.harden(model, x, y, {how}, {where})",
        "environment": describe_environment(),
    }

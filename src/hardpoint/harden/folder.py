"""The part of a run folder that training keeps.

Layout::

    RUN/training/plan.json               what identifies the training; a resume must match it
    RUN/training/measured.json           what was measured on the machine: how to copy, the recipe, the cost
    RUN/training/checkpoint.safetensors  where it stands
    RUN/training/record.json             what happened, epoch by epoch
    RUN/training/curves.svg              the same, to look at
    RUN/training/model.safetensors       the weights, once it has ended
    RUN/training/denoiser.safetensors    in their place where a denoiser was trained, and the network stays as it was
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hardpoint.core.errors import RunError
from hardpoint.engine.twin import TwinPlan
from hardpoint.evidence.store import RunFolder, begin_plan, read_json, write_atomically, write_json
from hardpoint.evidence.training import TrainingRecord
from hardpoint.harden.cost import Cost, default_recipe
from hardpoint.harden.recipes import Recipe
from hardpoint.harden.recipes.recipe import carrying
from hardpoint.harden.result import HardenResult
from hardpoint.report.curves import drawn


@dataclass(frozen=True)
class Remembered:
    """What was measured when the training began.

    Attributes:
        plan: how the fast copy is made.
        steps: gradient steps of the default recipe, where that was asked for.
        remembers: whether that keeps examples from epoch to epoch.
        cost: what it was to cost.
    """

    plan: TwinPlan
    steps: int
    remembers: bool
    cost: Cost

    def chosen(self) -> Recipe:
        """The default recipe as it was chosen."""
        return default_recipe(self.steps, remembers=self.remembers)


@dataclass(frozen=True)
class TrainingFolder:
    """What training keeps in the run folder ``run``."""

    run: RunFolder

    @property
    def path(self) -> Path:
        return self.run.training_path

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.safetensors"

    @property
    def weights(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def denoiser(self) -> Path:
        return self.path / "denoiser.safetensors"

    def save(self, result: HardenResult) -> None:
        """Keep what was trained."""
        denoiser = result.denoiser
        if denoiser is None:
            result.save(self.weights)
        else:
            denoiser.save(self.denoiser)

    def refuse_others(self, about: Mapping[str, Any], names: Sequence[str], *, resume: bool) -> None:
        """Raise ``RunError`` where the run folder holds other work than this training, whose assessments have these
        ``names``; nothing is written."""
        plan = self.path / "plan.json"
        if not resume or not self.run.exists:
            return
        if not plan.exists() and any(name not in names for name in self.run.names()):
            raise RunError(f"{self.run.path} holds no training", "give a new folder")
        if plan.exists():
            begin_plan(plan, about)

    def begin(self, about: Mapping[str, Any]) -> None:
        """Write what identifies the training."""
        begin_plan(self.path / "plan.json", about)

    def remembered(self) -> Remembered | None:
        """What was measured when this training began; None where it begins now. Raises ``RunError`` where damaged."""
        file = self.path / "measured.json"
        if not file.exists():
            return None
        try:
            told = read_json(file)
            search = int(told["steps"]), bool(told["remembers"])
            return Remembered(TwinPlan.from_json(told["twin"]), *search, Cost(**told["cost"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"{file} is damaged ({error})", "train anew in an empty folder") from None

    def remember(self, plan: TwinPlan, recipe: Recipe, cost: Cost) -> None:
        """Keep what was measured."""
        search = {"steps": recipe.gradients, "remembers": carrying(recipe) is not None}
        told = {"twin": plan.to_json(), **search, "cost": asdict(cost)}
        write_json(self.path / "measured.json", told)

    def tell(self, record: TrainingRecord) -> None:
        """Keep what happened so far, in numbers and as curves."""
        self.run.write_training(record)
        write_atomically(self.path / "curves.svg", drawn(record.epochs).encode())

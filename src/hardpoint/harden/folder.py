"""The part of a run folder that training keeps.

Layout::

    RUN/training/plan.json               what identifies the training; a resume must match it
    RUN/training/measured.json           what was measured on the machine: how to copy, the recipe, the cost
    RUN/training/checkpoint.safetensors  where it stands
    RUN/training/history.json            what happened, epoch by epoch
    RUN/training/curves.svg              the same, to look at
    RUN/training/model.safetensors       the weights, once it has ended
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hardpoint.core.errors import RunError
from hardpoint.engine.twin import TwinPlan
from hardpoint.evidence.store import begin_plan, read_json, write_atomically, write_json
from hardpoint.harden.cost import Cost
from hardpoint.harden.curves import drawn
from hardpoint.harden.history import Epoch
from hardpoint.harden.recipes import NFgsm, Pgd, Recipe


@dataclass(frozen=True)
class Remembered:
    """What was measured when the training began.

    Attributes:
        plan: how the fast copy is made.
        steps: gradient steps of the default recipe, where that was asked for.
        cost: what it was to cost.
    """

    plan: TwinPlan
    steps: int
    cost: Cost

    def chosen(self) -> Recipe:
        """The default recipe as it was chosen."""
        return Pgd(steps=self.steps) if self.steps > 1 else NFgsm()


@dataclass(frozen=True)
class TrainingFolder:
    """``path`` is ``RUN/training``."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.safetensors"

    @property
    def weights(self) -> Path:
        return self.path / "model.safetensors"

    def begin(self, about: Mapping[str, Any]) -> Remembered | None:
        """Start, or go on with the same training, which is what is returned then.

        Raises:
            RunError: when the folder holds another training, or is damaged.
        """
        begin_plan(self.path / "plan.json", about)
        file = self.path / "measured.json"
        if not file.exists():
            return None
        try:
            told = read_json(file)
            return Remembered(TwinPlan.from_json(told["twin"]), int(told["steps"]), Cost(**told["cost"]))
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{file} is damaged ({error})", "train anew in an empty folder") from None

    def remember(self, plan: TwinPlan, recipe: Recipe, cost: Cost) -> None:
        """Keep what was measured."""
        told = {"twin": plan.to_json(), "steps": recipe.gradients, "cost": asdict(cost)}
        write_json(self.path / "measured.json", told)

    def tell(self, history: tuple[Epoch, ...]) -> None:
        """Keep what happened, in numbers and as curves."""
        write_json(self.path / "history.json", {"epochs": [epoch.to_json() for epoch in history]})
        write_atomically(self.path / "curves.svg", drawn(history).encode())

    def history(self) -> tuple[Epoch, ...]:
        """What happened so far."""
        file = self.path / "history.json"
        if not file.exists():
            return ()
        return tuple(Epoch.from_json(epoch) for epoch in read_json(file)["epochs"])

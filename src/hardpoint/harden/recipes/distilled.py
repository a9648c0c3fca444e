"""Learning from another network's answers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hardpoint.core.errors import ConfigError, ModelError
from hardpoint.engine.clean import first_answer
from hardpoint.harden.learner import Batch, Learner
from hardpoint.harden.recipes._checks import positive, share
from hardpoint.harden.recipes.recipe import Attacked, Recipe, Taught, check_recipe, keeping, proving, shifting
from hardpoint.harden.teacher import Teacher
from hardpoint.models.base import Model


@dataclass(frozen=True)
class Distilled:
    """A recipe that learns a robust teacher's answers to the clean inputs in the place of labels: its examples move
    away from these answers, and its loss is taken against them.

    ``Distilled(Mixed(Pgd(), clean=1 / 6), teacher)`` is RSLAD (Zi et al., "Revisiting adversarial robustness
    distillation: robust soft labels make student better", ICCV 2021, equations 5 and 6: cross-entropy and divergence
    differ by the teacher's entropy, which no student changes). Temperatures above 1 and shares below are those of ARD
    (Goldblum et al., "Adversarially robust distillation", AAAI 2020). Robustness is learned from a *robust* teacher.
    Around ``Plain`` with a high temperature this is defensive distillation, which hides gradients and protects
    nothing; ``hardpoint.defenses.distilled`` is there to measure that.

    Args:
        inner: the recipe. ``Awp`` goes around ``Distilled``, not inside; certified recipes learn no answers.
        teacher: a module, a model or what ``load_model`` takes; neither changed nor kept in checkpoints.
        temperature: what the scores of both are divided by while the student learns; the loss is multiplied by its
            square, so that gradients keep their length (Hinton, Vinyals and Dean, 2015).
        share: the weight of the teacher's answers, the rest being that of the labels.

    >>> from hardpoint.harden.recipes import Mixed, Pgd
    >>> Distilled(Mixed(Pgd(), clean=1 / 6), nn.Linear(2, 2).eval()).name
    'distilled(mixed(pgd-10))'
    """

    inner: Recipe
    teacher: Teacher | nn.Module | Model | str
    temperature: float = 1.0
    share: float = 1.0

    def __post_init__(self) -> None:
        check_recipe(self.inner)
        positive(self.temperature, "temperature")
        share(self.share, "share")
        if shifting(self.inner) is not None:
            raise ConfigError(f"{self.inner.name} moves weights by labels", "put Distilled inside Awp")
        if proving(self.inner) is not None:
            raise ConfigError(f"{self.inner.name} learns bounds, not answers", "put another recipe inside")
        if keeping(self.inner) is not None:
            raise ConfigError(f"{self.inner.name} is around its recipe", "put Distilled inside Denoiser")
        if not isinstance(self.teacher, Teacher):
            object.__setattr__(self, "teacher", Teacher(self.teacher))

    @property
    def name(self) -> str:
        return f"distilled({self.inner.name})"

    @property
    def gradients(self) -> int:
        return self.inner.gradients

    def around(self, inner: Recipe) -> Recipe:
        return replace(self, inner=inner)

    def check_data(self, x: Tensor, classes: int) -> None:
        assert isinstance(self.teacher, Teacher)
        first_answer(self.teacher.scores, x, "the teacher")
        self._answers(x, classes)

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        return self.inner.attacked(learner.cooled(self.temperature), self.answered(batch))

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        taught = self.inner.taught(learner.cooled(self.temperature), self.answered(batch), attacked)
        return replace(taught, loss=self.temperature**2 * taught.loss)

    def answered(self, batch: Batch) -> Batch:
        """The batch with the teacher's answers as its targets, as far as ``share`` says."""
        answers = self._answers(batch.x, batch.targets.shape[1]).to(batch.targets.dtype)
        return replace(batch, targets=torch.lerp(batch.targets, answers, self.share))

    def _answers(self, x: Tensor, classes: int) -> Tensor:
        assert isinstance(self.teacher, Teacher)
        scores = self.teacher.scores(x)
        if scores.shape != (len(x), classes):
            raise ModelError(
                f"the teacher knows {scores.shape[1]} classes, the data have {classes}",
                "give one of the same classes",
            )
        return (scores / self.temperature).softmax(1)

"""Small networks, data and trainers that the tests of robust training share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from hardpoint.assess.progress import Silent
from hardpoint.core.box import Box
from hardpoint.core.rng import Rng
from hardpoint.data import MemoryDataset
from hardpoint.engine.twin import TwinPlan
from hardpoint.harden.layers import GroupSort
from hardpoint.harden.learner import Batch, CraftMode, Learner, one_hot
from hardpoint.harden.recipes import Recipe
from hardpoint.harden.settings import Training
from hardpoint.harden.trainer import Lesson, Trainer, Validate
from hardpoint.models.torch import TorchModel
from hardpoint.threats import Linf, Perturbation
from small_models import rand, seeded

UNIT = Box(0.0, 1.0)
ONE = Training(
    epochs=1,
    batch_size=1000,
    lr=0.1,
    optimiser="sgd",
    pace="constant",
    momentum=0.0,
    weight_decay=0.0,
    ramp=0.0,
)
"""One update of plain gradient descent."""


def cloud(n: int = 96, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points of the unit square, and on which side of a bent line they lie."""
    x = rand(n, 2, seed=seed)
    return x, (x[:, 1] > 0.5 + 0.2 * torch.sin(6 * x[:, 0])).long()


def doubled(n: int = 12) -> tuple[Tensor, Tensor]:
    """Such points in float64."""
    x, y = cloud(n)
    return x.double(), y


def flat(classes: int = 2, dropout: float = 0.0, hidden: int = 12, seed: int = 0) -> nn.Sequential:
    """A network of the plane."""
    return seeded(
        lambda: nn.Sequential(
            nn.Linear(2, hidden), nn.Tanh(), nn.Dropout(dropout), nn.Linear(hidden, classes)
        ),
        seed,
    )


def pictures(n: int = 24, channels: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images of 8 by 8, labelled by their brightest third."""
    x = rand(n, channels, 8, 8, seed=seed)
    return x, x[..., :6].unflatten(-1, (3, 2)).sum((1, 2, 4)).argmax(1)


def normed(channels: int = 2, classes: int = 3, dropout: float = 0.0, seed: int = 0) -> nn.Sequential:
    """A network of such images with batch norm."""
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(channels, 4, 3, stride=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(36, classes),
        ),
        seed,
    )


def learner_of(
    module: nn.Module,
    perturbation: Perturbation | None = None,
    craft_mode: CraftMode = CraftMode.EVAL,
    plan: TwinPlan | None = None,
    box: Box = UNIT,
) -> Learner:
    model = TorchModel(module.train(), input_range=box)
    return Learner(model, perturbation or Linf(0.1), craft_mode, plan or TwinPlan())


def batch_of(x: Tensor, y: Tensor, classes: int, seed: int = 0, index: Tensor | None = None) -> Batch:
    index = torch.arange(len(x)) if index is None else index
    return Batch(x, y, one_hot(y, classes).to(x.dtype), index, Rng(seed).fork("update"))


def trainer_of(
    module: nn.Module,
    recipe: Recipe,
    training: Training,
    *,
    data: tuple[Tensor, Tensor] | None = None,
    validate: Validate | None = None,
    seed: int = 0,
    craft_mode: CraftMode = CraftMode.EVAL,
    eps: float = 0.05,
    **more: Any,
) -> Trainer:
    """A trainer of ``module`` itself on all of ``data``."""
    x, y = data or cloud()
    classes = 3 if x.dim() == 4 else 2
    lesson = Lesson(MemoryDataset(x, y), torch.arange(len(x)), classes, validate)
    learner = learner_of(module, Linf(eps), craft_mode)
    return Trainer(learner, recipe, lesson, training, seed=seed, display=Silent(), **more)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two states are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def linear_map(layer: nn.Module, *shape: int) -> torch.Tensor:
    """The linear map that ``layer`` is, without its bias."""
    size = math.prod(shape)
    with torch.no_grad():
        return (
            layer(torch.eye(size).double().view(size, *shape)) - layer(torch.zeros(1, *shape).double())
        ).flatten(1)


def length(layer: nn.Module, *shape: int) -> float:
    """How much ``layer`` can lengthen anything."""
    return float(torch.linalg.matrix_norm(linear_map(layer, *shape), 2))


def plane(seed: int = 0) -> nn.Sequential:
    """A sorting network of the plane."""
    return seeded(lambda: nn.Sequential(nn.Linear(2, 16), GroupSort(), nn.Linear(16, 2)), seed)

"""How long, how fast and on what to train."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import nn

from hardpoint.core.errors import ConfigError
from hardpoint.harden.augment import Augmentation


class Optimiser(Enum):
    """``ADAMW`` (Loshchilov and Hutter, ICLR 2019) or ``SGD`` with Nesterov momentum."""

    ADAMW = "adamw"
    SGD = "sgd"

    def over(self, weights: Iterable[nn.Parameter], training: Training) -> torch.optim.Optimizer:
        """The optimiser of ``weights``; biases and norms, which have one axis, do not decay."""
        held = [w for w in weights if w.requires_grad]
        groups = [
            {"params": [w for w in held if w.dim() > 1], "weight_decay": training.weight_decay},
            {"params": [w for w in held if w.dim() <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        if self is Optimiser.ADAMW:
            return torch.optim.AdamW(groups, lr=training.lr)
        return torch.optim.SGD(
            groups, lr=training.lr, momentum=training.momentum, nesterov=training.momentum > 0
        )


class Pace(Enum):
    """How the step size moves between 0 and ``lr`` over the training.

    ``COSINE``: up over the first twentieth, then down along half a cosine. ``CYCLE``: up over two fifths, then
    straight down (Smith, "Super-convergence", 2018). ``STEPS``: a tenth after half, and again after three quarters.
    ``CONSTANT``: as it is.
    """

    COSINE = "cosine"
    CYCLE = "cycle"
    STEPS = "steps"
    CONSTANT = "constant"

    def at(self, done: float) -> float:
        """The share of ``lr`` after the share ``done`` of all updates.

        >>> [round(Pace.CYCLE.at(d), 2) for d in (0.0, 0.2, 0.4, 1.0)]
        [0.0, 0.5, 1.0, 0.0]
        """
        if self is Pace.CONSTANT:
            return 1.0
        if self is Pace.STEPS:
            return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01
        rise = 0.05 if self is Pace.COSINE else 0.4
        if done < rise:
            return done / rise
        left = (done - rise) / (1 - rise)
        return 0.5 * (1 + math.cos(math.pi * left)) if self is Pace.COSINE else 1 - left


class Precision(Enum):
    """In which numbers the network in training computes; weights and updates are always float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class Training:
    """How long, how fast and on what to train.

    Args:
        epochs: passes over the data.
        batch_size: inputs per update.
        lr: the largest step size.
        optimiser: ``"adamw"`` or ``"sgd"``.
        pace: how the step size moves, see ``Pace``.
        momentum: of SGD.
        weight_decay: decoupled in AdamW, L2 in SGD.
        l1: weight of the sum of the absolute weights.
        label_smoothing: share of each label that is spread over all classes.
        average: decay per update of the moving average of the weights that is kept beside them; 0 for none. What is
            validated and returned is the average.
        clip: longest gradient; longer ones are shortened to it.
        ramp: share of the training over which the budget grows from 0 to the whole: many networks learn nothing from
            the whole at once.
        augment: changes of each batch before it is attacked.
        validation: share of the data held back to pick the best epoch by accuracy *under attack*, as robust training
            overfits (Rice, Wong and Kolter, ICML 2020); at most 1,000 inputs.
        patience: stop after so many epochs without a better one.
        precision: see ``Precision``.

    Raises:
        ConfigError: for settings that make no sense.

    >>> Training(epochs=5, optimiser="sgd", lr=0.1).optimiser
    <Optimiser.SGD: 'sgd'>
    """

    epochs: int = 15
    batch_size: int = 128
    lr: float = 1e-3
    optimiser: Optimiser | str = Optimiser.ADAMW
    pace: Pace | str = Pace.COSINE
    momentum: float = 0.9
    weight_decay: float = 5e-4
    l1: float = 0.0
    label_smoothing: float = 0.0
    average: float = 0.0
    clip: float | None = None
    ramp: float = 0.2
    augment: tuple[Augmentation, ...] = ()
    validation: float = 0.05
    patience: int | None = None
    precision: Precision | str = Precision.FLOAT32

    def __post_init__(self) -> None:
        for word, kind in (("optimiser", Optimiser), ("pace", Pace), ("precision", Precision)):
            object.__setattr__(self, word, _one_of(kind, getattr(self, word), word))
        for word in ("epochs", "batch_size", *(("patience",) if self.patience is not None else ())):
            value = getattr(self, word)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{word} is {value!r}", "give a whole number of 1 or more")
        for word in ("lr", *(("clip",) if self.clip is not None else ())):
            value = getattr(self, word)
            if not (isinstance(value, int | float) and 0 < value < math.inf):
                raise ConfigError(f"{word} is {value!r}", "give a finite number above 0")
        for word in ("weight_decay", "l1"):
            value = getattr(self, word)
            if not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise ConfigError(f"{word} is {value!r}", "give a finite number of 0 or more")
        for word in ("momentum", "label_smoothing", "average", "ramp", "validation"):
            value = getattr(self, word)
            if not (isinstance(value, int | float) and 0 <= value < 1):
                raise ConfigError(f"{word} is {value!r}", "give a number of 0 or more and below 1")
        changes = self.augment
        if not isinstance(changes, tuple | list) or not all(isinstance(c, Augmentation) for c in changes):
            raise ConfigError(f"augment is {changes!r}", "give a tuple such as (Flip(), Crop(4))")
        object.__setattr__(self, "augment", tuple(changes))

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        plain = {
            name: value.value if isinstance(value, Enum) else value
            for name, value in vars(self).items()
            if name != "augment"
        }
        return {**plain, "augment": [repr(change) for change in self.augment]}


def _one_of(kind: type[Enum], value: Any, word: str) -> Enum:
    try:
        return value if isinstance(value, kind) else kind(value)
    except ValueError:
        known = ", ".join(repr(member.value) for member in kind)
        raise ConfigError(f"{word} {value!r} is unknown", f"use one of {known}") from None

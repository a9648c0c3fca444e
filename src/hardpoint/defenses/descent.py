"""A few epochs of training: what the defences that learn share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from hardpoint.core.errors import ConfigError, ModelError
from hardpoint.core.rows import chunks
from hardpoint.engine.guard import full_precision

EpochDone = Callable[[int, float], None]
"""Told after each epoch: how many are done, and the mean loss of the last."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train, by Adam.

    Args:
        epochs: passes over the inputs.
        lr: the step size.
        batch_size: inputs per step.
        seed: of the order of inputs and all else that is drawn.
        decay: let the step size fall to 0 along half a cosine, so that what comes out owes nothing to the last batch.

    Raises:
        ConfigError: for settings that make no sense.
    """

    epochs: int = 20
    lr: float = 1e-3
    batch_size: int = 64
    seed: int = 0
    decay: bool = True

    def __post_init__(self) -> None:
        for word, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, word)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"{word} is {value!r}", f"give a whole number of {least} or more")
        if not (isinstance(self.lr, int | float) and 0 < self.lr < math.inf):
            raise ConfigError(f"lr is {self.lr!r}", "give a number above 0")


def descend(
    weights: Iterable[Tensor],
    n: int,
    loss: Callable[[Tensor], Tensor],
    schedule: Schedule,
    source: torch.Generator,
    progress: EpochDone | None = None,
) -> None:
    """Move ``weights`` in place, by Adam, to where ``loss(rows)`` is small on average.

    Args:
        weights: of the networks.
        n: how many inputs there are.
        loss: of a batch, given as the positions of its inputs, int64 ``[b]`` on the CPU.
        schedule: its seed is the caller's to use.
        source: draws the order of inputs, on the CPU, so that every device sees the same.
        progress: told after each epoch.

    Raises:
        ModelError: where the loss is no longer finite.
    """
    optimiser = torch.optim.Adam(weights, schedule.lr)
    with full_precision(), torch.inference_mode(False), torch.enable_grad():
        for epoch in range(schedule.epochs):
            total = 0.0
            batches = chunks(torch.randperm(n, generator=source), schedule.batch_size)
            for turn, rows in enumerate(batches):
                if schedule.decay:
                    done = (epoch + turn / len(batches)) / schedule.epochs
                    optimiser.param_groups[0]["lr"] = schedule.lr * (1 + math.cos(math.pi * done)) / 2
                value = loss(rows)
                optimiser.zero_grad()
                value.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                total += float(value.detach()) * len(rows)
            if not math.isfinite(total):
                raise ModelError(f"the loss is {total} in epoch {epoch + 1}", "train with a smaller lr")
            if progress is not None:
                progress(epoch + 1, total / n)

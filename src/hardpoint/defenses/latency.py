"""What a defence costs in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor

from hardpoint.core.errors import ConfigError, DataError
from hardpoint.defenses.stage import InputStage
from hardpoint.engine.guard import preserved_random_state
from hardpoint.models.base import Model


def latency(stage: InputStage, x: Tensor, repeats: int = 5) -> float:
    """Seconds that ``stage`` takes per input, the median of ``repeats`` passes over the batch ``x`` after a first one.

    Without gradients. Random states are left as they were.

    Args:
        stage: what is timed.
        x: inputs ``[n, ...]``, as many as will be served at once, on the device that will serve them.
        repeats: passes that count.

    Raises:
        ConfigError: for fewer than one pass.
        DataError: where there is no input.

    >>> from hardpoint.defenses import BitDepth
    >>> latency(BitDepth(), torch.rand(8, 3)) > 0
    True
    """
    return _seconds([stage.apply], x, repeats)[0]


def added_latency(model: Model, without: Model, x: Tensor, repeats: int = 5) -> float:
    """Seconds per input that ``model`` takes more than ``without``: the difference of the medians of ``repeats`` passes
    over the batch ``x`` after a first one, taken in turn; at least 0. Random states are left as they were.

    Raises:
        ConfigError: for fewer than one pass.
        DataError: where there is no input.

    >>> from hardpoint import Defended
    >>> from hardpoint.defenses import BitDepth
    >>> net = torch.nn.Linear(3, 2).eval()
    >>> added_latency(Defended(net, [BitDepth()]), Defended(net), torch.rand(8, 3)) >= 0
    True
    """
    more, less = _seconds([model.predict, without.predict], x, repeats)
    return max(0.0, more - less)


def _seconds(jobs: Sequence[Callable[[Tensor], object]], x: Tensor, repeats: int) -> list[float]:
    """Of each job per input; in turn, so that a busy machine treats all alike."""
    if repeats < 1:
        raise ConfigError(f"latency repeats is {repeats}", "give a whole number of 1 or more")
    if len(x) == 0:
        raise DataError("latency was given no inputs", "give at least one")
    spent: list[list[float]] = [[] for _ in jobs]
    with preserved_random_state(), torch.no_grad():
        for _ in range(repeats + 1):
            for times, job in zip(spent, jobs, strict=True):
                _wait_for(x)
                begun = time.perf_counter()
                job(x)
                _wait_for(x)
                times.append(time.perf_counter() - begun)
    return [median(times[1:]) / len(x) for times in spent]


def _wait_for(x: Tensor) -> None:
    """GPUs answer before they are done."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)

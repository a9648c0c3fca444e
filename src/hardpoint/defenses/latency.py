"""What a defence costs in time."""

from __future__ import annotations

import time
from statistics import median

import torch
from torch import Tensor

from hardpoint.core.errors import ConfigError, DataError
from hardpoint.defenses.stage import InputStage
from hardpoint.engine.guard import preserved_random_state


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
    if repeats < 1:
        raise ConfigError(f"latency repeats is {repeats}", "give a whole number of 1 or more")
    if len(x) == 0:
        raise DataError("latency was given no inputs", "give at least one")
    spent = []
    with preserved_random_state(), torch.no_grad():
        for _ in range(repeats + 1):
            _wait_for(x)
            begun = time.perf_counter()
            stage.apply(x)
            _wait_for(x)
            spent.append(time.perf_counter() - begun)
    return median(spent[1:]) / len(x)


def _wait_for(x: Tensor) -> None:
    """GPUs answer before they are done."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)

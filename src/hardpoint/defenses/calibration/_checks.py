"""Checks that the calibration functions share."""

from __future__ import annotations

import torch
from torch import Tensor

from hardpoint.core.errors import ConfigError, DataError, NothingToTest


def checked_scores(scores: Tensor, what: str, *, least: int = 1) -> Tensor:
    """float64 ``[n]`` on the CPU; NaN is refused by row: it compares as neither suspicious nor harmless."""
    if scores.dim() != 1:
        raise DataError(f"{what} have shape {tuple(scores.shape)}", "give one number per input, [n]")
    if len(scores) < least:
        raise NothingToTest(f"there are no {what}", "give at least one")
    values = scores.detach().to("cpu", torch.float64)
    bad = torch.isnan(values).nonzero()
    if len(bad):
        raise DataError(f"row {int(bad[0])} of the {what} is NaN", "find out which detector or layer made it")
    return values


def checked_table(scores: Tensor, what: str) -> Tensor:
    """float64 ``[K, n]``: scores or p-values of K detectors, a row each."""
    if scores.dim() != 2 or len(scores) == 0:
        raise DataError(f"{what} have shape {tuple(scores.shape)}", "give a row per detector, [K, n]")
    return torch.stack(
        [checked_scores(row, f"{what} of detector {k}", least=0) for k, row in enumerate(scores)]
    )


def checked_p_values(p: Tensor) -> Tensor:
    """float64 ``[K, n]``, all in (0, 1]."""
    values = checked_table(p, "p-values")
    if bool(((values <= 0) | (values > 1)).any()):
        raise DataError("a p-value lies outside (0, 1]", "give what p_values returned")
    return values


def check_share(value: float, name: str) -> None:
    """A probability that is neither 0 nor 1."""
    if not 0.0 < value < 1.0:
        raise ConfigError(f"{name} is {value}", "give a number between 0 and 1")

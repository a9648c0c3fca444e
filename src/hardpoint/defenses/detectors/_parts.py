"""Checks and small sums that the detectors share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hardpoint.core.errors import ConfigError, DataError, ModelError, NothingToTest
from hardpoint.core.rows import all_finite
from hardpoint.core.suggest import did_you_mean
from hardpoint.defenses.seen import Seen


def features_of(seen: Seen, layer: str) -> Tensor:
    """``[n, d]``: the features of a layer; raises ``ModelError`` where they were not looked at."""
    if layer not in seen.features:
        cure = did_you_mean(layer, seen.features) if seen.features else "name it in look(layers=...)"
        raise ModelError(f"the features of layer {layer!r} were not looked at", cure)
    return seen.features[layer]


def joined(seen: Seen, layers: Sequence[str]) -> Tensor:
    """``[n, sum of d]``: the features of several layers side by side."""
    return torch.cat([features_of(seen, layer) for layer in layers], dim=1)


def fit_features(seen: Seen, layers: Sequence[str], *, least: int = 2) -> Tensor:
    """float64 ``[n, sum of d]`` without a graph, checked: to fit on."""
    if not layers:
        raise ConfigError("no layer is named", "name at least one")
    if len(seen) < least:
        raise NothingToTest(f"there are {len(seen)} inputs to fit on", f"give at least {least}")
    for layer in layers:
        features = features_of(seen, layer).detach()
        if not all_finite(features):
            row = int((~torch.isfinite(features).all(1)).nonzero()[0])
            raise DataError(
                f"row {row} of the features of layer {layer!r} is not finite", "leave that input out"
            )
    return joined(seen, layers).detach().double()


def checked_labels(seen: Seen, y: Tensor) -> Tensor:
    """int64 ``[n]``: a label in range for each input."""
    y = torch.as_tensor(y)
    classes = seen.logits.shape[1]
    if y.shape != (len(seen),) or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise DataError(
            f"the labels have shape {tuple(y.shape)} and type {y.dtype} for {len(seen)} inputs",
            "give one whole number per input",
        )
    bad = ((y < 0) | (y >= classes)).nonzero()
    if len(bad):
        row = int(bad[0])
        raise DataError(f"the label of row {row} is {int(y[row])}", f"give labels from 0 to {classes - 1}")
    return y.to(seen.logits.device, torch.int64)


def present_classes(y: Tensor) -> tuple[Tensor, Tensor]:
    """The classes among the labels ``[n]``, in order, and which of them each label is.

    >>> present_classes(torch.tensor([5, 2, 5]))
    (tensor([2, 5]), tensor([1, 0, 1]))
    """
    there = torch.bincount(y) > 0
    return there.nonzero()[:, 0], (there.cumsum(0) - 1)[y]


def question(seen: Seen, who: str) -> Callable[[Tensor], Tensor]:
    """The model, for a detector that asks it."""
    if seen.scores_of is None:
        raise DataError(
            f"{who} asks the model, which the batch does not hold", "make the batch with look(...)"
        )
    return seen.scores_of


def positive(value: float, name: str) -> None:
    if not value > 0:
        raise ConfigError(f"{name} is {value}", "give a number above 0")


def enough(k: int, rows: int, what: str) -> None:
    """``k`` neighbours can be found among ``rows``."""
    positive(k, "k")
    if k > rows:
        raise ConfigError(f"k is {k} and there are {rows} {what}", "give more inputs to fit on, or lower k")


def scales(features: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per unit ``[d]``; that of a unit that hardly varies is taken as a thousandth of the
    units' mean, so that a first flicker of it is unusual and not infinitely so."""
    spread = features.std(0)
    if not float(spread.mean()) > 0:
        raise DataError(f"the features of layer {layer!r} are the same for all inputs", "name another layer")
    return features.mean(0), torch.maximum(spread, 1e-3 * spread.mean())


def distances(a: Tensor, b: Tensor) -> Tensor:
    """``[n, m]``: Euclidean distances, as sums of squared differences: the product form loses small ones."""
    apart: Tensor = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    return apart

"""What a classifier answers to many views of images, and whether a class stands clear of rounding."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hardpoint.core.access import Access
from hardpoint.core.errors import ConfigError, ModelError, NonFiniteOutput
from hardpoint.core.rows import all_finite, chunks
from hardpoint.engine.clean import checked_scores, first_answer
from hardpoint.engine.guard import full_precision, refuse_training_layers
from hardpoint.models.base import Differentiable, Model
from hardpoint.models.loading import load_model


def settled_model(model: Any) -> Model:
    """The model, where its answer to an input depends on that input alone.

    Raises:
        ModelInTrainingMode: for a layer whose answers depend on the batch.
    """
    known = load_model(model)
    if isinstance(known, Differentiable):
        refuse_training_layers(known.module)
    return known


def refuse_unsettled(model: Model, views: Tensor, slack: float) -> None:
    """Raise where two of the ``views`` ``[n, c, h, w]`` are answered otherwise alone than together, or the second time.

    Raises:
        ModelError: for a model that answers by chance, or by what else is in the batch: nothing is proven of it.
    """
    some = views[:2]
    room = 0.0 if model.access < Access.SCORES else slack  # labels are the same or not
    together, again = _seen(model, some), _seen(model, some)
    alone = torch.cat([_seen(model, one) for one in chunks(some, 1)])
    if not all(bool(((together - other).abs() <= room).all()) for other in (again, alone)):
        raise ModelError(
            "the model answers an image otherwise when asked again, or in another batch",
            "leave out what it draws by chance, and what it takes from the batch",
        )


def _seen(model: Model, x: Tensor) -> Tensor:
    """Everything that the model shows of ``x``."""
    if model.access < Access.SCORES:
        return labels_of(model, x, len(x))
    return scores_of(model, x, len(x))


def check_work(slack: float, batch: int) -> None:
    """Raise ``ConfigError`` for a slack below 0 or without end, and for a batch of less than one image."""
    if not 0 <= slack < math.inf:
        raise ConfigError(f"slack is {slack!r}", "give a finite number of 0 or more")
    if batch < 1:
        raise ConfigError(f"batch is {batch}", "give at least 1")


@full_precision()
def scores_of(model: Model, x: Tensor, batch: int) -> Tensor:
    """``[n, K]`` finite scores of ``x``, asked in batches.

    Raises:
        NonFiniteOutput: where a score is NaN or infinite: nothing is proven of such a model.
    """
    parts = [checked_scores(first_answer(model.scores, part), len(part)) for part in chunks(x, batch)]
    scores = torch.cat(parts)
    if not all_finite(scores):
        raise NonFiniteOutput(
            "the model answers NaN or infinity to an image with pixels left out", "make its scores finite"
        )
    return scores


@full_precision()
def labels_of(model: Model, x: Tensor, batch: int) -> Tensor:
    """int64 ``[n]``: what the model answers to ``x``, asked in batches."""
    if model.access < Access.SCORES:
        return torch.cat([first_answer(model.predict, part) for part in chunks(x, batch)])
    return scores_of(model, x, batch).argmax(1)


def answered(model: Model, x: Tensor, label: Tensor, slack: float, batch: int) -> Tensor:
    """Bool ``[n]``: whether the model answers ``label`` ``[n]``, by more than ``slack`` where it shows scores."""
    if model.access < Access.SCORES:
        return labels_of(model, x, batch) == label
    scores = scores_of(model, x, batch)
    known = label < scores.shape[1]
    place = label.clamp(max=scores.shape[1] - 1).unsqueeze(1)
    others = scores.scatter(1, place, -torch.inf).amax(1)
    return known & (scores.gather(1, place).squeeze(1) - others > slack)

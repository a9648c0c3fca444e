"""The verdict: every claimed example is checked on the untouched model before it counts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from hardpoint.core.rows import chunks
from hardpoint.engine.batching import padded
from hardpoint.engine.guard import full_precision
from hardpoint.evidence.rate import Rate
from hardpoint.models.base import Differentiable, Model
from hardpoint.threats.goals import Goal
from hardpoint.threats.perturbation import Region

RANDOM_PASSES = 32
_MORE_PASSES = 128


@dataclass(frozen=True)
class Verified:
    """Row by row, whether a claim stood, and the label the model gives the example alone; of a random model its usual
    answer, and -1 where the claim did not stand."""

    stands: Tensor
    prediction: Tensor
    passes: int


@full_precision()
def verify(
    model: Model,
    region: Region,
    adversarial: Tensor,
    y: Tensor,
    goal: Goal,
    *,
    chunk: int = 256,
    is_random: bool = False,
) -> Verified:
    """Check claims on the model itself, in its own precision.

    A claim stands when the example lies inside the perturbation set and the input box (exactly, in float64)
    and reaches the goal both within a batch and *alone*, so that no example owes its success to its batch
    mates or to rounding. For a random model the usual answer must reach the goal, and more than half of all passes:
    by the lower end of the 95 % interval over 32 passes, and then over 128 fresh ones, because an attack makes many
    claims, some are lucky once, and one that does not stand is no reason to stop looking.

    Args:
        model: the model as the user gave it.
        region: the allowed inputs around the originals, ``[n, ...]``.
        adversarial: the claimed examples, ``[n, ...]``.
        y: right labels, ``[n]``.
        goal: what counts as success.
        chunk: batch size of the joint check.
        is_random: whether the model's answers vary.
    """
    inside = region.contains(adversarial)
    if is_random:
        return _verify_random(model, inside, adversarial, y, goal, chunk)
    prediction = torch.cat([_labels(model, part, chunk) for part in chunks(adversarial, chunk)])
    stands = inside & goal.reached(prediction, y)
    passes = len(adversarial)
    for row in stands.nonzero().squeeze(1).tolist():
        alone = model.predict(adversarial[row : row + 1])
        passes += 1
        prediction[row] = alone[0]
        stands[row] = bool(goal.reached(alone, y[row : row + 1])[0])
    return Verified(stands, prediction, passes)


def _labels(model: Model, x: Tensor, chunk: int) -> Tensor:
    return model.predict(padded(x, chunk) if isinstance(model, Differentiable) else x)[: len(x)]


def _verify_random(
    model: Model, inside: Tensor, adversarial: Tensor, y: Tensor, goal: Goal, chunk: int
) -> Verified:
    stands, passes = inside.clone(), 0
    prediction = torch.full_like(y, -1)
    for count in (RANDOM_PASSES, _MORE_PASSES):
        allowed = count - _least_wins(count)
        answers = y.new_full((count, len(y)), -1)
        lost = torch.zeros_like(y)
        for turn in range(count):
            rows = (stands & (lost <= allowed)).nonzero().squeeze(1)  # no other can stand any more
            if not len(rows):
                break
            points = adversarial[rows]
            answers[turn, rows] = torch.cat([_labels(model, part, chunk) for part in chunks(points, chunk)])
            lost[rows] += (~goal.reached(answers[turn, rows], y[rows])).long()
            passes += len(rows)
        prediction = answers.mode(0).values
        stands &= (lost <= allowed) & goal.reached(prediction, y)
    return Verified(stands, torch.where(stands, prediction, -1), passes)


@cache
def _least_wins(count: int) -> int:
    """Of so many passes, how many must reach the goal so that more than half of all do."""
    return next(wins for wins in range(count + 1) if Rate.of(wins, count).low > 0.5)

"""What a model answers before any attack: the clean pass that decides which inputs there are to break."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hardpoint.core.access import Access
from hardpoint.core.errors import BadModelOutput, HardpointError, ModelError, NonFiniteOutput
from hardpoint.core.rows import chunks
from hardpoint.engine.guard import full_precision
from hardpoint.engine.verify import RANDOM_PASSES
from hardpoint.models.base import Model, refusal_of


class CleanAnswers(NamedTuple):
    """What a model answers to the originals.

    Attributes:
        labels: int64 ``[n]``.
        ranked: int64 ``[n, r]``, classes by falling score; ``r`` is 0 where only labels may be seen.
        scores: ``[n, K]``, or None where only labels may be seen.
    """

    labels: Tensor
    ranked: Tensor
    scores: Tensor | None


def first_answer(ask: Callable[[Tensor], Tensor], x: Tensor, who: str = "the model") -> Tensor:
    """``ask(x)``, where a model that cannot take ``x`` says so in words; ``who`` is what it is called there.

    Raises:
        ModelError: naming the shape and type of the inputs.

    >>> first_answer(torch.nn.Linear(3, 2), torch.zeros(1, 4))
    Traceback (most recent call last):
    hardpoint.core.errors.ModelError: the model cannot take inputs of shape (4,) and type torch.float32 ...
    """
    try:
        return ask(x)
    except HardpointError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"{who} cannot take inputs of shape {tuple(x.shape[1:])} and type {x.dtype} ({reason})",
            "give inputs in the shape and the type that the model computes in",
        ) from error


def checked_scores(scores: Tensor, n: int) -> Tensor:
    """``scores``, if they are ``[n, K]`` with at least two classes; raises ``BadModelOutput`` otherwise."""
    if scores.dim() != 2 or len(scores) != n or scores.shape[1] < 2:
        raise BadModelOutput(
            f"the scores have shape {tuple(scores.shape)} for {n} inputs",
            "return one row of at least two class scores per input",
        )
    return scores


@full_precision()
def clean_answers(
    model: Model, access: Access, x: Tensor, index: Tensor, *, chunk: int = 256, is_random: bool = False
) -> CleanAnswers:
    """The labels the model gives, the classes of each input by falling score, and the scores.

    The answer of a random model is the one it gives most often in 32 passes: one pass decides nothing.

    Args:
        model: the model.
        access: what may be seen; below scores the ranking is empty, ``[n, 0]``.
        x: inputs ``[n, ...]``.
        index: int64 ``[n]``, their positions in the data, for errors.
        chunk: the largest batch.
        is_random: whether the model's answers vary.

    Raises:
        NonFiniteOutput: naming the first input whose scores are not finite.
        BadModelOutput: when there is not one row of scores per input.
    """
    labels, ranked, seen = [], [], []
    for part, at in zip(chunks(x, chunk), chunks(index, chunk), strict=True):
        passes = RANDOM_PASSES if is_random else 1
        if access < Access.SCORES:
            votes = torch.stack([model.predict(part) for _ in range(passes)])
            ranked.append(torch.empty(len(part), 0, dtype=torch.int64, device=x.device))
        else:
            scores = torch.stack([checked_scores(model.scores(part), len(part)) for _ in range(passes)])
            bad = ~torch.isfinite(scores).all(2).all(0)
            if bool(bad.any()):
                raise NonFiniteOutput(
                    f"the model returned NaN or infinity for input {int(at[bad][0])}",
                    "find the layer that overflows; hardpoint doctor names it",
                )
            votes = scores.argmax(2)
            seen.append(scores.mean(0))
            ranked.append(ranked_classes(seen[-1], refusal_of(model)))
        labels.append(votes.mode(0).values)
    return CleanAnswers(torch.cat(labels), torch.cat(ranked), torch.cat(seen) if seen else None)


def ranked_classes(scores: Tensor, refusal: int | None = None, limit: int = 10) -> Tensor:
    """int64 ``[n, min(K, limit)]``: classes by falling score. The column that refuses, behind them, is none."""
    scores = scores[:, :refusal]
    return scores.topk(min(limit, scores.shape[1]), dim=1).indices


def answers_vary(model: Model, access: Access, x: Tensor) -> bool:
    """Whether two passes over the same inputs differ."""
    ask = model.scores if access >= Access.SCORES else model.predict
    return not torch.equal(ask(x), ask(x))

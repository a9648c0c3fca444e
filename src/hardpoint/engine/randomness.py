"""Random models: how many passes to average per question, and how often an input falls.

Expectation over transformation (Athalye et al., "Synthesizing robust adversarial examples", ICML 2018) follows
the mean gradient over the model's randomness. How many passes make a mean worth following depends on the model,
so it is measured: where two means of k gradients point the same way, both point near the true one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hardpoint.core.access import Access
from hardpoint.core.rng import Rng
from hardpoint.core.rows import chunks
from hardpoint.engine.guard import frozen_parameters, full_precision, preserved_random_state
from hardpoint.engine.oracle import Oracle
from hardpoint.engine.twin import TwinPlan, build_twin
from hardpoint.evidence.rate import Rate
from hardpoint.models.base import Differentiable, Model, refusal_of
from hardpoint.threats.goals import Goal, Untargeted

LADDER = (1, 4, 8, 16, 32)
"""The numbers of passes to choose from; the last is a cap, whatever the noise."""

DRAWS = 16
"""Gradients drawn to measure how much they vary."""

AGREEMENT = 0.8
"""The mean cosine two independent means must have. Each then has one of √0.8 ≈ 0.89 with the true gradient, so a step
along it gains nine tenths of what the best step would."""

ANSWER_SAMPLES = 8
"""Passes averaged per question about scores or labels. There each pass is a query, and clean inputs, which lie away
from the boundary, say little about how many would be needed on it."""


def samples_for(
    model: Model,
    x: Tensor,
    y: Tensor,
    rng: Rng,
    *,
    goal: Goal | None = None,
    agreement: float = AGREEMENT,
    chunk: int = 256,
) -> int:
    """The least number of passes in ``LADDER`` whose mean gradient can be followed.

    Let S be the inner product of two independent gradients of the margin at one input and E their squared length, both
    on average over the model's randomness. The cosine of two independent means of k gradients is then about
    S / (S + (E - S) / k). The pilot gives S and E per input from ``DRAWS`` gradients, and the answer is the least k for
    which the mean cosine over the inputs is ``agreement`` or more. Costs ``DRAWS`` passes forward and backward over
    the pilot, so ask only for models that are random.

    Args:
        model: the model; one without gradients gets ``ANSWER_SAMPLES``, for there is nothing to measure.
        x: pilot inputs ``[n, ...]`` on the model's device, a few dozen.
        y: right labels ``[n]``.
        rng: where the model's draws come from: the same ``rng`` gives the same answer.
        goal: what the attacker wants; any wrong answer by default.
        agreement: the mean cosine to reach, in (0, 1).
        chunk: the largest batch.

    Returns:
        1 for a model that is not random, or whose gradients are zero everywhere.

    >>> from hardpoint.models import TorchModel
    >>> steady = TorchModel(torch.nn.Linear(3, 2).eval())
    >>> samples_for(steady, torch.rand(8, 3), torch.zeros(8, dtype=torch.int64), Rng(0))
    1
    """
    if not isinstance(model, Differentiable) or model.access < Access.GRADIENTS:
        return ANSWER_SAMPLES
    sought = goal or Untargeted(refusal=refusal_of(model))
    oracle = Oracle(build_twin(model, TwinPlan(copied=False)), Access.GRADIENTS, chunk=chunk)

    def gradient() -> Tensor:
        parts = [
            oracle.ask_gradient(part, lambda scores, at=at: sought.margin(scores, at)).gradient  # type: ignore[misc]
            for part, at in zip(chunks(x, chunk), chunks(y, chunk), strict=True)
        ]
        return torch.cat([part for part in parts if part is not None]).flatten(1).double()

    source, total, squares = rng.fork("samples"), torch.zeros(()), torch.zeros(())
    seed = (source.seed ^ source.stream) % 2**63
    with preserved_random_state(seed=seed), frozen_parameters(model.module), full_precision():
        for _ in range(DRAWS):
            drawn = gradient()
            total, squares = total + drawn, squares + drawn.square().sum(1)
    alike = (total.square().sum(1) - squares).clamp_min(0.0) / (DRAWS * (DRAWS - 1))
    noise = (squares / DRAWS - alike).clamp_min(0.0)
    known = squares > 0
    if not bool(known.any()):
        return 1
    for count in LADDER:
        if float((alike / (alike + noise / count))[known].mean()) >= agreement:
            return count
    return LADDER[-1]


@full_precision()
def success_rates(
    model: Model,
    x: Tensor,
    y: Tensor,
    goal: Goal | None = None,
    *,
    rng: Rng,
    passes: int = 128,
    chunk: int = 256,
) -> tuple[Rate, ...]:
    """For each input, in what share of passes a random model gives the attacker what they want, with its interval.

    Of an example found by an attack this is the share among fresh passes, that is, P(adversarial) itself and
    not what the attack happened to see.

    Args:
        model: the model.
        x: inputs ``[n, ...]``, for example an attack's ``adversarial``.
        y: right labels ``[n]``.
        goal: what the attacker wants; any wrong answer by default.
        rng: where the model's draws come from.
        passes: fresh passes per input.
        chunk: the largest batch.
    """
    sought, source = goal or Untargeted(refusal=refusal_of(model)), rng.fork("success")
    wins = torch.zeros_like(y)
    with preserved_random_state(seed=(source.seed ^ source.stream) % 2**63):
        for _ in range(passes):
            labels = torch.cat([model.predict(part) for part in chunks(x, chunk)])
            wins += sought.reached(labels, y)
    return tuple(Rate.of(int(won), passes) for won in wins)

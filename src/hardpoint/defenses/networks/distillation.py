"""Defensive distillation, which protects nothing."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import chunks
from hardpoint.defenses.descent import EpochDone, Schedule, descend
from hardpoint.defenses.networks.training import check_training_data
from hardpoint.engine.guard import preserved_random_state
from hardpoint.models.torch import class_scores


def distilled(
    teacher: nn.Module,
    student: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    *,
    temperature: float = 20.0,
    schedule: Schedule | None = None,
    progress: EpochDone | None = None,
) -> nn.Module:
    """A copy of ``student`` that was taught ``teacher``'s probabilities at a temperature, to be used at temperature 1.

    Papernot, McDaniel, Wu, Jha, Swami, "Distillation as a defense to adversarial perturbations against deep neural
    networks" (S&P 2016). **It does not make a model harder to break.** At a high temperature the student's scores
    become about as many times larger, softmax rounds to 0 and 1 and its gradient to nothing: attacks that follow that
    gradient stop, and any that follow the scores break the model as before (Carlini and Wagner, S&P 2017). It is here
    to be measured, and because a student may be smaller than its teacher.

    Args:
        teacher: a network from inputs to class scores ``[n, K]``.
        student: another, or the same again with other first weights.
        x: training inputs ``[n, ...]``, on the networks' device.
        y: right labels ``[n]``, to train a copy of the teacher at the temperature first, as the paper does; without
            them the teacher is used as it is.
        temperature: what scores are divided by before softmax, above 0.
        schedule: for each of the two; the same seed gives the same networks, and no random state is left changed.
        progress: told after each epoch of the student how many are done and the mean loss.

    Raises:
        ThreatError: for a temperature that is no finite number above 0.
        DataError: for inputs and labels that do not fit together.

    >>> x = torch.rand(64, 2, generator=torch.Generator().manual_seed(0))
    >>> teacher = nn.Linear(2, 2).eval()
    >>> student = distilled(teacher, nn.Linear(2, 2), x, temperature=1, schedule=Schedule(200, lr=0.1))
    >>> bool((student(x).argmax(1) == teacher(x).argmax(1)).double().mean() > 0.9)
    True
    """
    if not (isinstance(temperature, int | float) and 0 < temperature < float("inf")):
        raise ThreatError(f"the temperature is {temperature!r}", "give a finite number above 0")
    check_training_data(x, y)
    schedule = schedule or Schedule()
    if y is not None:
        teacher = _taught(teacher, x, _certain(teacher, x, y), temperature, schedule, None)
    soft = (_scores(teacher, x) / temperature).softmax(1)
    later = replace(schedule, seed=schedule.seed + 1)  # another order than the teacher's
    return _taught(student, x, soft, temperature, later, progress)


def _taught(
    network: nn.Module,
    x: Tensor,
    wanted: Tensor,
    temperature: float,
    schedule: Schedule,
    progress: EpochDone | None,
) -> nn.Module:
    """A copy of ``network`` trained to answer the probabilities ``wanted`` ``[n, K]`` at the temperature."""
    trained = copy.deepcopy(network).train().requires_grad_(True)

    def loss(rows: Tensor) -> Tensor:
        at = rows.to(x.device)
        scores = class_scores(trained(x[at]), probabilities=False)
        return -(wanted[at] * (scores / temperature).log_softmax(1)).sum(1).mean()

    source = torch.Generator().manual_seed(schedule.seed)
    with torch.inference_mode(False), preserved_random_state(seed=schedule.seed):  # dropout draws
        descend(trained.parameters(), len(x), loss, schedule, source, progress)
    return trained.eval().requires_grad_(False)


def _scores(network: nn.Module, x: Tensor) -> Tensor:
    """``[n, K]`` by a copy of ``network`` in evaluation mode, in batches."""
    asked = copy.deepcopy(network).eval()
    with torch.no_grad(), preserved_random_state():
        return torch.cat([class_scores(asked(part), probabilities=False) for part in chunks(x, 256)])


def _certain(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """``[n, K]``: probability 1 for the right class."""
    classes = _scores(network, x[:1]).shape[1]
    return nn.functional.one_hot(y, classes).to(x.dtype)

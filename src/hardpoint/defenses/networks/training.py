"""Training networks together."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hardpoint.core.box import Box
from hardpoint.core.errors import DataError, ModelError, ThreatError
from hardpoint.core.rng import Rng
from hardpoint.defenses.descent import EpochDone, Schedule, descend
from hardpoint.defenses.networks.diversity import Diversity
from hardpoint.engine.ascent import ascend
from hardpoint.engine.guard import preserved_random_state
from hardpoint.models.torch import class_scores, weights_sha256
from hardpoint.threats.perturbation import Perturbation


@dataclass(frozen=True)
class AttackedInputs:
    """Each batch is attacked before it is learned from: projected gradient descent on the members' summed loss.

    Madry et al., "Towards deep learning models resistant to adversarial attacks" (ICLR 2018).

    Args:
        perturbation: what the attack may change.
        steps: gradient steps from a random start, of ``2.5 / steps`` of the budget each.
        input_range: of the members' inputs.

    Raises:
        ThreatError: for no steps, or a budget that is no finite number above 0.
    """

    perturbation: Perturbation
    steps: int = 5
    input_range: Box | tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_range", Box.of(self.input_range))
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ThreatError(f"steps is {self.steps!r}", "give a whole number of 1 or more")
        if not 0 < self.perturbation.eps < float("inf"):
            raise ThreatError(f"eps is {self.perturbation.eps}", "give a finite budget above 0")

    def of(self, members: Sequence[nn.Module], x: Tensor, y: Tensor, rng: Rng, index: Tensor) -> Tensor:
        """``x`` ``[b, ...]`` attacked; ``index`` are the inputs' positions in the data, which draws belong to."""
        region = self.perturbation.around(x, Box.of(self.input_range))
        return ascend(
            lambda z: _losses(_scores(members, z), y),
            region,
            region.sample(rng, index),
            steps=self.steps,
            length=2.5 / self.steps,
        )


def train_members(
    members: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    diversity: Diversity | None = None,
    *,
    schedule: Schedule | None = None,
    attacked: AttackedInputs | None = None,
    progress: EpochDone | None = None,
) -> tuple[nn.Module, ...]:
    """Copies of ``members`` trained together, in evaluation mode, for an ``Ensemble``.

    The loss is the sum of the members' cross-entropies and the diversity term. Diversity adds little by itself:
    attackers of the whole need not find what transfers. Assess the ensemble, and compare with one trained without.

    Args:
        members: networks from inputs to class scores ``[n, K]``, with different first weights.
        x: training inputs ``[n, ...]``, on the members' device.
        y: right labels ``[n]``.
        diversity: ``AdaptiveDiversity()``, ``GradientAlignment()``, ``TransferReduction()`` or your own; None for none.
        schedule: how long and how fast; the same seed gives the same networks, and no random state is left changed.
        attacked: to learn from attacked inputs instead.
        progress: told after each epoch how many are done and the mean loss.

    Raises:
        ModelError: for fewer than two members or two that are the same, or where training diverges.
        DataError: for inputs and labels that do not fit together.

    >>> x = torch.rand(64, 2, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > x[:, 1]).long()
    >>> first, second = train_members([nn.Linear(2, 2), nn.Linear(2, 2)], x, y, schedule=Schedule(200, lr=0.1))
    >>> bool((first(x).argmax(1) == y).double().mean() > 0.9)
    True
    """
    schedule = schedule or Schedule()
    _check(members, x, y)
    trained = nn.ModuleList(copy.deepcopy(member) for member in members).train().requires_grad_(True)
    source, draws = torch.Generator().manual_seed(schedule.seed), Rng(schedule.seed).fork("attacked")
    turn = itertools.count()

    def loss(rows: Tensor) -> Tensor:
        at = rows.to(x.device)
        batch, right = x[at].detach(), y[at]
        if attacked is not None:
            batch = attacked.of(list(trained), batch, right, draws.fork(next(turn)), at)
        if diversity is not None and diversity.needs_input_gradients:
            batch = batch.requires_grad_(True)
        scores = _scores(list(trained), batch)
        total = _losses(scores, right)
        return total if diversity is None else total + diversity.loss(scores, batch, right)

    with torch.inference_mode(False), preserved_random_state(seed=schedule.seed):  # dropout draws
        descend(trained.parameters(), len(x), loss, schedule, source, progress)
    return tuple(trained.eval().requires_grad_(False))


def _scores(members: Sequence[nn.Module], x: Tensor) -> Tensor:
    return torch.stack([class_scores(member(x), probabilities=False) for member in members])


def _losses(scores: Tensor, y: Tensor) -> Tensor:
    """The members' cross-entropies, each a mean over inputs, summed."""
    return len(scores) * functional.cross_entropy(scores.flatten(0, 1), y.repeat(len(scores)))


def _check(members: Sequence[nn.Module], x: Tensor, y: Tensor) -> None:
    check_training_data(x, y)
    if isinstance(members, nn.Module) or len(members) < 2:
        raise ModelError("there are no two members to train together", "give a list of two or more")
    known: dict[str, int] = {}
    for place, member in enumerate(members):
        if not isinstance(member, nn.Module):
            raise ModelError(f"member {place} is {type(member).__name__}", "give torch modules")
        same = known.setdefault(weights_sha256(member), place)
        if same != place:
            raise ModelError(
                f"members {same} and {place} have the same weights and would stay alike",
                "draw the first weights of each from another seed",
            )


def check_training_data(x: Tensor, y: Tensor | None) -> None:
    """Raise ``DataError`` for what nothing can be learned from."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2 or len(x) == 0:
        raise DataError("the inputs are no batch of floating-point numbers", "give a tensor [n, ...]")
    bad = (~torch.isfinite(x)).flatten(1).any(1).nonzero()
    if len(bad):
        raise DataError(f"row {int(bad[0])} holds NaN or infinity", "drop or impute it")
    if y is not None and (y.is_floating_point() or tuple(y.shape) != (len(x),)):
        raise DataError(f"the labels have shape {tuple(y.shape)} for {len(x)} inputs", "give one class each")

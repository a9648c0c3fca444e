"""Attack a model through others: gradients from surrogates, verdicts from the target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.losses import Loss, goal_loss
from hardpoint.attacks.transfer.directions import Momentum
from hardpoint.attacks.transfer.processor import Moment, Processor
from hardpoint.attacks.transfer.surrogates import (
    check_classes,
    check_surrogates,
    frozen,
    gradient_of,
    load_surrogates,
    mean_scores,
)
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import per_row
from hardpoint.engine.attack import Reply, Task
from hardpoint.threats.l0 import L0Region


@dataclass(frozen=True)
class TransferState:
    """The iterate ``[n, 1, ...]``, whether to ask the target about it, and what processors remember ``[n, p, ...]``."""

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor
    asked: Tensor
    kept: Tensor


@dataclass(frozen=True)
class Transfer(StandaloneAttack):
    """Projected ascent on the mean logits of surrogate models; the target only says whether the result fools it.

    With ``Momentum`` it is MI-FGSM (Dong et al., CVPR 2018). Further processors make it DI, TI, SI, NI or VMI-FGSM or
    any combination of them; they may be given in any order and are applied in the papers'.

    Args:
        surrogates: the attacker's models: one or several of what ``hardpoint.models.load_model`` takes, in
            evaluation mode, for the target's inputs and classes.
        processors: at most one of each kind; see ``hardpoint.attacks.transfer``.
        steps: gradient steps.
        step_size: length of a step in the perturbation's unit; by default eps / steps. In L0 always the whole way.
        loss: ``"ce"``, ``"margin"`` or ``"dlr"``, of the surrogates' mean logits.
        ask_every: ask the target about every such iterate; by default about the last one only. Each is one query.

    ``surrogate_passes`` says what the surrogates cost; ``AttackResult.passes`` and ``queries`` count the target's.

    Raises:
        ThreatError: for hyper-parameters out of range, no surrogate, or one that does not suit the target; when
            a processor cannot process the target's inputs.
        ModelInTrainingMode: for a surrogate in training mode.

    >>> from hardpoint import Linf
    >>> surrogate, target = torch.nn.Linear(2, 2).eval(), torch.nn.Linear(2, 2).eval()
    >>> x = torch.full((8, 2), 0.5)
    >>> attack = Transfer(surrogates=surrogate, processors=(Momentum(1.0),), steps=10)
    >>> int(attack(target, x, target(x).argmax(1), Linf(0.5)).queries.max()), attack.surrogate_passes
    (1, 10)
    """

    surrogates: Any
    processors: tuple[Processor, ...] = (Momentum(1.0),)
    steps: int = 10
    step_size: float | None = None
    loss: Loss | str = Loss.CE
    ask_every: int | None = None
    needs: ClassVar[Access] = Access.LABELS

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", Loss.parse(self.loss))
        object.__setattr__(self, "surrogates", load_surrogates(self.surrogates))
        if self.steps < 1 or (self.ask_every is not None and self.ask_every < 1):
            raise ThreatError(
                f"steps={self.steps}, ask_every={self.ask_every}", "give whole numbers of 1 or more"
            )
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise ThreatError(f"step_size is {self.step_size}", "give a length above 0")
        in_order = tuple(sorted(self.processors, key=lambda processor: processor.stage))
        kinds = [type(processor) for processor in in_order]
        if len(set(kinds)) < len(kinds):
            twice = next(kind for kind in kinds if kinds.count(kind) > 1)
            raise ThreatError(f"{twice.__name__} is given twice", "give each kind of processor once")
        object.__setattr__(self, "processors", in_order)

    def __repr__(self) -> str:
        """With the surrogates by name and weights, as it identifies the work in a run."""
        known = [model.describe() for model in self.surrogates]
        names = ", ".join(f"{known_as['name']} {str(known_as['sha256'])[:16]}" for known_as in known)
        return (
            f"Transfer(surrogates=({names}), processors={self.processors}, steps={self.steps}, "
            f"step_size={self.step_size}, loss={Loss.parse(self.loss)}, ask_every={self.ask_every})"
        )

    @property
    def turns(self) -> int:
        return self.steps + 1

    @property
    def name(self) -> str:
        tags = "".join(f" {processor.tag}" for processor in self.processors)
        return f"Transfer-{Loss.parse(self.loss).value} {self.steps}{tags} from {len(self.surrogates)}"

    @property
    def queries(self) -> int:
        """Queries to the target for an input that is attacked to the end."""
        return 1 if self.ask_every is None else -(-self.steps // self.ask_every)

    @property
    def surrogate_passes(self) -> int:
        """Forward passes of surrogates, and as many backward, for an input that is attacked to the end."""
        gradients = math.prod(processor.gradients for processor in self.processors)
        return self.steps * gradients * self._views * len(self.surrogates)

    @property
    def _views(self) -> int:
        return math.prod(processor.copies for processor in self.processors)

    def start(self, task: Task) -> TransferState:
        check_surrogates(self.surrogates, task.box)
        for processor in self.processors:
            processor.check(task)
        slots = sum(processor.remembers for processor in self.processors)
        kept = task.x.new_zeros(len(task), slots, *task.x.shape[1:])
        nothing = torch.zeros(len(task), 1, dtype=torch.bool, device=task.x.device)
        return TransferState(task.x.unsqueeze(1), nothing, kept)

    def step(self, state: TransferState, reply: Reply, task: Task) -> TransferState:
        x, length = state.query[:, 0], self._step_length(task)
        now = Moment(task, length)
        memory = self._slots(state.kept)
        point = x
        for processor in self.processors:
            point = processor.look(point, memory[processor], now)

        def again(points: Tensor, draw: int) -> Tensor:
            return self._gradient(points, draw, now)

        gradient = again(point, 0)
        for processor in self.processors:
            gradient, memory[processor] = processor.refine(gradient, point, memory[processor], again, now)
        kept = [memory[processor] for processor in self.processors if processor.remembers]
        moved = task.region.project(x + per_row(length, x) * task.region.ascent(gradient, x))
        last = task.turn == self.steps
        asked = last if self.ask_every is None else last | (task.turn % self.ask_every == 0)
        return TransferState(
            moved.unsqueeze(1), asked.unsqueeze(1), torch.stack(kept, 1) if kept else state.kept
        )

    def _slots(self, kept: Tensor) -> dict[Processor, Tensor]:
        """What each processor remembers; nothing for those that do not."""
        slot = iter(kept.unbind(1))
        return {p: next(slot) if p.remembers else kept for p in self.processors}

    def _step_length(self, task: Task) -> Tensor:
        """``[n]``, in the perturbation's unit."""
        reach = task.region.reach.to(task.x.dtype)
        if isinstance(task.region, L0Region):
            return 2 * reach  # what changes in L0 is decided by who moves farthest
        return reach / self.steps if self.step_size is None else torch.full_like(reach, self.step_size)

    def _gradient(self, points: Tensor, draw: int, now: Moment) -> Tensor:
        """The gradient of the loss at ``points``, averaged over the processors' views of them."""
        total, task = torch.zeros_like(points), now.task
        for number in range(self._views):
            with torch.enable_grad(), frozen(self.surrogates):
                point = points.detach().requires_grad_(True)
                seen, rest = point, number
                for processor in self.processors:
                    rest, copy = divmod(rest, processor.copies)
                    seen = processor.view(seen, copy, draw * self._views + number, now)
                scores = mean_scores(self.surrogates, seen)
                if draw == number == 0:
                    check_classes(scores, task)
                value = goal_loss(Loss.parse(self.loss), scores, task.y, task.goal)
                total += gradient_of(value, point)
        return total / self._views

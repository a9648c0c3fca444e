"""Gradient ascent on the parameters of a perturbation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.losses import Loss, goal_loss
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import per_row
from hardpoint.engine.attack import Reply, Task
from hardpoint.threats.parametrised import ParametrisedRegion, drawn_parameters


def parametrised(task: Task, attack: str) -> ParametrisedRegion:
    """The task's region, if parameters describe it; raises ``ThreatError`` otherwise."""
    if not isinstance(task.region, ParametrisedRegion):
        raise ThreatError(
            f"{attack} needs a perturbation with parameters", "use it with hp.Colour or hp.threats.Flow"
        )
    return task.region


@dataclass(frozen=True)
class ParameterAscentState:
    """The input asked about and the parameters that made it, float64."""

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor
    parameters: Tensor


@dataclass(frozen=True)
class ParameterAscent(StandaloneAttack):
    """Sign steps on the parameters of a colour change or a displacement, falling along a half cosine.

    The model's gradient at the input is pulled back through the map from parameters to inputs (a vector-Jacobian
    product), so it costs the model one pass forward and one backward per step, like PGD. The first start is the
    original itself, later ones are random.

    Args:
        steps: gradient steps per start.
        restarts: starts.
        loss: ``"ce"``, ``"margin"`` or ``"dlr"``.
        step_size: the first step's length; all that is allowed is -1 to 1.

    >>> from hardpoint.threats.colour import Colour
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)).eval()
    >>> x = torch.full((2, 3, 2, 2), 0.5)
    >>> ParameterAscent(steps=5)(model, x, model(x).argmax(1), Colour(hue=90)).broken.shape
    torch.Size([2])
    """

    steps: int = 25
    restarts: int = 3
    loss: Loss | str = Loss.MARGIN
    step_size: float = 0.5
    needs: ClassVar[Access] = Access.GRADIENTS

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", Loss.parse(self.loss))
        if self.steps < 1 or self.restarts < 1 or not self.step_size > 0:
            raise ThreatError(
                f"ParameterAscent(steps={self.steps}, restarts={self.restarts}, step_size={self.step_size})",
                "give whole numbers of 1 or more and a positive step",
            )

    @property
    def turns(self) -> int:
        return self.restarts * (self.steps + 1)

    @property
    def name(self) -> str:
        restarts = f"×{self.restarts}" if self.restarts > 1 else ""
        return f"ParameterAscent-{Loss.parse(self.loss).value} {self.steps}{restarts}"

    def objective(self, scores: Tensor, task: Task, state: ParameterAscentState) -> Tensor:
        return goal_loss(Loss.parse(self.loss), scores, task.y, task.goal)

    def start(self, task: Task) -> ParameterAscentState:
        region = parametrised(task, "ParameterAscent")
        shape = (len(task), *region.parameter_shape)
        nothing = torch.zeros(shape, dtype=torch.float64, device=task.x.device)
        return ParameterAscentState(region.apply(nothing), nothing)

    def step(self, state: ParameterAscentState, reply: Reply, task: Task) -> ParameterAscentState:
        assert reply.gradient is not None
        region = parametrised(task, "ParameterAscent")
        slope = pulled_back(region, state.parameters, reply.gradient)
        taken = (task.turn - 1) % (self.steps + 1)
        length = self.step_size * 0.5 * (1 + torch.cos(math.pi * taken.double() / self.steps))
        new = (state.parameters + per_row(length, slope) * slope.sign()).clamp(-1, 1)
        fresh = task.turn % (self.steps + 1) == 0
        if bool(fresh.any()):
            random = drawn_parameters(region, task.rng, task.index, task.turn)
            new = torch.where(per_row(fresh, new), random, new)
        return ParameterAscentState(region.apply(new), new)


def pulled_back(region: ParametrisedRegion, parameters: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with respect to the parameters, from the ``gradient`` with respect to the input they make."""
    with torch.enable_grad():
        free = parameters.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(region.apply(free), free, grad_outputs=gradient)
    return slope.nan_to_num()

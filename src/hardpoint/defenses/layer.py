"""An input stage as a layer of a network, crossed by gradients as the stage says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from hardpoint.core.errors import ModelError
from hardpoint.defenses.stage import GradientPath, InputStage, OwnBackward


class StageLayer(nn.Module):
    """``stage`` as a layer. What it answers is ``stage.apply(x)``, bit for bit, whatever gradients do."""

    def __init__(self, stage: InputStage) -> None:
        super().__init__()
        self.stage = stage
        if stage.gradient is GradientPath.OWN and not isinstance(stage, OwnBackward):
            raise ModelError(
                f"{type(stage).__name__} says that its gradient is its own, and has no backward(x, gradient)",
                "write one, or declare GradientPath.STRAIGHT_THROUGH",
            )

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, fx.Proxy):  # type: ignore[unreachable]  # a trace would lose the other gradient silently
            raise ModelError("an input stage cannot be traced", "use the module as it is")
        if self.stage.gradient in (GradientPath.DIFFERENTIABLE, GradientPath.PROBED):
            return self.stage.apply(x)
        crossed: Tensor = _Crossed.apply(x, self.stage)  # type: ignore[no-untyped-call]
        return crossed


class FunctionLayer(nn.Module):
    """A user's own function as a layer; the checks before an assessment find out how gradients cross it."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def as_layer(stage: InputStage | nn.Module | Callable[[Tensor], Tensor]) -> nn.Module:
    """``stage`` as a layer; a module is one already.

    Raises:
        ModelError: for what is neither a stage nor can be called.
    """
    if isinstance(stage, type):
        raise ModelError(f"{stage.__name__} is a class", f"give one of it: {stage.__name__}(...)")
    if isinstance(stage, nn.Module):
        return stage
    if isinstance(stage, InputStage):
        return StageLayer(stage).eval()
    if callable(stage):
        return FunctionLayer(stage).eval()
    raise ModelError(
        f"{type(stage).__name__} is no defence", "give an input stage, a torch module or a function"
    )


class _Crossed(torch.autograd.Function):
    """Backward pass differentiable approximation (Athalye, Carlini and Wagner, ICML 2018, section 4.1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stage: InputStage) -> Tensor:
        ctx.stage = stage
        ctx.save_for_backward(x)
        return stage.apply(x.detach()).clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if isinstance(ctx.stage, OwnBackward) and ctx.stage.gradient is GradientPath.OWN:
            return ctx.stage.backward(x, gradient).to(x.dtype), None
        if gradient.shape != x.shape:
            raise ModelError(
                f"{type(ctx.stage).__name__} turns shape {tuple(x.shape[1:])} into {tuple(gradient.shape[1:])}, "
                "so that no gradient can go straight through",
                "declare GradientPath.OWN and write backward(x, gradient)",
            )
        return gradient.to(x.dtype), None

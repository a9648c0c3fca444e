"""A model whose kinks are rounded off: the natural surrogate where none is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hardpoint.models import TorchModel
from hardpoint.models.base import Differentiable, Model

_SHARPNESS = 10.0
_KINKS = {torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, functional.relu, functional.leaky_relu}


def smoothed_surrogate(model: Model, x: Tensor) -> tuple[Differentiable, ...]:
    """The model with softplus wherever it calls a ReLU; nothing where it calls none on the inputs ``x``.

    A smooth surrogate of an obfuscated model is one of the cures that Pintor et al. name (NeurIPS 2022, table 1).

    >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    >>> len(smoothed_surrogate(TorchModel(net), torch.zeros(1, 2)))
    1
    """
    if not isinstance(model, TorchModel) or any(part.training for part in model.module.modules()):
        return ()  # a surrogate must be in evaluation mode, and this model has layers that are not
    rounding = _Rounding()
    with torch.no_grad(), rounding:
        model.module(x)
    if not rounding.met:
        return ()
    smooth = _Smooth(model.module)
    smooth.training = model.module.training  # eval() would reach into the model itself
    return (TorchModel(smooth, model.box, model.probabilities, name=f"smooth {type(model.module).__name__}"),)


class _Smooth(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Any:
        with _Rounding():
            return self.module(x)


class _Rounding(TorchFunctionMode):
    """Calls softplus in the place of ReLU, whether a layer or a function asks for it."""

    met = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in _KINKS:
            self.met = True
            return functional.softplus(args[0] if args else kwargs["input"], beta=_SHARPNESS)
        return func(*args, **(kwargs or {}))

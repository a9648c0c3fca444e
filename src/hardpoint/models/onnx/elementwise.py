"""Operators that act on each element: arithmetic, comparisons, activations."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Quotient; integers are truncated towards zero."""
    if a.is_floating_point() or b.is_floating_point():
        return a / b
    return torch.div(a, b, rounding_mode="trunc")


def power(a: Tensor, b: Tensor) -> Tensor:
    """Power in the type of the base."""
    return torch.pow(a, b).to(a.dtype)


def clip(x: Tensor, min: Tensor | float | None = None, max: Tensor | float | None = None) -> Tensor:
    """``x`` limited to ``[min, max]``; the upper limit wins where they cross."""
    low = None if min is None else _like(min, x)
    high = None if max is None else _like(max, x)
    return x if low is None and high is None else torch.clamp(x, low, high)


def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """A piecewise linear sigmoid."""
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Leaky ReLU with a learnt slope."""
    return torch.where(x > 0, x, slope * x)


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """Gaussian error linear unit (Hendrycks and Gimpel, 2016)."""
    return F.gelu(x, approximate=approximate)


def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(torch.clamp_max(x, 0.0)))


def selu(x: Tensor, *, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805) -> Tensor:
    return gamma * elu(x, alpha=alpha)


# ONNX's codes of the types a Cast may go to.
_CAST = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}


def cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """``x`` in another type.

    Between single and double precision nothing is done, so that the graph can run in either as a whole.
    """
    dtype = _CAST.get(to)
    if dtype is None:
        raise ValueError(f"Cast to type {to} is not known")
    wide = (torch.float32, torch.float64)
    return x if x.dtype in wide and dtype in wide else x.to(dtype)


def _like(value: Tensor | float, x: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=x.dtype, device=x.device)


ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": divide,
    "Neg": torch.neg,
    "Abs": torch.abs,
    "Sqrt": torch.sqrt,
    "Exp": torch.exp,
    "Log": torch.log,
    "Erf": torch.erf,
    "Reciprocal": torch.reciprocal,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Pow": power,
    "Max": lambda *xs: reduce(torch.maximum, xs),
    "Min": lambda *xs: reduce(torch.minimum, xs),
    "Sum": lambda *xs: reduce(torch.add, xs),
    "Where": torch.where,
    "Equal": torch.eq,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Not": torch.logical_not,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Relu": torch.relu,
    "LeakyRelu": leaky_relu,
    "PRelu": prelu,
    "Elu": elu,
    "Selu": selu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": lambda x: x * hard_sigmoid(x, alpha=1 / 6, beta=0.5),
    "Clip": clip,
    "Cast": cast,
}

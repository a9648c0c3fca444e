"""Operators with weights or sums over axes: products, normalisation, softmax, reductions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """``alpha A B + beta C``, with A and B transposed where asked."""
    a = a.transpose(0, 1) if transA else a
    if alpha == 1.0 and beta == 1.0 and (c is None or c.dim() == 1):
        return F.linear(a, b if transB else b.transpose(0, 1), c)
    result = alpha * (a @ (b.transpose(0, 1) if transB else b))
    return result if c is None else result + beta * c


def batch_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, epsilon: float = 1e-5
) -> Tensor:
    """Normalisation with stored statistics."""
    return F.batch_norm(x, mean, var, scale, bias, training=False, eps=epsilon)


def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Normalisation of each channel of each input (Ulyanov et al., 2016)."""
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    """Normalisation over the axes from ``axis`` on (Ba et al., 2016)."""
    axes = tuple(range(axis % x.dim(), x.dim()))
    centred = x - x.mean(axes, keepdim=True)
    normal = centred / torch.sqrt(centred.square().mean(axes, keepdim=True) + epsilon)
    return normal * scale if bias is None else normal * scale + bias


def softmax(x: Tensor, *, axis: int = -1, flatten: bool = False) -> Tensor:
    """Softmax over ``axis``; before opset 13 over all axes from it on (``flatten``)."""
    if flatten:
        return torch.softmax(x.flatten(axis), axis).reshape(x.shape)
    return torch.softmax(x, axis)


def log_softmax(x: Tensor, *, axis: int = -1, flatten: bool = False) -> Tensor:
    """The logarithm of ``softmax``."""
    if flatten:
        return torch.log_softmax(x.flatten(axis), axis).reshape(x.shape)
    return torch.log_softmax(x, axis)


def _reduction(function: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Callable[..., Tensor]:
    def reduced(x: Tensor, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        chosen = tuple(int(a) for a in axes) if axes is not None else ()
        if not chosen:
            if noop_with_empty_axes:
                return x
            chosen = tuple(range(x.dim()))
        return function(x, chosen, bool(keepdims))

    return reduced


LAYERS: dict[str, Callable[..., Any]] = {
    "MatMul": torch.matmul,
    "Gemm": gemm,
    "BatchNormalization": batch_normalization,
    "InstanceNormalization": instance_normalization,
    "LayerNormalization": layer_normalization,
    "Softmax": softmax,
    "LogSoftmax": log_softmax,
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMin": _reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceL2": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
}

"""Making the input gradient of a copied model cheaper, without changing what the model answers.

Two rewrites. ReLU and max pooling commute, so a pool that follows a ReLU is moved before it, where the ReLU and
its gradient have a quarter of the elements. And the gradient to a layer's input with few channels (the first
layer of most image models), which the usual kernels compute as a convolution with almost no output channels, is
computed as one matrix product and a sum of shifted copies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

THIN = 4
"""Input channels up to which a convolution counts as thin."""

_RELUS = {torch.relu, functional.relu}
_POOLS = {functional.max_pool2d, torch.max_pool2d}


def lean(module: nn.Module) -> nn.Module:
    """``module`` rewritten in place or traced anew; unchanged where nothing applies.

    >>> body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2)).eval().requires_grad_(False)
    >>> x = torch.rand(2, 1, 8, 8)
    >>> torch.equal(body(x), lean(body)(x))
    True
    """
    module = pool_first(module)
    for name, layer in list(module.named_modules()):
        if name and _is_thin(layer):
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, ThinConv2d(layer))
    return module


def can_be_lean(module: nn.Module) -> bool:
    """Whether a rewrite might apply."""
    return any(isinstance(layer, nn.Conv2d) for layer in module.modules())


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # else what is computed from buffers becomes a constant of the graph


def graph_of(module: nn.Module) -> fx.GraphModule:
    """``module`` traced; raises exceptions of many kinds where it cannot be."""
    tracer = _Tracer()
    graph = tracer.trace(module)
    return fx.GraphModule(tracer.root, graph)


def pool_first(module: nn.Module) -> nn.Module:
    """``module`` with every max pooling of a ReLU's output moved before the ReLU.

    Returns the module unchanged where its graph cannot be traced or holds no such pair.
    """
    try:
        traced = graph_of(module)
    except Exception:  # data-dependent control flow and the like: torch raises many kinds
        return module
    layers = dict(traced.named_modules())
    moved = False
    for pool in list(traced.graph.nodes):
        relu = pool.args[0] if pool.args else None
        if not (_is_pool(pool, layers) and isinstance(relu, fx.Node) and _is_relu(relu, layers)):
            continue
        source = relu.args[0] if relu.args else None
        if len(relu.users) > 1 or not isinstance(source, fx.Node) or len(source.users) > 1:
            continue
        pool.replace_all_uses_with(relu)
        pool.update_arg(0, source)
        relu.update_arg(0, pool)
        pool.append(relu)
        moved = True
    if not moved:
        return module
    traced.recompile()
    return traced


def _is_relu(node: fx.Node, layers: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return type(layers.get(str(node.target))) is nn.ReLU
    return (node.op == "call_function" and node.target in _RELUS) or (
        node.op == "call_method" and node.target == "relu"
    )


def _is_pool(node: fx.Node, layers: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        layer = layers.get(str(node.target))
        return type(layer) is nn.MaxPool2d and not layer.return_indices
    return (
        node.op == "call_function" and node.target in _POOLS and not node.kwargs.get("return_indices", False)
    ) and len(node.args) < 7


def _is_thin(layer: nn.Module) -> bool:
    return (
        type(layer) is nn.Conv2d
        and layer.in_channels <= THIN
        and layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and not layer.weight.requires_grad
        and not has_hooks(layer)
    )


def has_hooks(layer: nn.Module) -> bool:
    """Hooks and reparametrisations would be lost with the layer."""
    kinds = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_backward_pre_hooks",
        "parametrizations",
    )
    return any(getattr(layer, kind, None) for kind in kinds)


class ThinConv2d(nn.Module):
    """A frozen convolution with few input channels and a fast gradient to its input."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.stride, self.padding = layer.stride, layer.padding

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or not x.requires_grad:
            return functional.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        answer: Tensor = _ThinConvolution.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, self.stride, self.padding
        )
        return answer


class _ThinConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.stride, ctx.padding = x.shape, stride, padding
        return functional.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return input_gradient(gradient, weight, ctx.shape, ctx.stride, ctx.padding), None, None, None, None


def input_gradient(
    gradient: Tensor, weight: Tensor, shape: torch.Size, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """The gradient ``[n, c, h, w]`` to a convolution's input, from that to its output ``[n, o, h', w']``.

    Every weight's share is one row of a matrix product; each is added where that weight had looked.
    """
    (n, channels, height, width), (rows, columns) = shape, gradient.shape[2:]
    outputs, _, tall, wide = weight.shape
    matrix = weight.reshape(outputs, -1).t()
    if gradient.is_contiguous():
        shares = (matrix @ gradient.view(n, outputs, -1)).view(n, channels, tall, wide, rows, columns)
        shares = shares.permute(2, 3, 0, 1, 4, 5)
    else:  # channels last: pixels are rows already
        pixels = gradient.permute(0, 2, 3, 1).reshape(-1, outputs)
        shares = (matrix @ pixels.t()).view(channels, tall, wide, n, rows, columns).permute(1, 2, 3, 0, 4, 5)
    (down, right), (top, left) = stride, padding
    whole = gradient.new_zeros(n, channels, height + 2 * top, width + 2 * left)
    for i in range(tall):
        for j in range(wide):
            seen = whole[
                :, :, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * right + 1 : right
            ]
            seen += shares[i, j]
    return whole[:, :, top : top + height, left : left + width]

"""How ONNX operators are read: as the torch functions, or the moves, that they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hardpoint.bounds.onnx.site import Site
from hardpoint.bounds.onnx.windows import average_pool, conv, max_pool, move, moves, pad
from hardpoint.bounds.operators.affine import Linear, Weighted
from hardpoint.bounds.operators.call import Wire
from hardpoint.bounds.operators.operator import Live
from hardpoint.bounds.operators.shape import Joined

Reader = Callable[[Site], Wire | list[Wire]]


def _plain(function: Callable[..., Any]) -> Reader:
    """A function of inputs alone."""
    return lambda site: site.call(function, *site.inputs)


def _add(site: Site) -> Wire:
    """A bias that follows a product joins it: margins can then be bounded through both at once."""
    first, second = site.inputs
    wire, held = (first, second) if isinstance(first, Wire) else (second, first)
    if site.is_alone and isinstance(wire, Wire) and wire is first and callable(held):
        maker, bias = site.maker(wire), held()
        bare = isinstance(maker, Weighted) and isinstance(maker.map, Linear) and maker.bias is None
        if (
            isinstance(maker, Weighted)
            and bare
            and bias.shape[-1:] == site.size(wire)[-1:] == (bias.numel(),)
        ):
            return site.replaced(wire, Weighted(maker.map, maker.weight, lambda: held().flatten()))
    return site.call(torch.add, first, second)


def _sum(site: Site) -> Wire:
    total = site.wire(0)
    for place in range(1, len(site.inputs)):
        total = site.call(torch.add, total, site.inputs[place])
    return total


def _leaky(site: Site) -> Wire:
    return site.call(functional.leaky_relu, site.wire(), site.attribute("alpha", 0.01))


def _gelu(site: Site) -> Wire:
    form = site.attribute("approximate", "none")
    return site.call(functional.gelu, site.wire(), *([] if form == "none" else [form]))


def _clip(site: Site) -> Wire:
    return site.call(torch.clamp, site.wire(), site.attribute("min"), site.attribute("max"))


def _gemm(site: Site) -> Wire:
    alpha, beta = site.attribute("alpha", 1.0), site.attribute("beta", 1.0)
    turned = site.attribute("transB", 0)
    weight, bias = site.constant(1), site.constant(2)
    if site.attribute("transA", 0) or weight is None:
        raise site.unknown("it transposes its input")
    held: Live = weight
    if bias is None:
        return site.call(functional.linear, site.wire(), _scaled(held, alpha, not turned), None)
    if bias().numel() not in (1, site.shape[-1]):
        raise site.unknown("its bias differs between inputs")
    added, count = _scaled(bias, beta, False), site.shape[-1]
    return site.call(
        functional.linear,
        site.wire(),
        _scaled(held, alpha, not turned),
        lambda: added().flatten().expand(count),
    )


def _scaled(held: Live, factor: float, is_turned: bool) -> Live:
    def now() -> Tensor:
        tensor = held().transpose(0, 1) if is_turned else held()
        return tensor if factor == 1.0 else factor * tensor

    return now


def _batch_norm(site: Site) -> Wire:
    scale, bias, mean, variance = (site.constant(place) for place in range(1, 5))
    eps = site.attribute("epsilon", 1e-5)
    return site.call(functional.batch_norm, site.wire(), mean, variance, scale, bias, False, 0.0, eps)


def _global(function: Callable[[Site, tuple[int, ...]], Wire]) -> Reader:
    """Over all axes of an image."""
    return lambda site: function(site, tuple(range(2, len(site.size(site.wire())) + 1)))


def _reduced(function: Callable[[Site, tuple[int, ...]], Wire]) -> Reader:
    def read(site: Site) -> Wire:
        axes = site.attribute("axes")
        site.attribute("keepdims"), site.attribute("noop_with_empty_axes")
        rank = len(site.size(site.wire())) + 1
        chosen = tuple(sorted({axis % rank for axis in axes or ()}))
        if not chosen or chosen[0] == 0:
            raise site.unknown("it reduces the batch")
        return function(site, chosen)

    return read


def _mean(site: Site, axes: tuple[int, ...]) -> Wire:
    return site.call(torch.mean, site.wire(), axes, len(site.shape) == len(site.size(site.wire())))


def _total(site: Site, axes: tuple[int, ...]) -> Wire:
    count = torch.Size(site.size(site.wire())[axis - 1] for axis in axes).numel()
    return site.call(torch.mul, _mean(site, axes), float(count))


def _largest(site: Site, axes: tuple[int, ...]) -> Wire:
    if axes != (2, 3) or len(site.shape) != 3:
        raise site.unknown("it is not over the two axes of an image")
    return site.call(functional.max_pool2d, site.wire(), site.size(site.wire())[1:])


def _reshaped(site: Site) -> Wire:
    site.attributes()
    return site.call(torch.reshape, site.wire())


def _concat(site: Site) -> Wire:
    rank = len(site.shape) + 1
    axis = site.attribute("axis") % rank
    if axis == 0:
        raise site.unknown("it joins along the batch")
    wires = [part for part in site.inputs if isinstance(part, Wire)]
    if len(wires) == len(site.inputs):
        return site.call(torch.cat, tuple(wires), axis)
    constants = tuple(None if isinstance(part, Wire) else part for part in site.inputs)
    if any(part is not None and part().shape[0] != 1 for part in constants):
        raise site.unknown("a constant part differs between inputs")
    return site.step(Joined(axis, constants), *wires)


def _cast(site: Site) -> Wire:
    site.attribute("to"), site.attribute("saturate"), site.attribute("round_mode")
    if site.is_rounding:
        raise site.unknown("it rounds to another type")
    return site.call("contiguous", site.wire())


READERS: dict[str, Reader] = {
    "Add": _add,
    "Sub": _plain(torch.sub),
    "Mul": _plain(torch.mul),
    "Div": _plain(torch.div),
    "Sum": _sum,
    "Neg": _plain(torch.neg),
    "Abs": _plain(torch.abs),
    "Exp": _plain(torch.exp),
    "Log": _plain(torch.log),
    "Sqrt": _plain(torch.sqrt),
    "Erf": _plain(torch.erf),
    "Reciprocal": _plain(torch.reciprocal),
    "Pow": _plain(torch.pow),
    "Max": _plain(torch.maximum),
    "Min": _plain(torch.minimum),
    "Relu": _plain(functional.relu),
    "Sigmoid": _plain(torch.sigmoid),
    "Tanh": _plain(torch.tanh),
    "Softplus": _plain(functional.softplus),
    "LeakyRelu": _leaky,
    "Gelu": _gelu,
    "Clip": _clip,
    "Cast": _cast,
    "MatMul": _plain(torch.matmul),
    "Gemm": _gemm,
    "BatchNormalization": _batch_norm,
    "Conv": conv,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": _global(_mean),
    "GlobalMaxPool": _global(_largest),
    "ReduceMean": _reduced(_mean),
    "ReduceSum": _reduced(_total),
    "ReduceMax": _reduced(_largest),
    "Pad": pad,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"), _reshaped),
    **dict.fromkeys(("Transpose", "Slice", "Gather", "Expand", "Resize"), move),
    "Split": moves,
    "Concat": _concat,
}

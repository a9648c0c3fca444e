"""What symbolic tracing cannot follow, followed by ``torch.export``: branches on shapes, loops, several pieces at once.

The exported program is written as the nodes that ``tracing`` reads, so both ways end in the same operators and checks.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from hardpoint.bounds.operators import FUNCTIONS
from hardpoint.bounds.operators.call import Call
from hardpoint.bounds.operators.moves import move
from hardpoint.bounds.operators.operator import Operator

_ATEN = torch.ops.aten
_ASSERTS = (_ATEN._assert_scalar.default, _ATEN._assert_tensor_metadata.default)
_ROWS = 2  # more than one: torch.export takes 1 for a size of its own


def _piece(divide: Callable[..., Any]) -> Callable[..., Tensor]:
    """One of the pieces that ``divide`` makes of a tensor, as a function."""

    def piece(x: Tensor, place: int, *settings: Any) -> Tensor:
        found: Tensor = divide(x, *settings)[place]
        return found

    return piece


_PIECES = {
    divide: _piece(divide)
    for divide in (_ATEN.chunk.default, _ATEN.split.Tensor, _ATEN.split_with_sizes.default, _ATEN.unbind.int)
}


class Unexportable(Exception):
    """Why ``torch.export`` does not help either."""


def exported(module: nn.Module, x: Tensor) -> fx.Graph:
    """The nodes of a network whose calls are of ``torch.ops.aten``.

    Tensors that the exported program holds beside the network's own become attributes of ``module``.

    Args:
        module: the network.
        x: two inputs or more.

    Raises:
        Unexportable: saying why not.
    """
    batch = torch.export.Dim("batch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, (x[:_ROWS],), dynamic_shapes=({0: batch},), strict=False)
            held = program.module(check_guards=False)
    except Exception as error:  # the module's own code runs here, and torch's: any kind
        raise Unexportable((str(error).strip() or type(error).__name__).splitlines()[0]) from None
    if not isinstance(held, fx.GraphModule) or not program.call_spec.out_spec.is_leaf():
        raise Unexportable("it does not return one tensor")
    return _Rewriting(module, held).graph()


class _Rewriting:
    """Copies the nodes of an exported program, those that need it in another form."""

    def __init__(self, module: nn.Module, held: fx.GraphModule) -> None:
        self.module, self.held = module, held
        self.made, self.of = fx.Graph(), dict[fx.Node, fx.Node]()

    def graph(self) -> fx.Graph:
        for node in self.held.graph.nodes:
            if node.op == "output":
                (out,) = node.args[0]
                self.made.output(self.of[out] if isinstance(out, fx.Node) else out)
            elif node.target not in (*_ASSERTS, *_PIECES) and (
                node.users or node.op == "placeholder" or _writes(node)
            ):
                self.of[node] = self._copied(node)
                self.of[node].meta = dict(node.meta)
        return self.made

    def _copied(self, node: fx.Node) -> fx.Node:
        target: Any = node.target
        if node.op == "get_attr":
            self._hold(str(target))
        if node.op == "call_module":
            raise Unexportable(f"it holds the part {target}")
        if target is _ATEN.sym_size.int:
            return self.made.call_method("size", self._args(node))
        if target is _ATEN.detach_.default and _is_fresh(node.args[0]):
            (copied,) = node.all_input_nodes
            return self.of[copied]
        if (
            target is operator.getitem
            and isinstance(node.args[0], fx.Node)
            and node.args[0].target in _PIECES
        ):
            (x, *settings), whole = self._args(node.args[0]), _PIECES[node.args[0].target]
            return self.made.call_function(whole, (x, node.args[1], *settings))
        if _writes(node):
            name = target._schema.name.removeprefix("aten::")
            if name not in FUNCTIONS:
                raise Unexportable(f"{name}() writes into its input")
            return self.made.call_method(name, self._args(node), self._given(node.kwargs))
        return self.made.node_copy(node, lambda source: self.of[source])

    def _hold(self, path: str) -> None:
        """A tensor that forward() makes is kept on the module, as symbolic tracing keeps such."""
        found: Any = self.module
        for name in path.split("."):
            found = getattr(found, name, None)
        if found is None:
            if "." in path:
                raise Unexportable(f"it holds the part {path}")
            setattr(self.module, path, getattr(self.held, path))

    def _args(self, node: fx.Node) -> tuple[Any, ...]:
        return tuple(self._given(node.args))

    def _given(self, value: Any) -> Any:
        return fx.node.map_arg(value, lambda source: self.of[source])


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _is_fresh(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.target is _ATEN.lift_fresh_copy.default


def _as(key: Callable[..., Any] | str, order: Callable[..., tuple[Any, ...]]) -> Callable[[Call], Operator]:
    """A function whose arguments come in another order."""
    return lambda call: FUNCTIONS[key](replace(call, args=order(*call.args)))


_SAME_FORM: Mapping[Any, tuple[Any, ...]] = {
    functional.conv1d: (_ATEN.conv1d.default, _ATEN.conv1d.padding),
    functional.conv2d: (_ATEN.conv2d.default, _ATEN.conv2d.padding),
    functional.linear: (_ATEN.linear.default,),
    functional.relu: (_ATEN.relu.default,),
    functional.relu6: (_ATEN.relu6.default,),
    functional.hardtanh: (_ATEN.hardtanh.default,),
    functional.leaky_relu: (_ATEN.leaky_relu.default,),
    functional.max_pool2d: (_ATEN.max_pool2d.default,),
    functional.avg_pool2d: (_ATEN.avg_pool2d.default,),
    functional.adaptive_avg_pool2d: (_ATEN.adaptive_avg_pool2d.default,),
    functional.dropout: (_ATEN.dropout.default,),
    functional.pad: (_ATEN.pad.default,),
    torch.sigmoid: (_ATEN.sigmoid.default,),
    torch.tanh: (_ATEN.tanh.default,),
    torch.clamp: (_ATEN.clamp.default, _ATEN.clamp.Tensor),
    torch.clamp_min: (_ATEN.clamp_min.default,),
    torch.clamp_max: (_ATEN.clamp_max.default,),
    torch.maximum: (_ATEN.maximum.default,),
    torch.minimum: (_ATEN.minimum.default,),
    torch.mean: (_ATEN.mean.dim,),
    torch.cat: (_ATEN.cat.default,),
    torch.add: (_ATEN.add.Tensor,),
    torch.sub: (_ATEN.sub.Tensor,),
    torch.mul: (_ATEN.mul.Tensor,),
    torch.div: (_ATEN.div.Tensor,),
    torch.neg: (_ATEN.neg.default,),
    torch.matmul: (_ATEN.matmul.default, _ATEN.mm.default, _ATEN.bmm.default),
    torch.reshape: (
        _ATEN.view.default, _ATEN.reshape.default, _ATEN.flatten.using_ints, _ATEN.unflatten.int,
        _ATEN.unsqueeze.default, _ATEN.squeeze.default, _ATEN.squeeze.dim, _ATEN.squeeze.dims,
    ),
    "contiguous": (_ATEN.contiguous.default, _ATEN.clone.default),
}  # fmt: skip
_MOVES: tuple[Callable[..., Any], ...] = (
    _ATEN.slice.Tensor, _ATEN.select.int, _ATEN.permute.default, _ATEN.transpose.int, _ATEN.index.Tensor,
    _ATEN.flip.default, _ATEN.index_select.default, _ATEN.roll.default, _ATEN.expand.default,
    _ATEN.repeat.default, _ATEN.narrow.default, _ATEN.movedim.int, _ATEN.pixel_shuffle.default,
    _ATEN.pixel_unshuffle.default, *_PIECES.values(),
)  # fmt: skip
EXPORTED: Mapping[Any, Callable[[Call], Operator]] = {
    **{aten: FUNCTIONS[key] for key, forms in _SAME_FORM.items() for aten in forms},
    **{function: move(function) for function in _MOVES},
    _ATEN.batch_norm.default: _as(
        functional.batch_norm,
        lambda x, weight, bias, mean, var, training, momentum, eps, _: (
            x, mean, var, weight, bias, training, momentum, eps,
        ),
    ),
    _ATEN.constant_pad_nd.default: _as(functional.pad, lambda x, widths, value=0.0: (x, widths, "constant", value)),
    _ATEN.rsub.Scalar: _as(torch.sub, lambda x, other: (other, x)),
}  # fmt: skip
"""How each function of an exported program is read."""

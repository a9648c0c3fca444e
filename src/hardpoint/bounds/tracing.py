"""From a torch module to a graph, by symbolic tracing or else export; refused where any part is not understood."""

from __future__ import annotations

import operator
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from traceback import StackSummary, walk_stack
from typing import Any

import torch
from torch import Tensor, fx, nn

from hardpoint.bounds.checking import check, points_around
from hardpoint.bounds.exporting import EXPORTED, Unexportable, exported
from hardpoint.bounds.graph import Graph, Step
from hardpoint.bounds.onnx.reading import imported
from hardpoint.bounds.operators import FUNCTIONS, LAYERS
from hardpoint.bounds.operators.call import Call, Wire
from hardpoint.bounds.operators.moves import Moved
from hardpoint.bounds.operators.operator import Live, Operator, UnknownOperator
from hardpoint.bounds.operators.shape import Reshaped, Same
from hardpoint.core.errors import ModelError
from hardpoint.engine.guard import full_precision, preserved_random_state
from hardpoint.engine.shadow import resting_norms
from hardpoint.models.onnx.graph import GraphModule

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_OWN = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
_FORM = ("shape", "size", "dim", "ndim", "ndimension", "numel", "dtype", "device")
_IN_PLACE: Mapping[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
_FEW, _MORE = 2, 3  # batch sizes: what differs between them depends on the batch


@dataclass(frozen=True)
class _Varying:
    """A plain value that depends on the size of the batch."""


def traced(module: nn.Module, x: Tensor) -> Graph:
    """The graph of ``module``, in the mode that its layers are in, checked against it.

    Args:
        module: takes one tensor and returns one tensor; or an imported ONNX graph.
        x: float ``[n, ...]``, one input or more of the shape and dtype that the module takes.

    Raises:
        UnknownOperator: for a part that no bound is known for, with its line.
        ModelError: where the graph computes something else than the module.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> [step.name for step in traced(net, torch.zeros(1, 2)).steps]
    ["layer '0' (Linear)", "layer '1' (ReLU)", "layer '2' (Linear)"]
    """
    if not len(x) or not x.is_floating_point():
        raise ModelError("a network cannot be traced without an input", "give one float input or more")
    refuse_hooks(module)
    if isinstance(module, GraphModule):
        return imported(module, x)
    own, points = set(vars(module)), points_around(x)
    try:
        with preserved_random_state():
            before = torch.get_rng_state()
            nodes = _symbols(module, points)
            if not torch.equal(before, torch.get_rng_state()):
                raise UnknownOperator(
                    "the network draws random numbers", "give one that answers alike each time"
                )
        with torch.no_grad(), full_precision(), preserved_random_state(), resting_norms(module):
            graph = _Reading(module, nodes, points, made=set(vars(module)) - own).graph()
            for size in (1, len(points)) if graph.is_settled else (len(points),):
                check(module, graph, points[:size])
    finally:
        for name in set(vars(module)) - own:  # tensors that forward() makes: tracing keeps them on the module
            delattr(module, name)
    return graph


class _Reading:
    """Reads the nodes of a tracing one after the other.

    Args:
        module: the network.
        nodes: its tracing.
        points: what its values are tried with.
        made: names of tensors that are not the network's own but were made by its forward().
    """

    def __init__(self, module: nn.Module, nodes: fx.Graph, points: Tensor, made: set[str]) -> None:
        self.module, self.nodes, self.made = module, nodes, made
        self.few, self.more = (_Values(module, nodes).of(points[:size]) for size in (_FEW, _MORE))
        self.known: dict[fx.Node, Any] = {}
        self.steps: list[Step] = []
        self.output: int | None = None

    def graph(self) -> Graph:
        for node in self.nodes.nodes:
            self.known[node] = self._read(node)
        if self.output is None:
            raise UnknownOperator(
                "the network does not return one tensor that depends on its input",
                "return the class scores alone",
            )
        return Graph(tuple(self.steps), self.output)

    def _read(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            if any(isinstance(known, Wire) for known in self.known.values()):
                raise UnknownOperator(
                    f"the network takes a second input {node.target!r}", "wrap it so that it takes one tensor"
                )
            return Wire(0)
        if node.op == "output":
            found = self._given(node.args[0])
            self.output = found.step if isinstance(found, Wire) else None
            return None
        if node.op == "get_attr":
            return self._attribute(node)
        args, kwargs = self._given(node.args), self._given(node.kwargs)
        if not isinstance(self.few[node], Tensor):
            return self._plain(node, args, kwargs)
        if not _all((args, kwargs), Wire):
            return self._constant(node, args, kwargs)
        return self._step(node, args, kwargs)

    def _plain(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """A value that is no tensor. Of tensors it may tell the form, such as the shape, and nothing else: what follows
        from their content is not the same elsewhere. What follows from the size of the batch depends on it, though it
        may be the same for two sizes."""
        few, more = self.few[node], self.more[node]
        of_tensor = any(isinstance(self.few[source], Tensor) for source in node.all_input_nodes)
        if _all(few, Tensor) or (of_tensor and not _asks_form(node)):
            raise self._call(node, args, kwargs).unknown("it returns no single tensor")
        of_shape = node.target is operator.getitem and _asks_form(node.all_input_nodes[0])
        if _all((args, kwargs), _Varying) and not of_shape:
            return _Varying()
        return few if _equal(few, more) else _Varying()

    def _given(self, value: Any) -> Any:
        return fx.node.map_arg(value, lambda node: self.known[node])

    def _attribute(self, node: fx.Node) -> Any:
        path = str(node.target)
        found = _fetched(self.module, path)
        if not isinstance(found, Tensor):
            return found
        if path in self.made:
            return lambda: found
        return lambda: _fetched(self.module, path)

    def _constant(self, node: fx.Node, args: Any, kwargs: Any) -> Live:
        """A tensor that is computed from weights alone."""
        if node.op == "call_module" or _writes(node, None) or _all((args, kwargs), _Varying):
            raise self._call(node, args, kwargs).unknown("it is no function of the input")
        target: Any = node.target

        def now() -> Tensor:
            given = [_evaluated(part) for part in args]
            named = {name: _evaluated(part) for name, part in kwargs.items()}
            out: Tensor = (
                getattr(given[0], target)(*given[1:], **named)
                if isinstance(target, str)
                else target(*given, **named)
            )
            return out

        before = torch.get_rng_state()
        now()
        if not torch.equal(before, torch.get_rng_state()):
            raise self._call(node, args, kwargs).unknown("it draws random numbers")
        return now

    def _step(self, node: fx.Node, args: Any, kwargs: Any) -> Wire:
        few, more = self.few[node], self.more[node]
        taken = next((self.few[source] for source in node.all_input_nodes if self._is_wire(source)), few)
        call = self._call(node, args, kwargs, tuple(few.shape[1:]), tuple(taken.shape[1:]))
        rows = few.dim() >= 1 and len(few) == _FEW and len(more) == _MORE
        if not rows or few.shape[1:] != more.shape[1:] or not few.is_floating_point():
            raise call.unknown("its value does not have one row of floats per input")
        layer = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        read = self._operator(call, node, layer)
        if _all((args, kwargs), _Varying) and not isinstance(read, Reshaped):
            raise call.unknown("it depends on the size of the batch")
        if _writes(node, layer) and not self._is_private(node.all_input_nodes[0]):
            raise call.unknown("it writes into a value that is used elsewhere")
        wires = [_all(args, Wire), *(_all(value, Wire) for value in kwargs.values())]
        if sum(bool(found) for found in wires) > 1:
            raise call.unknown("some of its inputs are given by name and some are not")
        inputs = tuple(wire.step for found in wires for wire in found)
        self.steps.append(Step(call.what, read, inputs))
        return Wire(len(self.steps))

    def _operator(self, call: Call, node: fx.Node, layer: nn.Module | None) -> Operator:
        if layer is not None:
            read_layer = LAYERS.get(type(layer))
            if read_layer is None:
                raise call.unknown()
            if len(call.args) != 1 or call.kwargs:
                raise call.unknown("it takes more than one input")
            return read_layer(call, layer)
        target: Any = node.target
        read = FUNCTIONS.get(_IN_PLACE.get(target, target), EXPORTED.get(target))
        if read is None:
            raise call.unknown()
        return read(call)

    def _is_wire(self, node: fx.Node) -> bool:
        return isinstance(self.known[node], Wire)

    def _call(
        self, node: fx.Node, args: Any, kwargs: Any, shape: tuple[int, ...] = (), taken: tuple[int, ...] = ()
    ) -> Call:
        if node.op == "call_module":
            kind = type(self.module.get_submodule(str(node.target))).__name__
            what = f"layer {str(node.target)!r} ({kind})"
        else:
            target: Any = node.target
            what = f".{target}()" if isinstance(target, str) else f"{getattr(target, '__name__', target)}()"
        return Call(what, _place(node), tuple(args), dict(kwargs), shape, taken)

    def _is_private(self, node: fx.Node) -> bool:
        """Whether only one operator sees the memory of the node's value."""
        while len(node.users) == 1:
            known = self.known[node]
            step = self.steps[known.step - 1] if isinstance(known, Wire) and known.step else None
            if step is None or not isinstance(step.operator, Reshaped | Same | Moved):
                return True
            node = node.all_input_nodes[0]
        return False


class _Values(fx.Interpreter):
    """What each node of a tracing is for a batch."""

    def __init__(self, module: nn.Module, nodes: fx.Graph) -> None:
        super().__init__(module, garbage_collect_values=False, graph=nodes)
        self._held: dict[fx.Node, Any] = {}

    def of(self, x: Tensor) -> Mapping[fx.Node, Any]:
        try:
            self.run(x.clone())
        except (
            Exception
        ) as error:  # a shape that does not fit, an operator without this dtype: torch raises many kinds
            raise ModelError(
                f"the network fails on {len(x)} inputs of shape {tuple(x.shape[1:])}: {str(error).splitlines()[0]}",
                "give inputs that it takes, in any number",
            ) from None
        return self._held

    def run_node(self, n: fx.Node) -> Any:
        out = self._held[n] = super().run_node(n)
        return out


class _Written(fx.Proxy):
    """A value whose ``+=`` is told from ``+``: in a network it writes into the tensor, which others may see."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self._into(operator.iadd, other)

    def __isub__(self, other: Any) -> fx.Proxy:
        return self._into(operator.isub, other)

    def __imul__(self, other: Any) -> fx.Proxy:
        return self._into(operator.imul, other)

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self._into(operator.itruediv, other)

    def _into(self, function: Callable[[Any, Any], Any], other: Any) -> fx.Proxy:
        made: fx.Proxy = self.tracer.create_proxy("call_function", function, (self, other), {})
        return made


class _Tracer(fx.Tracer):
    """Notes the line that each node comes from. Torch's own record of it imports its compilers, which takes seconds."""

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        frames = StackSummary.extract(walk_stack(sys._getframe(1)), lookup_lines=False)
        node.stack_trace = "".join(f'File "{f.filename}", line {f.lineno}\n' for f in reversed(frames))
        return node

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Written(node, self)


def _symbols(module: nn.Module, points: Tensor) -> fx.Graph:
    """The nodes of the module; those of an exported program where symbolic tracing cannot follow it."""
    tracer = _Tracer()
    tracer.proxy_buffer_attributes = True
    try:
        return tracer.trace(module)
    except Exception as error:  # the module's own code runs here: any kind
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    try:
        return exported(module, points)
    except Unexportable as error:
        raise UnknownOperator(
            f"{type(module).__name__} cannot be traced: {reason} (torch.export: {error})",
            "write its forward() without branches or loops that depend on values",
        ) from None


def refuse_hooks(module: nn.Module) -> None:
    """Raise ``UnknownOperator`` for a module that may compute something else than its layers say."""
    for name, layer in module.named_modules():
        if layer._forward_hooks or layer._forward_pre_hooks:
            raise UnknownOperator(
                f"layer {name or type(layer).__name__!r} has hooks, which may change what it computes",
                "remove them (weight norm: torch.nn.utils.remove_weight_norm)",
            )
        if "forward" in vars(layer):
            raise UnknownOperator(
                f"forward() of layer {name or type(layer).__name__!r} was replaced",
                "put it into a class of its own",
            )


def _place(node: fx.Node) -> str:
    """Where a node comes from: the innermost line that belongs neither to torch nor to this package."""
    frames = [
        (file, line) for file, line in _FRAME.findall(node.stack_trace or "") if not file.startswith(_OWN)
    ]
    return f"line {frames[-1][1]} of {frames[-1][0]}" if frames else f"step {node.name}"


def _fetched(module: nn.Module, path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name)
    return found


def _evaluated(value: Any) -> Any:
    """``value`` with each tensor of the network read."""
    if isinstance(value, tuple | list):
        return type(value)(_evaluated(part) for part in value)
    return value() if _is_live(value) else value


def _is_live(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def _all(value: Any, kind: type) -> list[Any]:
    """Everything of this ``kind`` in nested arguments, in order."""
    if isinstance(value, kind):
        return [value]
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return [found for part in value for found in _all(part, kind)]
    if isinstance(value, slice):
        return _all((value.start, value.stop, value.step), kind)
    return []


def _asks_form(node: fx.Node) -> bool:
    """Whether the node is the shape, or the like, of a tensor."""
    return node.target in _FORM or (node.target is getattr and node.args[1] in _FORM)


def _equal(first: Any, second: Any) -> bool:
    return type(first) is type(second) and bool(first == second)


def _writes(node: fx.Node, layer: nn.Module | None) -> bool:
    """Whether the node may write into its first input."""
    target: Any = node.target
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    if node.op == "call_module":
        return bool(getattr(layer, "inplace", False))
    by_place = name in ("relu", "relu6", "hardtanh", "leaky_relu", "dropout") and any(
        part is True for part in node.args
    )
    asked = bool(node.kwargs.get("inplace")) or by_place or target in _IN_PLACE
    return asked or (name.endswith("_") and not name.endswith("__"))

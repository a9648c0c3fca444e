"""From an imported ONNX graph to a graph of operators that bounds are known for; refused where a node is not."""

from __future__ import annotations

import torch
from torch import Tensor

from hardpoint.bounds.checking import check, points_around
from hardpoint.bounds.graph import Graph, Step
from hardpoint.bounds.onnx.operators import READERS
from hardpoint.bounds.onnx.site import Built, Site
from hardpoint.bounds.operators import FUNCTIONS
from hardpoint.bounds.operators.call import Call, Wire
from hardpoint.bounds.operators.operator import Live, UnknownOperator
from hardpoint.core.errors import ModelError
from hardpoint.models.onnx.graph import GraphModule, Node, fit_shape

_FEW, _MORE = 2, 3  # batch sizes: what differs between them depends on the batch


def imported(module: GraphModule, x: Tensor) -> Graph:
    """The graph of an ONNX network, which reads the module's weights as they are, checked against it.

    Args:
        module: what the ONNX importer makes; in float64 where bounds are to be proven.
        x: ``[n, ...]``, inputs that the graph is compared at and whose shape it takes: the module's, or flattened.

    Raises:
        UnknownOperator: naming the operator and node that no bound is known for.
        ModelError: where the graph computes something else than the module.
    """
    if module.graph.chunk is not None or not module.graph.batched:
        raise UnknownOperator(
            "the ONNX file fixes how many inputs it takes at a time",
            "export it with a batch axis of any length",
        )
    weights = [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()]
    x = x.detach().to(weights[0]) if weights else x.detach()
    with torch.no_grad():
        around = points_around(x)
        graph = _Reading(module, around).graph()
        for points in (around, x):
            check(module, graph, points)
    return graph


class _Reading:
    """Reads the nodes of a module one after the other.

    Args:
        module: the network.
        points: three inputs or more that its values are tried with.
    """

    def __init__(self, module: GraphModule, points: Tensor) -> None:
        self.module = module
        inputs = fit_shape(points, module.graph.input_shape)
        self.few, self.more = (self._values(inputs[:size]) for size in (_FEW, _MORE))
        self.known: dict[str, Wire | Live] = {name: self._live(name) for name in module.attribute_of}
        self.uses: dict[str, int] = {}
        for node in module.graph.nodes:
            for name in node.inputs:
                self.uses[name] = self.uses.get(name, 0) + 1
        self.uses[module.graph.output] = self.uses.get(module.graph.output, 0) + 1
        self.built = Built(shapes=[tuple(points.shape[1:])])
        self.known[module.graph.input] = self._entrance()

    def graph(self) -> Graph:
        for node in self.module.graph.nodes:
            site = self._site(node)
            read = READERS.get(node.op)
            if read is None:
                raise site.unknown()
            made = read(site)
            site.settled()
            for name, wire in zip(node.outputs, made if isinstance(made, list) else [made], strict=True):
                if name:
                    self._agree(site, name, wire)
                    self.known[name] = wire
        output = self.known[self.module.graph.output]
        if not isinstance(output, Wire):
            raise UnknownOperator("the output does not depend on the input", "export the class scores")
        return Graph(tuple(self.built.steps), output.step)

    def _entrance(self) -> Wire:
        """The input in the shape that the nodes take."""
        shape = self.module.graph.input_shape
        if self.built.shapes[0] == shape:
            return Wire(0)
        operator = FUNCTIONS[torch.reshape](Call("the input", "", (Wire(0),), {}, shape))
        return self.built.add(Step("the input's shape", operator, (0,)), shape)

    def _values(self, x: Tensor) -> dict[str, Tensor]:
        try:
            return self.module.values(x)
        except Exception as error:  # a shape that does not fit: torch raises many kinds
            where = "".join(f" in {note}" for note in getattr(error, "__notes__", [])[:1])
            raise ModelError(
                f"the network fails{where} on {len(x)} inputs: {str(error).splitlines()[0]}",
                "export it for batches of any size",
            ) from None

    def _live(self, name: str) -> Live:
        return lambda: self.module.constant(name)

    def _site(self, node: Node) -> Site:
        return Site(
            self.built,
            node,
            inputs=[self.known[name] if name else None for name in node.inputs],
            values=[self.few[name] if name else None for name in node.inputs],
            shapes=[tuple(self.few[name].shape[1:]) for name in node.outputs],
            is_alone=self.uses[node.inputs[0]] == 1,
            is_rounding=self.few[node.inputs[0]].dtype != self.few[node.outputs[0]].dtype,
        )

    def _agree(self, site: Site, name: str, wire: Wire) -> None:
        """Every value must have one row of floats per input, and the shape that the operator was given."""
        few, more, shape = self.few[name], self.more[name], self.built.shapes[wire.step]
        rows = few.shape == (_FEW, *shape) and more.shape == (_MORE, *shape)
        if not rows or not few.is_floating_point():
            raise site.unknown("its value does not have one row of floats per input")

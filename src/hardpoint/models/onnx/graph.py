"""A network as data: an ordered list of nodes and the tensors they share.

``Graph`` is what the ONNX importer makes and what anything that reasons about a network (bounds, folding)
walks; ``GraphModule`` runs it as a differentiable torch module.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hardpoint.core.errors import DataError
from hardpoint.models.onnx.operators import OPERATORS


class Unsupported(Exception):
    """Why a graph cannot be imported; the model is then used through onnxruntime alone."""


@dataclass(frozen=True)
class Node:
    """One operation. ``inputs`` and ``outputs`` name values; an absent optional input is the empty string.

    ``attributes`` has the names of the ONNX standard whatever the opset: what later opsets moved to constant
    inputs (axes, shapes, pads) is an attribute here, so there is one form to handle.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def __str__(self) -> str:
        return f"operator {self.op} (node {self.name!r})"


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can run, from one input to one output.

    Args:
        nodes: every node whose result the output needs.
        input: the name of the input value.
        output: the name of the output value.
        input_shape: the shape of one input, without the batch axis.
        constants: the tensors that do not depend on the input, by name.
        chunk: how many rows the nodes take at a time; any number if None.
        batched: whether the nodes see a batch axis at all.
    """

    nodes: tuple[Node, ...]
    input: str
    output: str
    input_shape: tuple[int, ...]
    constants: Mapping[str, Tensor]
    chunk: int | None = None
    batched: bool = True

    def replace(self, **changes: Any) -> Graph:
        """The same graph with some fields changed."""
        return dataclasses.replace(self, **changes)


# Inputs that training would change; every other constant is a buffer.
_WEIGHTS = {
    "Conv": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "Add": (0, 1),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "PRelu": (1,),
}


class GraphModule(nn.Module):
    """Runs a ``Graph``: ``[n, ...]`` in, the graph's output out, differentiably.

    Weights are frozen parameters and other constants buffers, so ``.to``, ``.double`` and ``state_dict`` work.
    Inputs that differ from ``graph.input_shape`` only by flattening or by axes of length 1 are reshaped to it.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph.replace(constants={})  # the tensors live in the module alone
        weights = {
            name
            for node in graph.nodes
            for position, name in enumerate(node.inputs)
            if position in _WEIGHTS.get(node.op, ())
        }
        self.attribute_of: dict[str, str] = {}
        for number, (name, tensor) in enumerate(graph.constants.items()):
            attribute = f"c{number}_" + "".join(c if c.isalnum() else "_" for c in name)
            self.attribute_of[name] = attribute
            if name in weights and tensor.is_floating_point():
                self.register_parameter(attribute, nn.Parameter(tensor.clone(), requires_grad=False))
            else:
                self.register_buffer(attribute, tensor.clone())
        last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
        self._done: list[list[str]] = [[] for _ in graph.nodes]
        for name, i in last.items():
            if name != graph.output and name not in graph.constants:
                self._done[i].append(name)

    def constant(self, name: str) -> Tensor:
        """The tensor of a constant value of the graph."""
        tensor: Tensor = getattr(self, self.attribute_of[name])
        return tensor

    def forward(self, x: Tensor) -> Tensor:
        x = self._as_input(x)
        run = self._run if self.graph.batched else lambda rows: self._run(rows[0])
        if self.graph.chunk is None:
            return run(x)
        return in_chunks(run, x, self.graph.chunk)

    def _as_input(self, x: Tensor) -> Tensor:
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.is_floating_point():
                x = x.to(tensor.dtype)  # the engine's float32 meets files stored in other precisions
                break
        return fit_shape(x, self.graph.input_shape)

    def _run(self, x: Tensor) -> Tensor:
        return self.values(x, release=True)[self.graph.output]

    def values(self, x: Tensor, *, release: bool = False) -> dict[str, Tensor]:
        """Every value of the graph by name, for ``x`` of the graph's own input shape.

        Args:
            x: ``[n, *input_shape]``.
            release: drop values after their last use.
        """
        values: dict[str, Tensor] = {name: self.constant(name) for name in self.attribute_of}
        values[self.graph.input] = x
        for node, done in zip(self.graph.nodes, self._done, strict=True):
            arguments = [values[name] if name else None for name in node.inputs]
            try:
                result = OPERATORS[node.op](*arguments, **node.attributes)
            except Exception as error:
                error.add_note(str(node))
                raise
            if isinstance(result, Tensor):
                values[node.outputs[0]] = result
            else:
                values.update(zip(node.outputs, result, strict=False))
            if release:
                for name in done:
                    values.pop(name, None)
        return values


def in_chunks(run: Callable[[Tensor], Tensor], x: Tensor, chunk: int) -> Tensor:
    """``run`` over pieces of exactly ``chunk`` rows, as ``[n, outputs per row]``; the last piece is filled up.

    >>> in_chunks(lambda rows: rows.sum(1), torch.ones(3, 5), chunk=2)
    tensor([[5.],
            [5.],
            [5.]])
    """
    results = []
    for start in range(0, max(len(x), 1), chunk):
        rows = x[start : start + chunk]
        missing = chunk - len(rows)
        filler = rows[-1:] if len(rows) else x.new_zeros(1, *x.shape[1:])
        full = torch.cat([rows, filler.expand(missing, *x.shape[1:])]) if missing else rows
        results.append(run(full).reshape(chunk, -1)[: len(rows)])
    return torch.cat(results)


def fit_shape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``x`` as ``[n, *shape]``, where that only flattens, unflattens or adds axes of length 1.

    Raises:
        DataError: when the sizes differ, or when reshaping would scramble the axes (channels last or first).

    >>> fit_shape(torch.zeros(2, 784), (1, 28, 28)).shape
    torch.Size([2, 1, 28, 28])
    """
    if tuple(x.shape[1:]) == shape:
        return x
    given = tuple(size for size in x.shape[1:] if size != 1)
    wanted = tuple(size for size in shape if size != 1)
    if math.prod(given) != math.prod(wanted):
        raise DataError(
            f"inputs have shape {tuple(x.shape[1:])}, the model takes {shape}", "give inputs of that shape"
        )
    if given != wanted and len(given) > 1 and len(wanted) > 1:
        raise DataError(
            f"inputs have shape {tuple(x.shape[1:])}, the model takes {shape}: the axes are in another order",
            "permute them, for example x.permute(0, 2, 3, 1) for a model that takes channels last",
        )
    return x.reshape(len(x), *shape)

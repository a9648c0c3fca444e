"""An ONNX file as what a verifier needs: a graph to reason about, and the file itself to replay points on."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from hardpoint.bounds.graph import Graph, Network, Step
from hardpoint.bounds.onnx.reading import imported
from hardpoint.bounds.operators.operator import UnknownOperator
from hardpoint.bounds.operators.shape import Reshaped
from hardpoint.core.errors import DataError
from hardpoint.core.rng import Rng
from hardpoint.models.onnx.files import read_onnx
from hardpoint.models.onnx.graph import GraphModule
from hardpoint.models.onnx.model import OnnxModel
from hardpoint.models.onnx.signature import read_signature


@dataclass(frozen=True, eq=False)
class OnnxNetwork:
    """An ONNX file, with nothing left out at its end.

    Attributes:
        network: its graphs, from inputs ``[n, d]`` to answers ``[n, K]``, both flattened in order.
        model: the file as it is served; ``model.answers(x)`` is what onnxruntime makes of ``x`` ``[n, d]``.
        inputs, outputs: ``d`` and ``K``.
    """

    network: Network
    model: OnnxModel
    inputs: int
    outputs: int

    @property
    def graph(self) -> Graph:
        """In float64."""
        return self.network.exact


def read_network(path: str | Path, low: Tensor, high: Tensor) -> OnnxNetwork:
    """The network in a file. Torch is checked against onnxruntime, and the graph against torch, in and around a box.

    Args:
        path: an ``.onnx`` file; nothing outside its folder is read and nothing in it is executed.
        low, high: ``[d]``, where it is used, in the order of the flattened input.

    Raises:
        UnknownOperator: naming the operator and node that no bound is known for.
        DataError: for a box that does not fit the file's input.
        ModelError: when the file is damaged or has several inputs.
    """
    proto, _ = read_onnx(Path(path))
    shape = read_signature(proto, str(path), keep_probabilities=True).shape
    count = math.prod(shape)
    for end in (low, high):
        if end.numel() != count or not end.is_floating_point() or not bool(end.isfinite().all()):
            raise DataError(
                f"the box has {end.numel()} values of {end.dtype}, {path} takes {count} finite ones",
                "give the property that belongs to this network",
            )
    model = OnnxModel(path, (low.reshape(shape), high.reshape(shape)), probabilities=False)
    found = getattr(model, "module", None)
    if not isinstance(found, GraphModule):
        raise UnknownOperator(
            f"no bound is known for {path}: {'; '.join(model.notes)}",
            "export the network with operators that hardpoint.models.onnx differentiates",
        )
    u = Rng(0).fork("onnx-bounds-check").uniform(torch.arange(8), (count,)).double()
    x = low.reshape(1, -1).double() + u * (high - low).reshape(1, -1).double()
    network = graphs_of(found, x)
    return OnnxNetwork(network, model, count, network.exact(x).shape[1])


def graphs_of(module: GraphModule, x: Tensor) -> Network:
    """Both graphs of what is in an ONNX file, with one row of numbers per input as the answer, checked at ``x``."""
    exact, quick = (
        _flat(imported(copy.deepcopy(module).to(kind), x.to(kind)), x.to(kind))
        for kind in (torch.float64, torch.float32)
    )
    return Network(exact, quick)


def _flat(graph: Graph, x: Tensor) -> Graph:
    """The graph with one row of numbers per input as its answer."""
    answers = graph(x)
    if answers.dim() == 2:
        return graph
    flat = Step("flatten", Reshaped((answers[0].numel(),)), (graph.output,))
    return replace(graph, steps=(*graph.steps, flat), output=len(graph.steps) + 1)

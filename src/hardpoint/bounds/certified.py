"""Which inputs interval bounds prove safe."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from hardpoint.bounds.ball import allowed
from hardpoint.bounds.graph import Graph
from hardpoint.bounds.inputs import refuse_inputs, refuse_labels
from hardpoint.bounds.interval import intervals, margin_bounds
from hardpoint.bounds.tracing import refuse_hooks, traced
from hardpoint.core.box import Box
from hardpoint.core.errors import BadModelOutput, ConfigError, DataError, ModelError, ThreatError
from hardpoint.core.rows import chunks
from hardpoint.engine.guard import full_precision, refuse_training_layers
from hardpoint.models.torch import TorchModel
from hardpoint.threats.linf import Linf
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat

SLACK = 1e-5
"""By how much a score must stay ahead, in units of the scores: about what float32 rounds scores of size 10 by."""
_AT_ONCE = 500


@torch.no_grad()
def interval_certified(
    model: nn.Module | TorchModel,
    x: Tensor,
    y: Tensor,
    threat: Threat | Perturbation,
    *,
    slack: float = SLACK,
) -> Tensor:
    """Bool ``[n]``: inputs whose class ``y`` no allowed change can change, proven by interval bounds.

    Bounds are computed in float64 from the network's weights and widened by more than all of their rounding: they hold
    for the network in exact arithmetic. That it is also deployed in float32 is what ``slack`` is for, which is an
    allowance and no proof. False says that nothing was proven.

    Args:
        model: in evaluation mode.
        x: ``[n, ...]`` inside the model's input range (0 to 1 for a module).
        y: int64 ``[n]``, the true labels.
        threat: ``Linf``; each input may move in its box, cut by the input range.
        slack: by how much the score of ``y`` must stay ahead of every other.

    Raises:
        ThreatError: for another perturbation than ``Linf``.
        ModelError: for a network in training mode, or with a part that no bound is known for.
        DataError: for inputs outside the input range, or labels that the model does not have.
        ConfigError: for a slack below 0.

    >>> net = nn.Sequential(nn.Linear(1, 2)).eval().requires_grad_(False)
    >>> _ = net[0].weight.copy_(torch.tensor([[-1.0], [1.0]])), net[0].bias.copy_(torch.tensor([0.5, -0.5]))
    >>> interval_certified(net, torch.tensor([[0.7], [0.55]]), torch.tensor([1, 1]), Linf(0.1))
    tensor([ True, False])
    """
    known, perturbation = provable(model, x, y), _linf(threat)
    if not 0 <= slack < math.inf:
        raise ConfigError(f"slack is {slack!r}", "give a finite number of 0 or more")
    if not len(x):
        return torch.zeros(0, dtype=torch.bool, device=x.device)
    x_here, y_here = x.cpu(), y.cpu().long()
    with full_precision():
        module = in_double(known.module)
        graph = traced(module, x_here[:1].double())
        parts = [
            _certified(graph, part, labels, known.box, perturbation, slack)
            for part, labels in zip(chunks(x_here, _AT_ONCE), chunks(y_here, _AT_ONCE), strict=True)
        ]
    return torch.cat(parts).to(x.device)


def provable(model: nn.Module | TorchModel, x: Tensor, y: Tensor) -> TorchModel:
    """The model, where something can be proven of it at ``x``, ``y``.

    Raises:
        ModelError: for a network in training mode, or one that returns probabilities.
        DataError: for inputs outside the input range, and labels that are no class numbers.
    """
    known = model if isinstance(model, TorchModel) else TorchModel(model)
    if known.probabilities:
        raise ModelError("the network returns probabilities", "give it without its last softmax or sigmoid")
    refuse_training_layers(known.module)
    refuse_inputs(x, known.box)
    refuse_labels(y, len(x))
    return known


def in_double(module: nn.Module) -> nn.Module:
    """A copy in float64 on the processor, whose convolutions are sums of products and nothing else.

    Raises:
        UnknownOperator: for a module with hooks, which may change what it computes.
        ModelError: for one that cannot be copied.
    """
    refuse_hooks(module)
    try:
        return copy.deepcopy(module).cpu().double()
    except RuntimeError as error:  # tensors that were computed, and are kept on the module
        raise ModelError(
            f"the network cannot be copied: {str(error).splitlines()[0]}",
            "do not keep what forward() computes",
        ) from None


def _certified(graph: Graph, x: Tensor, y: Tensor, box: Box, threat: Linf, slack: float) -> Tensor:
    spans = intervals(graph, allowed(x, box, threat))
    scores = spans[graph.output].low
    if scores.dim() != 2:
        raise BadModelOutput(
            f"each input has scores of shape {tuple(scores.shape[1:])}", "return [n, classes]"
        )
    classes = max(2, scores.shape[1])
    if int(y.max()) >= classes:
        raise DataError(
            f"there is a label {int(y.max())}, the model has {classes} classes", "give labels it has"
        )
    others = margin_bounds(graph, spans, y).scatter(1, y.unsqueeze(1), torch.inf)
    return (others > slack).all(1)  # what is not a number is above nothing


def _linf(threat: Threat | Perturbation) -> Linf:
    perturbation = Threat.of(threat).perturbation
    if not isinstance(perturbation, Linf):
        raise ThreatError(
            f"interval bounds say nothing about {perturbation.name}",
            "certify against Linf, for example Linf(0.1)",
        )
    return perturbation

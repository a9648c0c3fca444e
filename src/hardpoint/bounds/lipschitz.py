"""How fast a network's scores can change, and the radius within which they therefore keep their class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from hardpoint.bounds.certified import in_double, provable
from hardpoint.bounds.gram import phases, shared
from hardpoint.bounds.operators.operator import UnknownOperator
from hardpoint.bounds.tracing import refuse_hooks
from hardpoint.core.errors import DataError
from hardpoint.core.rows import chunks
from hardpoint.engine.clean import first_answer
from hardpoint.engine.guard import full_precision, preserved_random_state
from hardpoint.models.torch import TorchModel

_UP = 1 + 1e-9
"""For rounding in float64."""
_ROUNDING = 1e-5
"""What rounding in float32 may change of the scores, as a share of the largest."""
_EVERY = 256

Bound = Callable[[nn.Module], float]


def lipschitz_bound(network: nn.Module) -> float:
    """At most how many times farther apart two answers are than the two inputs, in L2, in evaluation mode.

    The product of bounds for each layer, computed in float64: a linear layer's largest singular value, for a
    convolution the root of the largest eigenvalue of the absolute products of its columns, which is the bound behind
    almost-orthogonal layers (Prach and Lampert, ECCV 2022) at its tightest.

    Args:
        network: ``nn.Sequential``, nested as it may be, of layers that a bound is known for. One of your own says its
            bound as a float, its attribute ``lipschitz``.

    Raises:
        UnknownOperator: for any other, naming it.

    >>> lipschitz_bound(nn.Sequential(nn.Flatten(), nn.ReLU()))
    1.0
    """
    refuse_hooks(network)
    return math.prod(_bound(layer, name) for name, layer in _in_order(network, "the network"))


def certified_radius(model: nn.Module | TorchModel, x: Tensor, y: Tensor) -> Tensor:
    """float64 ``[n]``: the L2 radius around each input within which the network answers its class ``y``; 0 where it
    does not answer that at the input itself.

    The margin between the class and the next one over √2 times the Lipschitz bound (Tsuzuku, Sato and Sugiyama,
    "Lipschitz-margin training", NeurIPS 2018); over twice the bound where one score stands for both classes. Scores are
    computed in float64. The radius holds for the network as real numbers compute it; a hundred-thousandth of
    the largest score is taken off the margin for what float32 rounds, which is an allowance and no proof.

    Args:
        model: in evaluation mode; its scores are the network's own, no probabilities.
        x: inputs ``[n, ...]``.
        y: int64 ``[n]``.

    Raises:
        ModelError: for a network in training mode, or one that returns probabilities.
        UnknownOperator: for one that no bound is known for.
        DataError: for inputs outside the input range, and labels that the model does not have.
    """
    known = provable(model, x, y)
    if not len(x):
        return torch.zeros(0, dtype=torch.float64, device=x.device)
    labels, module = y.cpu().long(), in_double(known.module)
    exact = replace(known, module=module)
    with full_precision(), preserved_random_state(), torch.no_grad():
        alone = first_answer(module, x[:1].cpu().double())
        if not isinstance(alone, Tensor):
            raise UnknownOperator(
                "no bound is known for several outputs", "return one tensor of class scores"
            )
        scores = torch.cat([exact.scores(part.double()) for part in chunks(x.cpu(), _EVERY)])
    if int(labels.max()) >= scores.shape[1]:
        raise DataError(
            f"there is a label {int(labels.max())}, the model has {scores.shape[1]} classes",
            "give labels it has",
        )
    apart = 2.0 if alone.dim() == 1 or alone.shape[1] == 1 else math.sqrt(2)  # how fast a margin changes
    steepest = apart * lipschitz_bound(known.module)
    own = scores.gather(1, labels.view(-1, 1)).squeeze(1)
    next_best = scores.scatter(1, labels.view(-1, 1), -torch.inf).amax(1)
    margin = own - next_best - _ROUNDING * scores.abs().amax(1)
    radius = margin.clamp_min(0.0) / steepest if steepest > 0 else margin.sign() * math.inf
    return radius.where(margin > 0, 0.0).to(x.device)


def _in_order(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The layers of ``nn.Sequential``, however nested."""
    if type(module) is not nn.Sequential:
        yield name, module
        return
    for key, child in module._modules.items():  # a layer that is there twice counts twice
        assert child is not None
        yield from _in_order(child, f"layer {key!r}" if name == "the network" else f"{name[:-1]}.{key}'")


def _bound(layer: nn.Module, name: str) -> float:
    if _tells(layer):
        told = layer.lipschitz
        assert isinstance(told, float)
        return told
    for kind, bound in _BOUNDS.items():
        # a subclass may compute something else; one that parametrises weights does not
        if isinstance(layer, kind) and type(layer).forward is kind.forward:
            return bound(layer)
    raise UnknownOperator(
        f"no Lipschitz bound is known for {name} ({type(layer).__name__})",
        "build the network from nn.Sequential, Linear, Conv2d, GroupSort and other common layers",
    )


def _tells(layer: nn.Module) -> bool:
    """Whether the layer says a bound of its own: on itself, or in the class that its ``forward`` is from or below."""
    told = getattr(layer, "lipschitz", None)
    if not isinstance(told, float) or not 0 <= told < math.inf:
        return False
    if "lipschitz" in vars(layer):
        return True
    said, computes = (
        next(kind for kind in type(layer).__mro__ if word in vars(kind)) for word in ("lipschitz", "forward")
    )
    return issubclass(said, computes)


def _linear(layer: nn.Module) -> float:
    assert isinstance(layer, nn.Linear)
    return float(torch.linalg.matrix_norm(layer.weight.detach().double(), 2)) * _UP


def _convolution(layer: nn.Module) -> float:
    assert isinstance(layer, nn.Conv2d)
    if layer.groups != 1 or layer.dilation != (1, 1) or layer.padding_mode != "zeros":
        raise UnknownOperator(
            "no Lipschitz bound is known for a convolution with groups, dilation or padding other than zeros",
            "use another",
        )
    kernel = layer.weight.detach().double()
    common = shared(phases(kernel, (layer.stride[0], layer.stride[1])))
    return math.sqrt(float(torch.linalg.matrix_norm(common, 2))) * _UP


def _norm(layer: nn.Module) -> float:
    assert isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
    if layer.running_var is None:
        raise UnknownOperator("a batch norm without running statistics has no bound", "keep them")
    scale = (layer.running_var.double() + layer.eps).rsqrt()
    gain = 1.0 if layer.weight is None else layer.weight.detach().double().abs()
    return float((scale * gain).amax()) * _UP


def _pool(layer: nn.Module) -> float:
    """Windows apart from one another: no number counts twice."""
    assert isinstance(layer, nn.MaxPool2d)
    size, stride, dilation = (
        (value, value) if isinstance(value, int) else tuple(value)
        for value in (layer.kernel_size, layer.stride, layer.dilation)
    )
    if stride[0] < size[0] or stride[1] < size[1] or dilation != (1, 1):
        raise UnknownOperator("no Lipschitz bound is known for windows that overlap", "use a stride as wide")
    return 1.0


def _leaky(layer: nn.Module) -> float:
    assert isinstance(layer, nn.LeakyReLU)
    return max(1.0, abs(layer.negative_slope))


def _one(layer: nn.Module) -> float:
    return 1.0


_BOUNDS: dict[type[nn.Module], Bound] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _norm,
    nn.BatchNorm2d: _norm,
    nn.MaxPool2d: _pool,
    nn.LeakyReLU: _leaky,
    **dict.fromkeys((nn.Flatten, nn.Identity, nn.Dropout, nn.ReLU, nn.Tanh, nn.Sigmoid), _one),
}

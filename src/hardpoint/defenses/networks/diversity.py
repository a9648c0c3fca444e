"""What makes networks that are trained together differ in how they can be led astray."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from hardpoint.core.errors import ThreatError

_RIDGE = 1e-6


@runtime_checkable
class Diversity(Protocol):
    """A term that is added to the sum of the members' cross-entropies. Implementations are frozen dataclasses."""

    @property
    def needs_input_gradients(self) -> bool:
        """Whether it differentiates the scores with respect to the inputs."""
        ...

    def loss(self, scores: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """The term, a number.

        Args:
            scores: of the members, ``[m, b, K]``, with their graph.
            x: the batch ``[b, ...]`` they were computed from; requires a gradient where one is needed.
            y: right labels ``[b]``.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-ready: ``kind`` and the parameters."""
        ...


@dataclass(frozen=True)
class AdaptiveDiversity:
    """Members that rank the wrong classes differently (ADP; Pang, Xu, Du, Chen, Zhu, ICML 2019).

    ``-entropy · H(F) - volume · log det(M̃ᵀ M̃)``: H is the entropy of the mean probabilities, and the columns of M̃ are
    the members' probabilities without the right class, each of length 1. It shapes the answers, not the gradients, and
    its robustness did not hold against stronger attacks (Tramèr, Carlini, Brendel and Madry, NeurIPS 2020).

    Args:
        entropy: the weight of the first term, the paper's α.
        volume: of the second, its β. Only ``K - 1`` members of ``K`` classes can differ in all directions.

    Raises:
        ThreatError: for negative weights, or too many members.

    >>> apart = torch.tensor([[[9.0, 4.0, 0.0]], [[9.0, 0.0, 4.0]]])
    >>> alike = apart[:1].expand(2, -1, -1)
    >>> term, x, y = AdaptiveDiversity(), torch.zeros(1, 2), torch.tensor([0])
    >>> bool(term.loss(apart, x, y) < term.loss(alike, x, y))
    True
    """

    entropy: float = 2.0
    volume: float = 0.5

    def __post_init__(self) -> None:
        _weights(entropy=self.entropy, volume=self.volume)

    @property
    def needs_input_gradients(self) -> bool:
        return False

    def loss(self, scores: Tensor, x: Tensor, y: Tensor) -> Tensor:
        members, _, classes = scores.shape
        if members > classes - 1:
            raise ThreatError(
                f"{members} members of {classes} classes cannot differ in all directions",
                f"train at most {classes - 1}, or use another Diversity",
            )
        logs = scores.log_softmax(2)
        mean = logs.logsumexp(0) - math.log(members)
        entropy = -(mean.exp() * mean).sum(1).mean()
        others = logs.masked_fill(_is_right(y, classes), -torch.inf)
        # lengths are taken in logarithms: a confident member's other probabilities are too small to square
        columns = (others - 0.5 * (2 * others).logsumexp(2, keepdim=True)).exp().permute(1, 0, 2)
        gram = columns @ columns.mT + _RIDGE * torch.eye(members, dtype=scores.dtype, device=scores.device)
        volume: Tensor = torch.linalg.slogdet(gram).logabsdet.mean()
        return -self.entropy * entropy - self.volume * volume

    def describe(self) -> dict[str, Any]:
        return {"kind": "adaptive-diversity", "entropy": self.entropy, "volume": self.volume}


@dataclass(frozen=True)
class GradientAlignment:
    """Members whose loss rises in different directions (GAL; Kariyappa and Qureshi, 2019).

    ``weight · log Σ exp cos(∇ℓᵢ, ∇ℓⱼ)`` over the pairs of members, the mean over inputs: a smooth maximum of the
    cosines. Networks with smooth activations have more to say about their gradients than those with ReLU.

    Args:
        weight: the paper's λ.

    Raises:
        ThreatError: for a negative weight.

    >>> x = torch.ones(1, 2, requires_grad=True)
    >>> scores = torch.stack([torch.cat([0 * x[:, :1], x[:, i : i + 1]], 1) for i in (0, 1)])
    >>> round(float(GradientAlignment().loss(scores, x, torch.tensor([0])).detach()), 3)  # at right angles: log e⁰
    0.0
    """

    weight: float = 0.5

    def __post_init__(self) -> None:
        _weights(weight=self.weight)

    @property
    def needs_input_gradients(self) -> bool:
        return True

    def loss(self, scores: Tensor, x: Tensor, y: Tensor) -> Tensor:
        directions, _ = _input_gradients(scores, x, y)
        return self.weight * _cosines(directions).logsumexp(0).mean()

    def describe(self) -> dict[str, Any]:
        return {"kind": "gradient-alignment", "weight": self.weight}


@dataclass(frozen=True)
class TransferReduction:
    """Members that are smooth and whose loss rises at right angles (after TRS; Yang et al., NeurIPS 2021).

    ``similarity · |cos(∇ℓᵢ, ∇ℓⱼ)| + smoothness · (‖∇ℓᵢ‖ + ‖∇ℓⱼ‖)``, the mean over pairs and inputs: both
    together bound how much transfers. The paper takes the lengths where they are greatest near the input; here they are
    taken at the inputs that are trained on, which are attacked ones where ``train_members`` is told to.

    Args:
        similarity: the paper's λ_a.
        smoothness: its λ_b; by itself this is the penalty of double backpropagation (Drucker and Le Cun, 1992).

    Raises:
        ThreatError: for negative weights.

    >>> x = torch.ones(1, 2, requires_grad=True)
    >>> scores = torch.stack([torch.cat([0 * x[:, :1], s * x[:, :1]], 1) for s in (1, 3)])
    >>> round(float(TransferReduction(5.0, 0.0).loss(scores, x, torch.tensor([0])).detach()), 3)
    5.0
    """

    similarity: float = 1.0
    smoothness: float = 1.0

    def __post_init__(self) -> None:
        _weights(similarity=self.similarity, smoothness=self.smoothness)

    @property
    def needs_input_gradients(self) -> bool:
        return True

    def loss(self, scores: Tensor, x: Tensor, y: Tensor) -> Tensor:
        directions, lengths = _input_gradients(scores, x, y)
        return self.similarity * _cosines(directions).abs().mean() + self.smoothness * 2 * lengths.mean()

    def describe(self) -> dict[str, Any]:
        weights = {"similarity": self.similarity, "smoothness": self.smoothness}
        return {"kind": "transfer-reduction", **weights}


def _weights(**weights: float) -> None:
    for word, value in weights.items():
        if not (isinstance(value, int | float) and 0 <= value < math.inf):
            raise ThreatError(f"{word} is {value!r}", "give a finite number of 0 or more")


def _is_right(y: Tensor, classes: int) -> Tensor:
    """Bool ``[b, K]``."""
    return torch.arange(classes, device=y.device) == y.unsqueeze(1)


def _input_gradients(scores: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Of each member's cross-entropy: the direction ``[m, b, d]`` and the length ``[m, b]`` of its gradient.

    Cross-entropy is log(1 + exp v) with v = log Σ exp z_others - z_y. Its gradient is sigmoid(v) times that of v, which
    has the same direction and does not vanish where the member is certain.
    """
    others = scores.masked_fill(_is_right(y, scores.shape[2]), -torch.inf).logsumexp(2)
    value = others - scores[:, torch.arange(len(y), device=y.device), y]
    gradients = torch.stack(
        [torch.autograd.grad(own.sum(), x, create_graph=True)[0].flatten(1) for own in value]
    )
    lengths = (gradients.square().sum(2) + 1e-12).sqrt()
    return gradients / lengths.unsqueeze(2), torch.sigmoid(value) * lengths


def _cosines(directions: Tensor) -> Tensor:
    """``[pairs, b]``."""
    first, second = torch.triu_indices(len(directions), len(directions), 1, device=directions.device)
    return (directions[first] * directions[second]).sum(2)

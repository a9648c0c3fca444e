"""Using an attack alone: ``APGD(steps=100)(model, x, y, threat)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hardpoint.core.access import Access
from hardpoint.core.errors import DataError, ThreatError
from hardpoint.core.rng import Rng
from hardpoint.core.rows import chunks
from hardpoint.engine.search import Target, search
from hardpoint.engine.twin import choose_twin
from hardpoint.models.base import Model
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat

if TYPE_CHECKING:
    from hardpoint.engine.attack import Attack


@dataclass(frozen=True)
class Passes:
    """Mean passes per input: forward and backward, and queries for black-box attacks."""

    forward: float
    backward: float
    queries: float


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What one attack achieved, verified on the model.

    Attributes:
        adversarial: ``[n, ...]`` like ``x``: the example where the attack broke the input, else the original.
        broken: bool ``[n]``, misclassified after the attack; clean errors count as broken.
        distance: float64 ``[n]``, in the perturbation's unit; 0 for clean errors, infinite where unbroken.
        queries: int64 ``[n]``, how often the attack asked about each input.
        passes: mean passes per input.
    """

    adversarial: Tensor
    broken: Tensor
    distance: Tensor
    queries: Tensor
    passes: Passes


class StandaloneAttack:
    """Lets an attack be called like a function. Subclasses are frozen dataclasses of hyper-parameters."""

    def __call__(
        self,
        model: Any,
        x: Any,
        y: Any,
        threat: Threat | Perturbation,
        *,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> AttackResult:
        """Attack every input that the model gets right.

        Args:
            model: an ``nn.Module`` in evaluation mode, an adapter, or a fitted scikit-learn estimator.
            x: float ``[n, ...]`` in the model's input range, tensor or array.
            y: integer labels ``[n]``.
            threat: a threat, or a perturbation for the untargeted threat with it.
            seed: every random draw follows from it and the input's position.
            batch_size: inputs in flight; chosen from the input's size by default.

        Raises:
            HardpointError: when the model, the data or the threat cannot be used; the message says the cure.
        """
        from hardpoint.models.loading import load_model

        attack: Attack = self  # type: ignore[assignment]
        adapter = load_model(model)
        x, y = as_inputs(x, y)
        threat = usable_threat(threat, adapter, attack.needs)
        capacity = batch_size or default_capacity(x[0].numel())
        target = Target(adapter, choose_twin(adapter, x[:64]), capacity)
        right, ranked, predicted = _clean(adapter, threat, x, y, capacity)
        result = search(
            attack,
            target,
            target.searchable(),
            threat,
            x[right],
            y[right],
            right,
            ranked[right],
            rng=Rng(seed).fork(attack.name),
        )
        n = len(x)
        adversarial = x.clone()
        adversarial[right] = result.adversarial
        broken = threat.goal.reached(predicted, y)
        distance = torch.where(broken, 0.0, torch.inf).double()
        distance[right] = torch.where(result.broken, result.distance, torch.inf)
        broken[right] = result.broken
        queries = torch.zeros(n, dtype=torch.int64)
        queries[right] = result.forward
        black_box = attack.needs is not Access.GRADIENTS
        passes = Passes(
            float(result.forward.sum()) / n,
            float(result.backward.sum()) / n,
            float(result.forward.sum()) / n if black_box else 0.0,
        )
        return AttackResult(adversarial, broken, distance, queries, passes)


def _clean(model: Model, threat: Threat, x: Tensor, y: Tensor, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of the inputs to attack, classes ranked by score, clean predictions."""
    if threat.access < Access.SCORES:
        predicted = torch.cat([model.predict(part) for part in chunks(x, chunk)])
        ranked = torch.empty(len(x), 0, dtype=torch.int64)
    else:
        scores = torch.cat([model.scores(part) for part in chunks(x, chunk)])
        predicted, ranked = scores.argmax(1), ranked_classes(scores)
    return (~threat.goal.reached(predicted, y)).nonzero().squeeze(1), ranked, predicted


def ranked_classes(scores: Tensor, limit: int = 10) -> Tensor:
    """int64 ``[n, min(K, limit)]``: classes by falling score."""
    return scores.topk(min(limit, scores.shape[1]), dim=1).indices


def default_capacity(numel: int) -> int:
    """Inputs in flight for inputs of ``numel`` numbers: about two million numbers, 16 to 256 inputs.

    >>> default_capacity(784), default_capacity(3 * 224 * 224)
    (256, 16)
    """
    return max(16, min(256, 1 << max(0, (2**21 // max(1, numel)).bit_length() - 1)))


def usable_threat(threat: Threat | Perturbation, model: Model, needs: Access) -> Threat:
    """The threat, on the highest rung both it and the model offer where it was given bare.

    Raises:
        ThreatError: when the attack needs more than the threat or the model shows.
    """
    bare = not isinstance(threat, Threat)
    wanted = Threat.of(threat)
    if bare and model.access < wanted.access:
        wanted = wanted.with_access(model.access)
    if model.access < wanted.access:
        raise ThreatError(
            f"the threat shows {wanted.access.word}, the model offers {model.access.word} only",
            f'use access="{model.access.word}"',
        )
    if wanted.access < needs:
        raise ThreatError(
            f"the attack needs {needs.word}, the threat shows {wanted.access.word}",
            "use an attack that needs less, or a threat that shows more",
        )
    return wanted


def as_inputs(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Float inputs ``[n, ...]`` and int64 labels ``[n]`` from tensors or arrays.

    Raises:
        DataError: for other types or lengths that differ.
    """
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    if not x.is_floating_point():
        raise DataError(f"the inputs are {x.dtype}", "give floats in the model's input range, e.g. x / 255")
    if x.dim() < 2:
        raise DataError(f"the inputs have shape {tuple(x.shape)}", "give a batch [n, ...]")
    if y.is_floating_point() and not bool((y == y.round()).all()):
        row = int((y != y.round()).nonzero()[0])
        raise DataError(f"label {row} is {float(y[row])}", "give whole-number class labels")
    if y.dim() != 1 or len(x) != len(y):
        raise DataError(
            f"there are {len(x)} inputs and labels of shape {tuple(y.shape)}", "give one label per input"
        )
    return x, y.to(device=x.device, dtype=torch.int64)

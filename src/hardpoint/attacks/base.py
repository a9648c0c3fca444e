"""Using an attack alone: ``APGD(steps=100)(model, x, y, threat)``."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hardpoint.core.access import Access
from hardpoint.core.errors import ConfigError, ThreatError
from hardpoint.core.rng import Rng
from hardpoint.data import MemoryDataset, check_dataset
from hardpoint.data.labels import to_labels
from hardpoint.engine.clean import answers_vary, clean_answers, first_answer
from hardpoint.engine.guard import preserved_random_state, refuse_training_layers
from hardpoint.engine.search import Target, search
from hardpoint.engine.twin import choose_twin
from hardpoint.models.base import Differentiable, Model, refusal_of
from hardpoint.threats.goals import Untargeted
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

    def to(self, device: torch.device) -> AttackResult:
        """The same on another device."""
        return AttackResult(
            self.adversarial.to(device),
            self.broken.to(device),
            self.distance.to(device),
            self.queries.to(device),
            self.passes,
        )


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
            x: ``[n, ...]`` in the model's input range, tensor or array.
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
        threat = usable_threat(threat, adapter, attack.needs)
        with preserved_random_state(seed=seed % 2**63):
            result = attack_alone(attack, adapter, MemoryDataset(x, y), threat, seed, batch_size)
        return result.to(x.device) if isinstance(x, Tensor) else result.to(torch.device("cpu"))


def attack_alone(
    attack: Attack,
    model: Model,
    data: MemoryDataset,
    threat: Threat,
    seed: int,
    batch_size: int | None = None,
) -> AttackResult:
    """``attack`` on all of ``data``, without a cascade around it; ``model`` and ``threat`` are known to fit."""
    check_dataset(data, model.box)
    if isinstance(model, Differentiable):
        refuse_training_layers(model.module)
    everyone = torch.arange(len(data))
    home = getattr(model, "device", everyone.device)
    x, y = (part.to(home) for part in data.rows(everyone))
    everyone = everyone.to(home)
    capacity = checked_capacity(batch_size, x)
    first_answer(model.scores if threat.access >= Access.SCORES else model.predict, x[:1])
    is_random = answers_vary(model, threat.access, x[:64])
    predicted, ranked, _ = clean_answers(
        model, threat.access, x, everyone, chunk=capacity, is_random=is_random
    )
    _check_labels(model, threat, x, y)
    right = (predicted == y).nonzero().squeeze(1)
    target = Target(model, choose_twin(model, x[:64]), capacity, is_random)
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
    broken = predicted != y
    distance = torch.where(broken, 0.0, torch.inf).double()
    distance[right] = torch.where(result.broken, result.distance, torch.inf)
    broken[right] = result.broken
    forward, backward = float(result.forward.sum()) / len(x), float(result.backward.sum()) / len(x)
    return AttackResult(
        adversarial=x.index_copy(0, right, result.adversarial),
        broken=broken,
        distance=distance,
        queries=torch.zeros_like(y).index_copy(0, right, result.forward),
        passes=Passes(forward, backward, 0.0 if attack.needs is Access.GRADIENTS else forward),
    )


def _check_labels(model: Model, threat: Threat, x: Tensor, y: Tensor) -> None:
    """Refuse right labels and a target label that the model does not have."""
    if threat.access < Access.SCORES:
        return
    classes = refusal_of(model) or model.scores(x[:1]).shape[1]
    to_labels(y.cpu().numpy(), source="the data", num_classes=classes)
    check_target(threat, classes)


def check_target(threat: Threat, classes: int | None) -> None:
    """Raise ``ThreatError`` where the goal is a class the model does not have."""
    label = getattr(threat.goal, "label", None)
    if label is not None and classes is not None and not 0 <= int(label) < classes:
        raise ThreatError(
            f"the target label is {label}, the model has {classes} classes", "give a label it has"
        )


def checked_capacity(batch_size: int | None, x: Tensor) -> int:
    """Inputs in flight: ``batch_size``, or a default for inputs like ``x``; raises ``ConfigError`` below 1."""
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"the batch size is {batch_size}", "give 1 or more, or None")
    return batch_size if batch_size is not None else default_capacity(x[0].numel())


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
    if refusal_of(model) is not None and isinstance(wanted.goal, Untargeted):
        wanted = replace(wanted, goal=Untargeted(refusal=refusal_of(model)))
    if bare and model.access < wanted.access:
        wanted = wanted.with_access(model.access)
    if model.access < wanted.access:
        raise ThreatError(
            f"the threat shows {wanted.access.word}, the model offers {model.access.word} only",
            f'use access="{model.access.word}"',
        )
    endless = math.isinf(wanted.perturbation.eps) and not model.box.is_bounded
    if endless and wanted.access > Access.LABELS and wanted.perturbation.describe()["kind"] != "FeatureEdits":
        raise ThreatError(
            "an infinite budget in an input range without ends allows anything",
            "give a finite eps, or declare the model's input_range",
        )
    if wanted.access < needs:
        raise ThreatError(
            f"the attack needs {needs.word}, the threat shows {wanted.access.word}",
            "use an attack that needs less, or a threat that shows more",
        )
    return wanted

"""How good a network in training is on the inputs held back; what can be sent to another process."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hardpoint.attacks.base import attack_alone
from hardpoint.core.rows import chunks
from hardpoint.data import MemoryDataset
from hardpoint.engine.attack import Attack
from hardpoint.harden.recipes import Proves
from hardpoint.models.torch import TorchModel
from hardpoint.threats.threat import Threat

_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class UnderAttack:
    """Clean accuracy, and the share that stands under each of a few short attacks.

    Attributes:
        model: how a network is read; its own module is not asked.
        x, y: the inputs held back.
        attacks: what is attacked under, and how; empty to measure clean accuracy alone.
        seed: of their draws.
    """

    model: TorchModel
    x: Tensor
    y: Tensor
    attacks: tuple[tuple[Threat, Attack], ...]
    seed: int

    def __call__(self, network: nn.Module) -> tuple[float, float | None]:
        shown = replace(self.model, module=network)
        clean = _right(shown, self.x, self.y)
        if not self.attacks:
            return float(clean.double().mean()), None
        standing = torch.ones(len(self.y), dtype=torch.bool)
        for threat, attack in self.attacks:
            left = standing.nonzero().squeeze(1)
            if len(left):
                found = attack_alone(
                    attack, shown, MemoryDataset(self.x[left], self.y[left]), threat, self.seed
                )
                standing[left] = ~found.broken.cpu()
        return float(clean.double().mean()), float(standing.double().mean())


@dataclass(frozen=True, eq=False)
class Proven:
    """Clean accuracy, and the share that ``recipe`` proves safe.

    Attributes:
        model: how a network is read; its own module is not asked.
        x, y: the inputs held back.
        threat: what is proven against.
        recipe: what proves.
    """

    model: TorchModel
    x: Tensor
    y: Tensor
    threat: Threat
    recipe: Proves

    def __call__(self, network: nn.Module) -> tuple[float, float | None]:
        shown = replace(self.model, module=network)
        clean = _right(shown, self.x, self.y)
        proven = self.recipe.proven(shown, self.x, self.y, self.threat) & clean
        return float(clean.double().mean()), float(proven.double().mean())


def _right(model: TorchModel, x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([model.predict(part) for part in chunks(x, _AT_ONCE)]) == y

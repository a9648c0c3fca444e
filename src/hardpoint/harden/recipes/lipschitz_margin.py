"""Learning wide margins with a network whose scores change slowly, so that they prove something."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from hardpoint.bounds import certified_radius, lipschitz_bound
from hardpoint.core.errors import ThreatError
from hardpoint.core.rng import Rng
from hardpoint.harden.learner import Batch, Learner, soft_cross_entropy
from hardpoint.harden.recipes._checks import positive
from hardpoint.harden.recipes.recipe import Attacked, Taught
from hardpoint.models.torch import TorchModel
from hardpoint.threats.l2 import L2
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat


@dataclass(frozen=True)
class LipschitzMargin:
    """Cross-entropy with the right class's score lowered by the margin that proves a radius (Prach and Lampert, ECCV
    2022, section 4.4; Tsuzuku, Sato and Sugiyama, NeurIPS 2018), for networks with a Lipschitz bound of 1 such as
    ``hardpoint.harden.layers.almost_orthogonal`` makes. Its epochs are told apart by what they prove under ``L2``.

    Args:
        reach: the radius to be proven, in radii of the budget.
        temperature: what scores are divided by; smaller asks less of inputs that have the margin.
    """

    reach: float = 2.0
    temperature: float = 0.25

    def __post_init__(self) -> None:
        positive(self.reach, "reach")
        positive(self.temperature, "temperature")

    @property
    def name(self) -> str:
        return "lipschitz"

    @property
    def gradients(self) -> int:
        return 0

    def prepared(self, module: nn.Module, rng: Rng, like: Tensor) -> nn.Module:
        lipschitz_bound(module)  # refuses networks that have none
        return module

    def proven(self, model: TorchModel, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        return certified_radius(model, x, y) >= _radius(threat.perturbation)

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        return Attacked(batch.x)

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        margin = math.sqrt(2) * learner.strength * _radius(learner.perturbation)
        scores = learner.scores(batch.x)
        lowered = scores - self.reach * margin * batch.targets
        loss = self.temperature * soft_cross_entropy(lowered / self.temperature, batch.targets).mean()
        return Taught(loss, (scores - margin * batch.targets).detach())


def _radius(perturbation: Perturbation) -> float:
    if not isinstance(perturbation, L2):
        raise ThreatError(
            f"a Lipschitz bound in L2 proves nothing against {perturbation.name}", "use it against hp.L2"
        )
    return perturbation.eps

"""How a model of tables fares against attacks that know it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardpoint.assess.assess import as_dataset
from hardpoint.assess.metrics import matthews
from hardpoint.attacks.base import attack_alone
from hardpoint.attacks.tabular import MOEVA, CoordinateAttack, caa
from hardpoint.core.errors import ModelError, ThreatError
from hardpoint.core.rows import chunks
from hardpoint.data import MemoryDataset
from hardpoint.engine.attack import Attack
from hardpoint.engine.guard import preserved_random_state
from hardpoint.evidence.assessment import Outcomes, Status
from hardpoint.evidence.rate import Rate
from hardpoint.models.sklearn import SklearnModel
from hardpoint.models.torch import TorchModel
from hardpoint.models.trees import read_trees
from hardpoint.threats.features import FeatureEdits
from hardpoint.threats.goals import Untargeted
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat


@dataclass(frozen=True, eq=False)
class Measured:
    """A model before or after hardening.

    Attributes:
        attacks: what it was attacked by, each on the rows that still stood.
        outcomes: one row per input; ``hardpoint.assess.by_group`` reads it.
        adversarial: ``[n, d]``, the verified row where an attack broke it, else the original.
    """

    attacks: tuple[str, ...]
    outcomes: Outcomes
    adversarial: Tensor

    @property
    def clean_accuracy(self) -> Rate:
        """Share of rows answered right as they are."""
        return Rate.of(int((self.outcomes.status != Status.CLEAN_ERROR).sum()), len(self.outcomes))

    @property
    def robust_accuracy(self) -> Rate:
        """Share of rows that no attack broke: an upper bound."""
        return Rate.of(int((~self.outcomes.broken).sum()), len(self.outcomes))

    @property
    def success(self) -> float:
        """The share of the rows answered right that an attack broke; NaN where none is answered right. Rows that
        nobody attacks (``evading``) count as answered right."""
        right = int((self.outcomes.status != Status.CLEAN_ERROR).sum())
        return int((self.outcomes.status == Status.BROKEN).sum()) / right if right else float("nan")

    @property
    def matthews(self) -> tuple[float, float]:
        """Matthews correlation before and under attack: near 0 for a model that always says the same."""
        rows = self.outcomes
        return matthews(rows.label, rows.clean_prediction), matthews(rows.label, rows.final_prediction)

    def __repr__(self) -> str:
        clean, robust = self.matthews
        return (
            f"<clean {self.clean_accuracy} (MCC {clean:.3f}), robust {self.robust_accuracy} "
            f"(MCC {robust:.3f})>"
        )


def measure(
    estimator: Any,
    x: Any,
    y: Any = None,
    *,
    threat: Threat | Perturbation,
    attacks: tuple[Attack, ...] | None = None,
    evading: int | None = None,
    seed: int = 0,
) -> Measured:
    """Attack a fitted classifier of rows of a table by what is strongest against it.

    For models whose trees can be read that is a search which knows them, and then an evolutionary one on the rows that
    still stand; ``hp.assess`` knows scores alone. An estimator that wraps another names that one in an attribute
    ``searchable``.

    Args:
        estimator: fitted, or a ``SklearnModel``.
        x: rows ``[n, d]``, or a ``Dataset``.
        y: labels ``[n]``, whole numbers from 0.
        threat: ``hp.FeatureEdits(schema, eps)``, untargeted.
        attacks: others instead.
        evading: the class whose rows an attacker changes; None where all are.
        seed: of every draw.

    Raises:
        HardpointError: when estimator, rows or threat cannot be used.
    """
    model = estimator if isinstance(estimator, SklearnModel) else SklearnModel(estimator)
    data = as_dataset(x, y)
    rows, labels = data.rows(torch.arange(len(data)))
    chosen = strongest_attacks(model) if attacks is None else attacks
    return measured(model, rows, labels, table_edits(threat), chosen, seed, evading)


def table_edits(threat: Threat | Perturbation) -> FeatureEdits:
    """The edits that an untargeted threat to a table allows; raises ``ThreatError`` for any other threat."""
    wanted = Threat.of(threat)
    if not isinstance(wanted.perturbation, FeatureEdits):
        raise ThreatError(
            f"{wanted.perturbation.name} is no threat to rows of a table", "use hp.FeatureEdits(schema, eps)"
        )
    if not isinstance(wanted.goal, Untargeted):
        raise ThreatError("the threat has a target", "use the untargeted threat, which includes it")
    if wanted.perturbation.eps == 0:
        raise ThreatError("eps is 0", "give a budget above 0")
    return wanted.perturbation


def strongest_attacks(model: SklearnModel, *, quick: bool = False) -> tuple[Attack, ...]:
    """The attacks for a model: over its trees where these can be read, then the constrained adaptive attack."""
    try:
        trees = (CoordinateAttack(read_trees(getattr(model.estimator, "searchable", model.estimator))),)
    except ModelError:
        return caa(model.access, queries=300 if quick else 1000)
    return trees if quick else (*trees, MOEVA(generations=10))


def measured(
    model: SklearnModel | TorchModel,
    x: Tensor,
    y: Tensor,
    edits: FeatureEdits,
    attacks: tuple[Attack, ...],
    seed: int = 0,
    evading: int | None = None,
) -> Measured:
    """Every row attacked by each of ``attacks`` until one breaks it, verified on the model."""
    threat = Threat(edits, access=model.access)
    clean = torch.cat([model.predict(part) for part in chunks(x, 4096)])
    n = len(x)
    adversarial, final = x.clone(), clean.clone()
    stage, distance = (
        torch.full((n,), -1, dtype=torch.int16),
        torch.full((n,), torch.nan, dtype=torch.float64),
    )
    asked = torch.zeros(n, dtype=torch.int64)
    at_risk = clean == y if evading is None else (clean == y) & (y == evading)
    standing = at_risk.nonzero().squeeze(1)
    for number, attack in enumerate(attacks):
        if len(standing) == 0:
            break
        with preserved_random_state(seed=seed):
            found = attack_alone(attack, model, MemoryDataset(x[standing], y[standing]), threat, seed)
        asked[standing] += found.queries
        fallen = standing[found.broken]
        adversarial[fallen] = found.adversarial[found.broken]
        distance[fallen], stage[fallen] = found.distance[found.broken], number
        standing = standing[~found.broken]
    fallen = stage >= 0
    if bool(fallen.any()):
        final[fallen] = model.predict(adversarial[fallen])
    status = np.where(clean != y, Status.CLEAN_ERROR, np.where(fallen, Status.BROKEN, Status.STANDING))
    outcomes = Outcomes(
        index=np.arange(n),
        label=y.numpy(),
        clean_prediction=clean.numpy(),
        final_prediction=final.numpy(),
        status=status.astype(np.uint8),
        stage=stage.numpy(),
        distance=distance.numpy(),
        forward=asked.numpy(),
        backward=np.zeros(n, dtype=np.int64),
        queries=asked.numpy(),
    )
    return Measured(tuple(attack.name for attack in attacks), outcomes, adversarial)

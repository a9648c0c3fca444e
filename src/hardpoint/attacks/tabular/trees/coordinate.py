"""Coordinate search over the thresholds of trees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.tabular.regions import table_region
from hardpoint.attacks.tabular.trees.beam import Round, first_round, next_round
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.engine.attack import Reply, Task
from hardpoint.models.trees import TreeEnsemble


@dataclass(frozen=True)
class CoordinateAttack(StandaloneAttack):
    """Beam search by moves of one coordinate across thresholds, for models of trees.

    Only crossing a threshold changes what trees answer. Each round reads from the trees what *every* move of one
    coordinate would do to each point of the beam, exactly and at once (``Neighbours``), repairs the most promising
    moves into valid rows, asks the model about those, and keeps the best as the next beam. Half of the moves are
    those that gain the most, half those that gain the most for what they use of the budget. The beam keeps points
    that are worse than their parents, so pairs of moves that only help together are found too.

    Args:
        trees: the model's trees, from ``read_trees``. Whoever attacks knows the model; queries count what is asked
            of it all the same.
        rounds: moves in a row.
        beam: points kept per input.
        candidates: moves repaired and asked about per round.

    Raises:
        ThreatError: for settings below 1; and, on use, for a perturbation other than ``FeatureEdits``.

    After the coordinate descent by symbolic prediction of Kantchelian, Tygar and Joseph, "Evasion and hardening of
    tree ensemble classifiers" (ICML 2016), section 4; the beam, the budget and the repairs are added here.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from hardpoint.models.trees import read_trees
    >>> from hardpoint.threats.features import Feature, FeatureEdits, Schema
    >>> tree = DecisionTreeClassifier().fit([[0.0, 0.0], [1.0, 0.0]], [0, 1])
    >>> schema = Schema([Feature("a"), Feature("b")])
    >>> attack = CoordinateAttack(read_trees(tree))
    >>> attack(tree, torch.tensor([[0.2, 0.7]]), torch.tensor([0]), FeatureEdits(schema, 0.4)).adversarial
    tensor([[0.5000, 0.7000]])
    """

    trees: TreeEnsemble
    rounds: int = 20
    beam: int = 4
    candidates: int = 32
    needs: ClassVar[Access] = Access.SCORES

    def __post_init__(self) -> None:
        if min(self.rounds, self.beam, self.candidates) < 1:
            raise ThreatError(
                f"CoordinateAttack(rounds={self.rounds}, beam={self.beam}, candidates={self.candidates})",
                "give whole numbers of 1 or more",
            )

    @property
    def turns(self) -> int:
        return self.rounds

    @property
    def name(self) -> str:
        return f"Coordinate {self.rounds}×{self.candidates}"

    def start(self, task: Task) -> Round:
        eps = table_region(task.region, "CoordinateAttack").eps
        budget = torch.full((len(task),), eps, dtype=torch.float64)
        return first_round(self.trees, task, budget, self.candidates)

    def step(self, state: Round, reply: Reply, task: Task) -> Round:
        return next_round(self.trees, state, reply, task, self.beam)

"""Whether any row that an attacker can make changes what an ensemble of trees answers: proof, example, or neither."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardpoint.bounds.trees.asked import as_compared, asked, inside, row_of
from hardpoint.bounds.trees.cliques import Numbers
from hardpoint.bounds.trees.reach import Reach, Sides, reach, sides_of
from hardpoint.bounds.trees.rounding import Allowance, allowances
from hardpoint.bounds.trees.rows import Allowed, AllowedRows, allowed_rows
from hardpoint.bounds.trees.search import Ending, search
from hardpoint.core.errors import ConfigError, ThreatError
from hardpoint.models.base import Model
from hardpoint.models.trees import TreeEnsemble
from hardpoint.threats.goals import Untargeted
from hardpoint.threats.threat import Threat


class TreeStatus(Enum):
    """What is known of one row."""

    ROBUST = "robust"
    VULNERABLE = "vulnerable"
    UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class TreeCertificates:
    """What is known of each row.

    Attributes:
        status: robust: proven for every row that the attacker can make. Vulnerable: ``witness`` is one that the model
            itself answers wrongly. Unknown: time ran out, or what was found is too close for rounding, or lies in the
            box and breaks a constraint that the box leaves out.
        lower: float64 ``[n]``: by how much the score of the right class stays ahead, at least; minus infinity
            where that was not asked.
        witness: ``[n, d]``: where vulnerable; else the original.
    """

    status: tuple[TreeStatus, ...]
    lower: Tensor
    witness: Tensor

    @property
    def certified(self) -> Tensor:
        """Bool ``[n]``: the rows that are proven."""
        return torch.tensor([status is TreeStatus.ROBUST for status in self.status], dtype=torch.bool)

    @property
    def broken(self) -> Tensor:
        """Bool ``[n]``: the rows with a witness."""
        return torch.tensor([status is TreeStatus.VULNERABLE for status in self.status], dtype=torch.bool)


def verify_trees(
    model: Any, x: Tensor, y: Tensor, threat: Allowed, *, seconds_per_input: float = 10.0
) -> TreeCertificates:
    """Decide for each row whether any row that the attacker can make is answered other than ``y``.

    Leaves of different trees are joined to cliques that one row reaches together, as in ``tree_margins``, and what can
    be in no row of a wrong answer is dropped on the way; what is left in the end are the wrong answers, each tried
    on the model itself. A depth-first search goes on where the groups outgrow memory. Complete but for time, ties
    that rounding decides, and constraints of ``FeatureEdits`` that its box leaves out.

    No solver is asked, whose tolerances would have to be trusted: comparisons are exact in the ensemble's own
    precision, and sums are allowed more than all that rounding can change.

    Args:
        model: whatever ``read_trees`` reads.
        x: rows ``[n, d]`` of finite values.
        y: int64 ``[n]``, positions in the model's classes.
        threat: untargeted; ``hp.Linf``, ``FeatureEdits``, or a ``RowBox``.
        seconds_per_input: when to stop.

    Raises:
        ModelError: for a model that is no ensemble of trees.
        DataError: for rows or labels that are not for it.
        ThreatError: for other perturbations and goals.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from hardpoint.threats.linf import Linf
    >>> tree = DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1])
    >>> found = verify_trees(tree, torch.tensor([[0.1], [0.3]]), torch.tensor([0, 0]), Linf(0.3))
    >>> [status.value for status in found.status], bool(found.witness[1] > 0.5)
    (['robust', 'vulnerable'], True)
    """
    if not 0 < seconds_per_input < math.inf:
        raise ConfigError(f"seconds_per_input is {seconds_per_input}", "give more than 0")
    if isinstance(threat, Threat) and threat.goal != Untargeted():
        raise ThreatError("trees are proven against any wrong answer", "use the goal Untargeted()")
    trees, judge = asked(model, x, y)
    allowed, sides, slack = allowed_rows(threat, x, trees.box), sides_of(trees), allowances(trees)
    lower = torch.full((len(x),), -torch.inf, dtype=torch.float64)
    witness, statuses = x.clone(), []
    clean = judge.predict(x) == y if len(x) else torch.zeros(0, dtype=torch.bool)
    for row in range(len(x)):
        if not bool(clean[row]):
            statuses.append(TreeStatus.VULNERABLE)
            continue
        one = _Row(trees, judge, sides, slack, allowed, x, int(y[row]), row)
        status, lower[row] = one.decided(time.monotonic() + seconds_per_input)
        if status is TreeStatus.VULNERABLE:
            witness[row] = one.found[0][0]
        statuses.append(status)
    return TreeCertificates(tuple(statuses), lower, witness)


class _Row:
    """The search around one row."""

    def __init__(
        self,
        trees: TreeEnsemble,
        judge: Model,
        sides: Sides,
        slack: Allowance,
        allowed: AllowedRows,
        x: Tensor,
        label: int,
        row: int,
    ) -> None:
        self.trees, self.judge, self.sides, self.allowed = trees, judge, sides, allowed
        self.slack, self.label, self.row = slack, label, row
        self.own: Numbers = x[row].double().numpy()
        self.low: Numbers = allowed.low[row].numpy()
        self.high: Numbers = allowed.high[row].numpy()
        self.found: list[Tensor] = []
        self.reached: Reach = reach(
            sides, as_compared(trees, allowed.low[row]), as_compared(trees, allowed.high[row])
        )

    def decided(self, until: float) -> tuple[TreeStatus, float]:
        """The status, and the least margin."""
        lower, status = math.inf, TreeStatus.ROBUST
        base = self.trees.logits(self.trees.base)
        for rival in range(self.trees.classes):
            if rival == self.label:
                continue
            slack = self.slack(self.label, rival)
            values = self.sides.logits[:, self.label] - self.sides.logits[:, rival]
            groups, constant = self.reached.groups(values)
            constant += float(base[self.label] - base[rival])
            if not groups:
                ending, least = (Ending.NONE if constant > slack else Ending.OPEN), 0.0
            else:
                outcome = search(groups, slack - constant, self._accepted, until)
                ending, least = outcome.ending, outcome.lower
            lower = min(lower, least + constant - slack)
            if ending is Ending.FOUND:
                all_asked = all(other == self.label for other in range(rival + 1, self.trees.classes))
                return TreeStatus.VULNERABLE, lower if all_asked else -math.inf
            if ending is Ending.OPEN:
                status = TreeStatus.UNKNOWN
        return status, lower

    def _accepted(self, low: Numbers, high: Numbers) -> bool:
        """Whether a row of these leaves is one that the attacker can make and that the model answers wrongly."""
        values, columns = self.own.copy(), self.reached.columns
        own = as_compared(self.trees, torch.from_numpy(self.own[columns]))
        point = inside(low, high, own)
        # what is compared lies in the leaves; what is stored has to lie in the box
        moved = inside(self.low[columns], self.high[columns], point)
        values[columns] = np.where(point == own, values[columns], moved)
        made = self.allowed.made(self.row, row_of(values))
        if made is None or int(self.judge.predict(made)[0]) == self.label:
            return False
        self.found.append(made)
        return True

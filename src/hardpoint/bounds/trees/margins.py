"""Lower bounds of margins by cliques of leaves, level by level."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hardpoint.bounds.trees.asked import as_compared, asked
from hardpoint.bounds.trees.cliques import levelled, smallest
from hardpoint.bounds.trees.reach import reach, sides_of
from hardpoint.bounds.trees.rounding import allowances
from hardpoint.bounds.trees.rows import Allowed, allowed_rows
from hardpoint.core.errors import ConfigError

_MERGE = 2**22  # numbers that one merging may look at


def tree_margins(
    model: Any, x: Tensor, y: Tensor, threat: Allowed, *, size: int = 2, levels: int = 2
) -> Tensor:
    """float64 ``[n]``: by how much the score of class ``y`` stays ahead of every other, at least, on all rows that the
    attacker can make; above 0 is a proof.

    With no level each tree answers its smallest reachable leaf, as interval bounds do. Each level merges ``size``
    groups of trees, whose leaves then have to be reachable together, which is exact once one group is left (Chen,
    Zhang, Si, Li, Boning and Hsieh, "Robustness verification of tree-based models", NeurIPS 2019, algorithm 2).
    Groups that would outgrow memory stay apart. Scores are sums of leaf values (log odds, or shares for forests).
    More than all rounding, of the library's sums too, is taken off.

    Args:
        model: whatever ``read_trees`` reads.
        x: rows ``[n, d]`` of finite values.
        y: int64 ``[n]``, positions in the model's classes.
        threat: ``hp.Linf``, ``FeatureEdits``, whose box is taken, or a ``RowBox``.
        size: how many groups a level merges, 2 or more.
        levels: how many there are, 0 or more.

    Raises:
        ModelError: for a model that is no ensemble of trees.
        DataError: for rows or labels that are not for it.
        ThreatError: for other perturbations.
        ConfigError: for a size below 2 or fewer than no levels.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from hardpoint.threats.linf import Linf
    >>> tree = DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1])
    >>> (tree_margins(tree, torch.tensor([[0.1], [0.3]]), torch.tensor([0, 0]), Linf(0.3)) > 0).tolist()
    [True, False]
    """
    if size < 2 or levels < 0:
        raise ConfigError(f"size is {size} and levels {levels}", "give at least 2 and at least 0")
    trees, _ = asked(model, x, y)
    allowed, sides, slack = allowed_rows(threat, x, trees.box), sides_of(trees), allowances(trees)
    lows, highs = as_compared(trees, allowed.low), as_compared(trees, allowed.high)
    base = trees.logits(trees.base)
    found = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for row, label in enumerate(y.tolist()):
        reached = reach(sides, lows[row], highs[row])
        for rival in range(trees.classes):
            if rival == label:
                continue
            groups, constant = reached.groups(sides.logits[:, label] - sides.logits[:, rival])
            for _ in range(levels):
                groups = levelled(groups, size, _MERGE)
            low = smallest(groups) + constant + float(base[label] - base[rival]) - slack(label, rival)
            found[row] = min(float(found[row]), low)
    return found

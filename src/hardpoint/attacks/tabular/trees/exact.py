"""The exact smallest edit that changes what trees answer, as a mixed-integer linear program."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardpoint.attacks.tabular.trees.encoding import Encoded, encode
from hardpoint.attacks.tabular.trees.leaf_tuple import LeafTupleAttack
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import take_rows
from hardpoint.models.base import Model
from hardpoint.models.trees import TreeEnsemble, read_trees
from hardpoint.threats.features import FeatureEdits, FeatureEditsRegion, Norm
from hardpoint.threats.goals import Goal, Targeted, Untargeted
from hardpoint.threats.threat import Threat

_SOLVER_SLACK = 1e-6  # tolerances of the solver, in distance
_GAP = 1e-5
_WALK = 30  # rounds of the walk that goes first; more would cost more than they save


@dataclass(frozen=True, eq=False)
class ExactDistances:
    """What is known of the smallest edit of each row.

    Attributes:
        lower: float64 ``[n]``: no allowed row that reaches the goal is nearer (up to the solver's tolerances);
            the budget where nothing inside it can.
        distance: float64 ``[n]``: of the witness; infinite where none was found, 0 for clean errors.
        witness: ``[n, d]``: the nearest row found, confirmed by the model itself; else the original.
        solved: bool ``[n]``: nothing is left open: the witness is the nearest, or nothing inside the budget is.
    """

    lower: Tensor
    distance: Tensor
    witness: Tensor
    solved: Tensor


def exact_distances(
    model: Any,
    x: Tensor,
    y: Tensor,
    edits: FeatureEdits,
    *,
    goal: Goal | None = None,
    seconds_per_input: float = 30.0,
) -> ExactDistances:
    """The smallest edit of each row that makes a model of trees answer wrongly, under all constraints.

    One variable of 0 or 1 per threshold that a row can cross, one per leaf, the distance as the cost; kinds,
    bounds, mutability, one-hot groups and linear relations (with "and", "or", "implies") are rows. Relations that
    are not linear are checked on the witness alone: then the bound is still sound but may not be reached. A walk
    (``LeafTupleAttack``) goes first; the program only looks for what is nearer.

    Args:
        model: whatever ``read_trees`` reads.
        x: ``[n, d]`` rows.
        y: int64 ``[n]`` right labels.
        edits: norm linf, l1 or l0, whose distances are linear; any budget.
        goal: untargeted by default.
        seconds_per_input: when to stop; the bound and the nearest row until then are returned.

    Raises:
        ThreatError: for the norm l2, whose distance is not linear.
        ModelError: for a model that is no ensemble of trees.

    Kantchelian, Tygar and Joseph, "Evasion and hardening of tree ensemble classifiers" (ICML 2016), section 4.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from hardpoint.threats.features import Feature, Schema
    >>> tree = DecisionTreeClassifier().fit([[0.0, 0.0], [1.0, 0.0]], [0, 1])
    >>> schema = Schema([Feature("a"), Feature("b")], ["b >= a + 0.1"])
    >>> found = exact_distances(
    ...     tree, torch.tensor([[0.2, 0.4]]), torch.tensor([0]), FeatureEdits(schema, norm="l1")
    ... )
    >>> [round(float(value), 4) for value in (found.lower, found.distance)], found.solved.tolist()
    ([0.5, 0.5], [True])
    """
    from hardpoint.models.loading import load_model

    if edits.norm is Norm.L2:
        raise ThreatError("the l2 distance is not linear", "use linf, l1 or l0, or LeafTupleAttack for l2")
    if seconds_per_input <= 0:
        raise ThreatError(f"seconds_per_input is {seconds_per_input}", "give more than 0")
    trees, judge, goal = read_trees(model), load_model(model), goal if goal is not None else Untargeted()
    region = edits.around(x, judge.box)
    threat = Threat(edits, goal, access=Access.SCORES)
    walked = LeafTupleAttack(trees, rounds=_WALK, depth=6)(judge, x, y, threat)
    lower, distance = torch.zeros(len(x), dtype=torch.float64), walked.distance.clone()
    witness, solved = walked.adversarial.clone(), torch.zeros(len(x), dtype=torch.bool)
    for i in range(len(x)):
        here = take_rows(region, torch.tensor([i]))
        if float(distance[i]) == 0.0:
            solved[i] = True
            continue
        if not bool(here.valid) or not bool(goal.attackable(y[i : i + 1])):
            lower[i], solved[i] = math.inf, True
            continue
        found = _one(trees, judge, here, int(y[i]), goal, float(distance[i]), seconds_per_input)
        lower[i] = found.lower
        if found.distance < float(distance[i]):
            distance[i], witness[i] = found.distance, found.row
        nothing = lower[i] >= edits.eps and torch.isinf(distance[i])
        lower[i] = torch.minimum(lower[i], distance[i])
        solved[i] = nothing | (distance[i] - lower[i] <= _GAP)
    return ExactDistances(lower, distance, witness, solved)


@dataclass(frozen=True)
class _Found:
    lower: float
    distance: float
    row: Tensor


def _one(
    trees: TreeEnsemble,
    judge: Model,
    region: FeatureEditsRegion,
    label: int,
    goal: Goal,
    known: float,
    seconds: float,
) -> _Found:
    """The nearest row for one original: over all classes it can be taken for, the nearest."""
    classes = [goal.label] if isinstance(goal, Targeted) else [c for c in range(trees.classes) if c != label]
    until = time.monotonic() + seconds
    best = _Found(math.inf, known, region.x[0])
    for number, wanted in enumerate(classes):
        rivals = [c for c in range(trees.classes) if c != wanted] if isinstance(goal, Targeted) else [label]
        lower = math.inf
        # First everything that might pass, for the bound; then, if rounding spoils that witness, a bit inside.
        for inside in (0.0, 1e-6):
            left = (until - time.monotonic()) / (len(classes) - number)
            program = encode(trees, region, wanted, rivals, min(best.distance, region.eps), inside)
            answer = program.program.solve(max(left, 0.1))
            if inside == 0.0:
                lower = _bound(answer.bound, region, best.distance)
            row = (
                None
                if answer.values is None
                else _witness(program, answer.values, judge, region, label, goal)
            )
            if row is not None and float(region.distance(row)) < best.distance:
                best = _Found(best.lower, float(region.distance(row)), row[0])
            if answer.values is None or row is not None:
                break
        best = _Found(min(best.lower, lower), best.distance, best.row)
    return best


def _bound(bound: float, region: FeatureEditsRegion, known: float) -> float:
    """A distance below which there is nothing: the solver's bound less its tolerance."""
    if math.isinf(bound):
        return 0.0 if bound < 0 else min(known, region.eps)
    if region.norm is Norm.L0:
        return float(math.ceil(bound - 1e-4))
    return max(0.0, bound - _SOLVER_SLACK)


def _witness(
    program: Encoded, values: Any, judge: Model, region: FeatureEditsRegion, label: int, goal: Goal
) -> Tensor | None:
    """``[1, d]``: the row a solution stands for, if it is allowed and the model confirms it."""
    row = program.row(values, region)
    y = torch.tensor([label])
    stands = bool(region.contains(row)) and bool(goal.reached(judge.predict(row), y))
    return row if stands else None

"""Leaves as boxes: between which values of which features a row ends in each leaf."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class _Tree(Protocol):
    """What is read of a tree; see ``hardpoint.models.trees.ensemble.Tree``."""

    @property
    def feature(self) -> Tensor: ...
    @property
    def threshold(self) -> Tensor: ...
    @property
    def left(self) -> Tensor: ...
    @property
    def right(self) -> Tensor: ...
    @property
    def value(self) -> Tensor: ...


@dataclass(frozen=True)
class LeafTable:
    """All leaves of an ensemble, and one *side* per leaf and feature that is asked about on the way to it.

    A row ends in a leaf where for each of its sides ``low < x[feature] <= high``, values rounded as the ensemble
    compares them. Leaves that no value reaches are left out.

    Attributes:
        tree: int64 ``[leaves]``, the tree a leaf belongs to.
        value: float64 ``[leaves, outputs]``, what it adds to the sums.
        leaf: int64 ``[sides]``, the leaf a side belongs to; rising.
        feature: int64 ``[sides]``.
        low, high: float64 ``[sides]``; infinite at open ends.
    """

    tree: Tensor
    value: Tensor
    leaf: Tensor
    feature: Tensor
    low: Tensor
    high: Tensor


def leaf_table(trees: Sequence[_Tree]) -> LeafTable:
    """The leaves of ``trees``, tree by tree."""
    owners: list[int] = []
    values: list[list[float]] = []
    sides: list[tuple[int, int, float, float]] = []
    for number, tree in enumerate(trees):
        feature, threshold, left, right, value = (
            part.tolist() for part in (tree.feature, tree.threshold, tree.left, tree.right, tree.value)
        )
        todo: list[tuple[int, dict[int, tuple[float, float]]]] = [(0, {})]
        while todo:
            node, box = todo.pop()
            column = feature[node]
            if column < 0:
                sides += [(len(owners), f, low, high) for f, (low, high) in box.items()]
                owners.append(number)
                values.append(value[node])
                continue
            low, high = box.get(column, (-torch.inf, torch.inf))
            cut = threshold[node]
            if cut < high:
                todo.append((right[node], box | {column: (max(low, cut), high)}))
            if cut > low:
                todo.append((left[node], box | {column: (low, min(high, cut))}))
    columns = list(zip(*sides, strict=True)) or [(), (), (), ()]
    return LeafTable(
        tree=torch.tensor(owners),
        value=torch.tensor(values, dtype=torch.float64),
        leaf=torch.tensor(columns[0], dtype=torch.int64),
        feature=torch.tensor(columns[1], dtype=torch.int64),
        low=torch.tensor(columns[2], dtype=torch.float64),
        high=torch.tensor(columns[3], dtype=torch.float64),
    )

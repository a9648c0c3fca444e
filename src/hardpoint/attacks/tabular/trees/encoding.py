"""One row under attack as a mixed-integer linear program."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hardpoint.attacks.tabular.regions import scale_of
from hardpoint.attacks.tabular.trees.grid import make_grid
from hardpoint.attacks.tabular.trees.linear import Columns, demand
from hardpoint.attacks.tabular.trees.program import Affine, Program
from hardpoint.models.trees import TreeEnsemble
from hardpoint.threats.features import FeatureEditsRegion, Kind, Norm

_LARGEST_COUNT = 1e5  # whole numbers beyond are steps too small to tell from reals
_ROUNDING = 1e-9  # of the sums of leaf values, relative


@dataclass(frozen=True)
class Column:
    """A feature that can move.

    Attributes:
        own: its original value.
        unit: the feature is ``own + unit · variable``.
        variable: its number in the program.
        cells: ``(low, high)`` of each cell in reach that holds a value, rising.
        place: for each cell of the grid its place among these, or that of the next one; one more at the end.
        cuts: for each cell but the last, the variable that is 1 where the feature lies in it or before.
    """

    own: float
    unit: float
    variable: int
    cells: tuple[tuple[float, float], ...]
    place: dict[int, int]
    cuts: tuple[int, ...]


@dataclass(frozen=True)
class Encoded:
    """The program of one row, and how to read its solutions."""

    program: Program
    columns: dict[int, Column]
    tied: frozenset[int]  # columns that relations or one-hot groups hold to others

    def row(self, values: Any, region: FeatureEditsRegion) -> Tensor:
        """``[1, d]``: the row a solution stands for, every feature inside the cell the solution puts it in."""
        row = region.x.double().clone()
        for index, column in self.columns.items():
            place = sum(1 for cut in column.cuts if values[cut] < 0.5)
            low, high = column.cells[place]
            value = column.own
            if index in self.tied:
                value = column.own + column.unit * float(values[column.variable])
                value = round(value) if region.schema.features[index].whole else value
            row[0, index] = min(max(value, low), high)
        return row.to(region.x.dtype)


def encode(
    trees: TreeEnsemble,
    region: FeatureEditsRegion,
    wanted: int,
    rivals: list[int],
    most: float,
    inside: float,
) -> Encoded:
    """The program for one row (``region`` has one) whose score of class ``wanted`` is to reach those of ``rivals``.

    Args:
        most: no distance beyond this is of interest.
        inside: how far inside relations and decision to stay, relative to their size; 0 for a sound bound.
    """
    program = Program()
    columns = _columns(program, trees, region, most)
    schema = region.schema
    value = {name: Affine({}, float(v)) for name, v in zip(schema.names, region.x[0].double(), strict=True)}
    for index, column in columns.items():
        value[schema.names[index]] = Affine({column.variable: column.unit}, column.own)
    named = Columns(value, frozenset(f.name for f in schema.features if f.whole))
    for relation in schema.relations:
        demand(program, relation.root, named, inside)
    for group in schema.groups.values():
        total = Affine({}, -1.0)
        for index in group:
            total = total.plus(named.value[schema.names[index]])
        program.zero(total)
    _leaves(program, trees, region, columns, wanted, rivals, inside)
    _distance(program, region, columns, most)
    return Encoded(program, columns, frozenset(_tied(region)) & columns.keys())


def _tied(region: FeatureEditsRegion) -> set[int]:
    tied = {int(index) for index in (region.schema.uses.sum(0) > 0).nonzero()}
    return tied | {index for group in region.schema.groups.values() for index in group}


def _columns(
    program: Program, trees: TreeEnsemble, region: FeatureEditsRegion, most: float
) -> dict[int, Column]:
    """Variables for the features that can move: their values, and which cell each lies in."""
    grid = make_grid(trees, region.schema, region.x.dtype)
    own, scale, tied = region.x[0].double(), scale_of(region)[0], _tied(region)
    hot = region.schema.mask(Kind.ONE_HOT)
    whole = region.schema.mask(Kind.INTEGER, Kind.BINARY, Kind.ONE_HOT)
    # a little more than the budget, as it was measured with rounding
    reach = most * (1 + 1e-9) / scale
    if region.norm is Norm.L0:
        reach = torch.full_like(reach, torch.inf)
    reach = torch.where(hot, torch.inf, reach)
    lows = torch.maximum(region.low[0], own - reach).tolist()
    highs = torch.minimum(region.high[0], own + reach).tolist()
    columns = {}
    for index in (region.low[0] < region.high[0]).nonzero().squeeze(1).tolist():
        mine = (grid.feature == index).nonzero().squeeze(1).tolist()
        x0, cells, place = float(own[index]), list[tuple[float, float]](), dict[int, int]()
        levels = torch.tensor(region.schema.features[index].levels).to(region.x.dtype).tolist()
        for cell in mine:
            place[cell] = len(cells)
            begin, end = max(float(grid.low[cell]), lows[index]), min(float(grid.high[cell]), highs[index])
            if bool(whole[index]):
                begin, end = math.ceil(begin), math.floor(end)
            if levels:
                cells += [(level, level) for level in levels if begin <= level <= end]
            elif begin <= end:
                cells.append((begin, end))
        place[mine[-1] + 1] = len(cells)
        if len(cells) < 2 and index not in tied:
            continue
        stepped = bool(whole[index]) and index in tied and cells[-1][1] - cells[0][0] <= _LARGEST_COUNT
        unit = 1.0 if stepped else 1.0 / float(scale[index])
        variable = program.variable((cells[0][0] - x0) / unit, (cells[-1][1] - x0) / unit, whole=stepped)
        cuts = tuple(program.variable(0, 1, whole=True) for _ in cells[1:])
        for before, after in pairwise(cuts):
            program.at_most_zero(Affine({before: 1.0, after: -1.0}))
        # between the ends of the cell: own + unit v <= high of it, and >= low of it
        upper = Affine({variable: unit}, x0 - cells[-1][1])
        lower = Affine({variable: -unit}, cells[0][0] - x0)
        for k, cut in enumerate(cuts):
            upper = upper.plus(Affine({cut: cells[k + 1][1] - cells[k][1]}))
            step = cells[k + 1][0] - cells[k][0]
            lower = lower.plus(Affine({cut: -step}, step))
        for side in (upper, lower):
            program.at_most_zero(_in_units(side, unit))
        columns[index] = Column(x0, unit, variable, tuple(cells), place, cuts)
    return columns


def _in_units(value: Affine, unit: float) -> Affine:
    return Affine({v: c / unit for v, c in value.terms.items()}, value.constant / unit)


def _leaves(
    program: Program,
    trees: TreeEnsemble,
    region: FeatureEditsRegion,
    columns: dict[int, Column],
    wanted: int,
    rivals: list[int],
    inside: float,
) -> None:
    """One variable per leaf in reach; those of a tree add up to 1, and the leaves before a threshold to no more than
    the variable that says the feature lies there. Then the sums of their values decide."""
    logits, base = trees.logits(trees.leaves.value), trees.logits(trees.base)
    total = {rival: Affine({}, float(base[wanted] - base[rival])) for rival in rivals}
    size = dict.fromkeys(rivals, 0.0)
    for spans in _in_reach(trees, region, columns):
        chosen = {leaf: program.variable(0, 1) for leaf in spans}
        program.zero(Affine(dict.fromkeys(chosen.values(), 1.0), -1.0))
        by_feature: dict[int, list[tuple[int, int, int]]] = {}
        for leaf, sides in spans.items():
            for index, first, last in sides:
                by_feature.setdefault(index, []).append((chosen[leaf], first, last))
        for index, members in by_feature.items():
            cuts = columns[index].cuts
            for cut in sorted({last for _, _, last in members if last < len(cuts)}):
                before = dict.fromkeys((leaf for leaf, _, last in members if last <= cut), 1.0)
                program.at_most_zero(Affine({**before, cuts[cut]: -1.0}))
            for cut in sorted({first - 1 for _, first, _ in members if first > 0}):
                behind = dict.fromkeys((leaf for leaf, first, _ in members if first > cut), 1.0)
                program.at_most_zero(Affine({**behind, cuts[cut]: 1.0}, -1.0))
        for rival in rivals:
            gains = {v: float(logits[leaf, wanted] - logits[leaf, rival]) for leaf, v in chosen.items()}
            size[rival] += max(map(abs, gains.values()))
            total[rival] = total[rival].plus(Affine(gains))
    for rival in rivals:
        slack = (inside if inside else -_ROUNDING) * max(size[rival], 1.0)
        program.at_most_zero(Affine({}, slack).plus(total[rival], -1.0))


def _in_reach(
    trees: TreeEnsemble, region: FeatureEditsRegion, columns: dict[int, Column]
) -> list[dict[int, list[tuple[int, int, int]]]]:
    """For each tree its leaves that the row can reach, with the first and last place of each feature that can move."""
    leaves, grid = trees.leaves, make_grid(trees, region.schema, region.x.dtype)
    own = grid.cells_of(region.x)[0].tolist()
    found: dict[int, list[tuple[int, int, int]]] = {leaf: [] for leaf in range(len(leaves.tree))}
    for leaf, index, first, last in zip(
        leaves.leaf.tolist(), leaves.feature.tolist(), grid.first.tolist(), grid.last.tolist(), strict=True
    ):
        column = columns.get(index)
        if column is None:
            reached = first <= own[index] <= last
        else:
            begin, end = column.place[first], column.place[last + 1] - 1
            reached = begin <= end
        if not reached:
            found.pop(leaf, None)
        elif column is not None and leaf in found:
            found[leaf].append((index, begin, end))
    by_tree: list[dict[int, list[tuple[int, int, int]]]] = [{} for _ in trees.trees]
    for leaf, sides in found.items():
        by_tree[int(leaves.tree[leaf])][leaf] = sides
    return by_tree


def _distance(program: Program, region: FeatureEditsRegion, columns: dict[int, Column], most: float) -> None:
    """The distance as the cost: the largest, the sum or the number of the coordinates' sizes."""
    scale, norm = scale_of(region)[0], region.norm
    group_of = {index: group for group in region.schema.groups.values() for index in group}
    sizes: dict[int, Affine] = {}  # per coordinate; a group's under its first column, half of each member's
    for index, column in columns.items():
        weight = column.unit * float(scale[index])
        far = weight * max(-program.low[column.variable], program.high[column.variable])
        size = program.variable(0.0, far)
        for sign in (weight, -weight):
            program.at_most_zero(Affine({column.variable: sign, size: -1.0}))
        group = group_of.get(index)
        coordinate = index if group is None else group[0]
        part = Affine({size: 1.0 if group is None else 0.5})
        sizes[coordinate] = sizes.get(coordinate, Affine()).plus(part)
    if norm is Norm.LINF:
        longest = program.variable(0.0, max([0.0, *map(program.most, sizes.values())]), cost=1.0)
        for value in sizes.values():
            program.at_most_zero(value.plus(Affine({longest: -1.0})))
        _no_more_than(program, Affine({longest: 1.0}), most)
    if norm is Norm.L1:
        total = Affine()
        for value in sizes.values():
            total = total.plus(value)
        for variable, weight in total.terms.items():
            program.cost[variable] = weight
        _no_more_than(program, total, most)
    if norm is Norm.L0 or region.max_changed is not None:
        count = Affine()
        for value in sizes.values():
            changed = program.variable(0, 1, whole=True, cost=1.0 if norm is Norm.L0 else 0.0)
            program.at_most_zero(value.plus(Affine({changed: -program.most(value)})))
            count = count.plus(Affine({changed: 1.0}))
        _no_more_than(program, count, most if norm is Norm.L0 else math.inf)
        _no_more_than(program, count, math.inf if region.max_changed is None else region.max_changed)


def _no_more_than(program: Program, value: Affine, most: float) -> None:
    if math.isfinite(most):
        program.at_most_zero(value.plus(Affine({}, -most * (1 + 1e-9))))

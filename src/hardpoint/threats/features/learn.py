"""Proposes a schema from data: a start for a person to correct, never the truth about what an attacker can do."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from hardpoint.core.errors import DataError
from hardpoint.threats.features.feature import Feature, Kind
from hardpoint.threats.features.schema import Schema


def propose_schema(x: Tensor, names: Sequence[str]) -> Schema:
    """Kinds and bounds that fit every row; neighbouring 0/1 columns called ``prefix_…`` or ``prefix=…`` with exactly
    one 1 per row become a one-hot group. Everything is proposed as mutable.

    Args:
        x: finite ``[n, d]``.
        names: the columns' names.

    Raises:
        DataError: for another shape, no rows, or NaN or infinity, naming row and column.

    >>> rows = torch.tensor([[1.0, 0.5, 1, 0], [3.0, 0.2, 0, 1]])
    >>> proposal = propose_schema(rows, ["count", "ratio", "tld_com", "tld_org"])
    >>> [feature.kind.value for feature in proposal.features]
    ['integer', 'real', 'one_hot', 'one_hot']
    """
    if x.dim() != 2 or x.shape[1] != len(names) or len(x) == 0:
        raise DataError(
            f"the rows have shape {list(x.shape)} for {len(names)} names", "give rows [n, d] and d names"
        )
    values = x.double()
    bad = (~torch.isfinite(values)).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        raise DataError(
            f"row {row}, column {names[column]!r} holds {values[row, column].item()}", "drop or impute it"
        )
    low, high = values.amin(0).tolist(), values.amax(0).tolist()
    whole = (values == values.round()).all(0).tolist()
    binary = ((values == 0) | (values == 1)).all(0).tolist()
    group = _one_hot_groups(values, names, binary)
    features = []
    for column, name in enumerate(names):
        if group[column] is not None:
            features.append(Feature(name, Kind.ONE_HOT, group=group[column]))
        elif binary[column] and low[column] < high[column]:
            features.append(Feature(name, Kind.BINARY))
        else:
            kind = Kind.INTEGER if whole[column] else Kind.REAL
            features.append(Feature(name, kind, low[column], high[column]))
    return Schema(features)


def _one_hot_groups(values: Tensor, names: Sequence[str], binary: list[bool]) -> list[str | None]:
    prefixes = []
    for name, zero_one in zip(names, binary, strict=True):
        found = re.match(r"(.+)[_=]", name) if zero_one else None
        prefixes.append(found[1] if found else None)
    group: list[str | None] = [None] * len(names)
    used: set[str] = set()
    start = 0
    for end in range(1, len(names) + 1):
        if end < len(names) and prefixes[end] == prefixes[start]:
            continue
        prefix, members = prefixes[start], slice(start, end)
        if prefix and prefix not in used and end - start > 1 and bool((values[:, members].sum(1) == 1).all()):
            group[members] = [prefix] * (end - start)
            used.add(prefix)
        start = end
    return group

"""Who pays: accuracy before and under attack, group by group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hardpoint.assess.columns import aligned, percent
from hardpoint.assess.result import Result
from hardpoint.core.errors import DataError
from hardpoint.evidence.assessment import Outcomes, Status
from hardpoint.evidence.rate import Rate

CLASS = "class"
"""The grouping that is always there: by right answer."""


class HasOutcomes(Protocol):
    """Anything with one row of outcomes per input, such as a measurement before or after hardening."""

    @property
    def outcomes(self) -> Outcomes: ...


@dataclass(frozen=True)
class GroupRow:
    """One group.

    Attributes:
        by: what the inputs are grouped by.
        group: which group.
        clean, robust: accuracy before and under attack, within the group.
    """

    by: str
    group: str
    clean: Rate
    robust: Rate


@dataclass(frozen=True)
class GroupTable:
    """All groups, the one with the least robust accuracy first; of equals, the larger first."""

    rows: tuple[GroupRow, ...]

    @property
    def worst(self) -> GroupRow:
        """The group that pays most."""
        return self.rows[0]

    def of(self, by: str) -> tuple[GroupRow, ...]:
        """The groups of one grouping, worst first; raises ``DataError`` where there is no such grouping."""
        found = tuple(row for row in self.rows if row.by == by)
        if not found:
            known = ", ".join(dict.fromkeys(row.by for row in self.rows))
            raise DataError(f"nothing was grouped by {by!r}", f"there is: {known}")
        return found

    def gap(self, by: str) -> float:
        """By how much the robust accuracies of one grouping differ."""
        rates = [row.robust.value for row in self.of(by)]
        return max(rates) - min(rates)

    def __str__(self) -> str:
        head = ("by", "group", "n", "clean", "robust")
        rows = ((r.by, r.group, str(r.clean.n), percent(r.clean), percent(r.robust)) for r in self.rows)
        return aligned([head, *rows])


def by_group(
    result: Result | HasOutcomes, groups: Mapping[str, Iterable[object] | Tensor] | None = None
) -> GroupTable:
    """Clean and robust accuracy per class, and per group of each given grouping, worst first.

    A mean hides who pays for it: robust training often costs some classes far more than others (Xu et al., "To be
    robust or to be fair", ICML 2021). The intervals say how much of a difference may be chance; a group of few inputs
    has a wide one. Accuracies of groups compare like with like only under the same threat.

    Args:
        result: of ``hp.assess``, or a measurement before or after hardening.
        groups: for each grouping, by name, the group of every input, in the order of the data: words, numbers or a
            tensor.

    Raises:
        DataError: for a grouping of another length, or one named "class".

    >>> import torch, hardpoint as hp
    >>> x = torch.rand(64, 2, generator=torch.Generator().manual_seed(0))
    >>> model = torch.nn.Identity().eval()
    >>> result = hp.assess(model, x, x.argmax(1), threat=hp.Linf(0.1), progress=False)
    >>> [row.by for row in by_group(result, {"corner": (x.sum(1) > 1).tolist()}).rows].count("corner")
    2
    """
    record = result.record if isinstance(result, Result) else None
    outcomes = record.outcomes if record is not None else result.outcomes  # type: ignore[union-attr]
    names = record.data.get("classes") if record is not None else None
    right, standing = outcomes.status != Status.CLEAN_ERROR, ~outcomes.broken
    rows = _rows(CLASS, [str(names[k]) if names else str(k) for k in outcomes.label], right, standing)
    for by, given in (groups or {}).items():
        values = given.tolist() if isinstance(given, Tensor | np.ndarray) else list(given)
        if by == CLASS:
            raise DataError('a grouping is named "class"', "give it another name: classes are there already")
        if len(values) != len(outcomes):
            raise DataError(
                f"the grouping {by!r} has {len(values)} entries for {len(outcomes)} inputs",
                "give the group of every input, in the order of the data",
            )
        rows += _rows(by, [str(value) for value in values], right, standing)
    return GroupTable(tuple(sorted(rows, key=lambda row: (row.robust.value, -row.robust.n))))


def _rows(
    by: str, groups: list[str], right: NDArray[np.bool_], standing: NDArray[np.bool_]
) -> list[GroupRow]:
    held = np.array(groups)
    return [
        GroupRow(by, str(name), Rate.of(int(right[own].sum()), n), Rate.of(int(standing[own].sum()), n))
        for name in np.unique(held)
        if (n := int((own := held == name).sum()))
    ]

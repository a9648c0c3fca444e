"""Some rows of a dataset, without reading them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from hardpoint.core.errors import DataError, NothingToTest
from hardpoint.core.rng import Rng
from hardpoint.data.dataset import Dataset, checked_index, content_sha256, describe_dataset


@runtime_checkable
class _HasOrigin(Protocol):
    def origin(self) -> dict[str, Any]: ...


@dataclass(frozen=True, eq=False)
class Subset:
    """The rows ``index`` of ``dataset``, in that order; built by ``subset``."""

    dataset: Dataset
    index: Tensor
    chosen: str

    def __len__(self) -> int:
        return len(self.index)

    @property
    def name(self) -> str:
        return self.dataset.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.dataset.shape

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.dataset.classes

    @property
    def features(self) -> tuple[str, ...] | None:
        return self.dataset.features

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.dataset.rows(self.index[checked_index(index, len(self))])

    def sha256(self) -> str:
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        return content_sha256(self)

    def origin(self) -> dict[str, Any]:
        """Where the rows came from and which of them these are."""
        known = self.dataset.origin() if isinstance(self.dataset, _HasOrigin) else {"kind": "dataset"}
        return {**known, "of": len(self.dataset), "chosen": self.chosen}

    def describe(self) -> dict[str, Any]:
        return describe_dataset(self, self.rows(torch.tensor([0]))[0].dtype, self.origin())


def subset(dataset: Dataset, which: int | Tensor | Sequence[int], seed: int | None = None) -> Dataset:
    """Some rows of ``dataset``, each at most once, still read only when asked for.

    Args:
        dataset: any dataset.
        which: how many rows, or the row numbers (int64 ``[m]``), or a bool mask ``[n]``.
        seed: draws that many rows at random, without replacement and in row order; without it the first are taken.

    Raises:
        NothingToTest: when no row is chosen.
        DataError: when there are fewer rows than asked for, or a row does not exist or is named twice.

    >>> from hardpoint.data.memory import MemoryDataset
    >>> ten = MemoryDataset(torch.arange(10.0).view(10, 1), [0] * 10)
    >>> subset(ten, 3).rows(torch.tensor([2]))[0]
    tensor([[2.]])
    """
    n = len(dataset)
    if isinstance(which, int):
        if which > n:
            raise DataError(
                f"{which} rows were asked of {dataset.name}, which has {n}", f"ask for at most {n}"
            )
        if seed is None:
            index, chosen = torch.arange(max(0, which)), f"the first {which}"
        else:
            draws = Rng(seed).fork("subset").uniform(torch.arange(n), dtype=torch.float64)
            index = draws.argsort(stable=True)[: max(0, which)].sort().values
            chosen = f"{which} at random, seed {seed}"
    else:
        if seed is not None:
            raise DataError(
                "row numbers and a seed were both given", "give a seed only with a number of rows"
            )
        index, chosen = _listed(which, n), "listed"
    if len(index) == 0:
        raise NothingToTest(f"no row of {dataset.name} is chosen", "choose at least one")
    return Subset(dataset, index, chosen)


def _listed(which: Tensor | Sequence[int], n: int) -> Tensor:
    index = torch.as_tensor(which)
    if index.dtype == torch.bool:
        if index.shape != (n,):
            raise DataError(f"the mask has shape {tuple(index.shape)}", f"give one bool for each of {n} rows")
        return index.nonzero().flatten().cpu()
    index = checked_index(index, n)
    ordered = index.sort().values
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated) > 0:
        raise DataError(f"row {int(repeated[0])} is named twice", "name each row once")
    return index

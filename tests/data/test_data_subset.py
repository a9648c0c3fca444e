"""Subsets: which rows, in which order, never twice, never read early."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.core.errors import DataError, NothingToTest
from hardpoint.data import MemoryDataset, load_data, subset
from hardpoint.data.subset import Subset

TEN = MemoryDataset(torch.arange(10.0).view(10, 1), torch.arange(10) % 3, name="ten", features=["a"])


def values(data: object) -> list[float]:
    return data.rows(torch.arange(len(data)))[0].flatten().tolist()  # type: ignore[attr-defined,arg-type,no-any-return]


def test_first_listed_and_masked_rows() -> None:
    assert values(subset(TEN, 3)) == [0, 1, 2]
    assert values(subset(TEN, [7, 2, 5])) == [7, 2, 5]
    assert values(subset(TEN, torch.arange(10) > 7)) == [8, 9]
    assert subset(TEN, 3).features == ("a",)


@given(st.integers(1, 10), st.integers(0, 2**40))
def test_a_sample_is_without_replacement_and_repeatable(count: int, seed: int) -> None:
    drawn = values(subset(TEN, count, seed=seed))
    assert len(set(drawn)) == count
    assert drawn == sorted(drawn)
    assert drawn == values(subset(TEN, count, seed=seed))


def test_a_sample_favours_no_row() -> None:
    hits = torch.zeros(10)
    for seed in range(2000):
        hits[torch.tensor(values(subset(TEN, 3, seed=seed))).long()] += 1
    # each row is in 3 of 10 samples: mean 600, standard deviation 20.5
    assert (hits - 600).abs().max() < 5 * 20.5


def test_subsets_nest_and_survive_a_pickle() -> None:
    inner = subset(subset(TEN, [9, 8, 7, 6]), [3, 0])
    assert values(inner) == [6, 9]
    assert values(pickle.loads(pickle.dumps(inner))) == [6, 9]


def test_the_hash_is_that_of_the_rows() -> None:
    assert subset(TEN, [1, 2]).sha256() == MemoryDataset([[1.0], [2.0]], [1, 2]).sha256()
    assert subset(TEN, 10).sha256() == TEN.sha256()
    assert subset(TEN, [2, 1]).sha256() != subset(TEN, [1, 2]).sha256()


def test_description_says_which_rows() -> None:
    told = subset(TEN, 4, seed=1).describe()
    assert (told["name"], told["n"], told["of"], told["kind"]) == ("ten", 4, 10, "memory")
    assert told["chosen"] == "4 at random, seed 1"


def test_nothing_is_read_before_it_is_asked_for() -> None:
    class Closed:
        name, shape, classes, features = "closed", (1,), None, None

        def __len__(self) -> int:
            return 5

        def rows(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            raise RuntimeError("read")

        def sha256(self) -> str:
            raise RuntimeError("hashed")

        def describe(self) -> dict[str, object]:
            raise RuntimeError("described")

    assert isinstance(load_data(Closed(), limit=2), Subset)
    assert len(subset(Closed(), 3, seed=0)) == 3


@pytest.mark.parametrize(
    ("which", "seed", "words"),
    [
        (11, None, "11 rows were asked of ten, which has 10"),
        ([1, 10], None, "row 10 does not exist"),
        ([1, -1], None, "row -1"),
        ([3, 1, 3], None, "row 3 is named twice"),
        ([1, 2], 0, "a seed"),
        (torch.tensor([True, False]), None, "mask"),
    ],
)
def test_impossible_choices_are_refused(which: object, seed: int | None, words: str) -> None:
    with pytest.raises(DataError, match=words):
        subset(TEN, which, seed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "which", [0, -1, torch.zeros(10, dtype=torch.bool), torch.zeros(0, dtype=torch.int64)]
)
def test_an_empty_choice_is_nothing_to_test(which: object) -> None:
    with pytest.raises(NothingToTest):
        subset(TEN, which)  # type: ignore[arg-type]

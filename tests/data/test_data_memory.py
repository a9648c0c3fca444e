"""Data in memory: what is accepted, what is refused and how it is named."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.core.errors import DataError, NothingToTest
from hardpoint.data import Dataset, MemoryDataset
from hardpoint.data.labels import to_labels


def test_rows_come_in_the_order_asked_for() -> None:
    data = MemoryDataset(torch.arange(8.0).view(4, 2), [0, 1, 2, 3])
    x, y = data.rows(torch.tensor([3, 0, 3]))
    assert x.tolist() == [[6, 7], [0, 1], [6, 7]]
    assert y.tolist() == [3, 0, 3]
    assert y.dtype == torch.int64
    assert isinstance(data, Dataset)


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int64, np.bool_, np.float16, np.float32, np.float64, ">f4", ">i2"]
)
def test_every_kind_of_number_becomes_floats(dtype: str) -> None:
    x = np.array([[0, 1], [1, 0]], dtype)[::-1]
    data = MemoryDataset(x, np.array([1.0, 0.0], ">f8"))
    got, labels = data.rows(torch.arange(2))
    assert got.is_floating_point()
    assert got.tolist() == [[1, 0], [0, 1]]
    assert labels.tolist() == [1, 0]


def test_float_precision_is_kept_and_lists_become_float32() -> None:
    assert (
        MemoryDataset(torch.zeros(1, 2, dtype=torch.float64), [0]).rows(torch.tensor([0]))[0].dtype
        == torch.float64
    )
    assert MemoryDataset(np.zeros((1, 2)), [0]).rows(torch.tensor([0]))[0].dtype == torch.float64
    assert MemoryDataset([[0.0]], [0]).rows(torch.tensor([0]))[0].dtype == torch.float32


def test_read_only_arrays_are_accepted_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    x = np.zeros((2, 3), np.float32)
    x.setflags(write=False)
    MemoryDataset(x, np.zeros((2, 1), np.uint8))
    assert not recwarn.list


def test_both_counts_are_named_when_lengths_differ() -> None:
    with pytest.raises(DataError, match="3 inputs but 2 labels"):
        MemoryDataset(torch.zeros(3, 2), [0, 1])


def test_no_rows_is_nothing_to_test() -> None:
    with pytest.raises(NothingToTest):
        MemoryDataset(torch.zeros(0, 2), [])
    with pytest.raises(DataError, match="no value"):
        MemoryDataset(torch.zeros(2, 0), [0, 1])


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.array([["a"], ["b"]]), "type <U1"),
        (np.array([[1], [None]], dtype=object), "type object"),
        ([[1.0], [1.0, 2.0]], "different shapes"),
        (torch.zeros(2, 1, dtype=torch.complex64), "complex"),
        (torch.tensor(1.0), "shape"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(x: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        MemoryDataset(x, [0, 1])


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([0, 1.5, 1], "row 1 of the data has label 1.5, which is not a whole number"),
        ([0, 1, float("nan")], "row 2 of the data has label nan"),
        ([0, -1, 1], "row 1 of the data has label -1, which is negative"),
        ([0, 1, 2], "row 2 of the data has label 2, but there are 2 classes"),
        (np.array([0, 1, 2**63], np.uint64), "row 2 of the data .* too large"),
        (np.zeros((3, 2)), "one-hot"),
        (["a", "b", "c"], "of type <U1"),
    ],
)
def test_a_bad_label_is_refused_by_row(y: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        MemoryDataset(torch.zeros(3, 1), y, classes=("no", "yes"))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.sampled_from(["f4", "f8", "u1", "i8"]))
def test_whole_numbers_of_any_type_are_labels(values: list[int], kind: str) -> None:
    assert to_labels(np.array(values, kind), source="it").tolist() == values


def test_feature_names_must_fit_the_columns() -> None:
    assert MemoryDataset([[1.0, 2.0]], [0], features=["a", "b"]).features == ("a", "b")
    with pytest.raises(DataError, match="3 feature names"):
        MemoryDataset([[1.0, 2.0]], [0], features=["a", "b", "c"])
    with pytest.raises(DataError, match="2 feature names"):
        MemoryDataset(torch.zeros(1, 2, 2), [0], features=["a", "b"])


@pytest.mark.parametrize(
    "index",
    [torch.tensor([2]), torch.tensor([-1]), torch.tensor([0.0]), torch.tensor([[0]]), torch.tensor([True])],
)
def test_rows_that_do_not_exist_are_refused(index: torch.Tensor) -> None:
    with pytest.raises(DataError):
        MemoryDataset([[0.0], [1.0]], [0, 1]).rows(index)


def test_the_hash_is_of_the_content() -> None:
    x, y = torch.rand(3000, 4, generator=torch.Generator().manual_seed(0)), torch.arange(3000) % 3
    whole = MemoryDataset(x, y).sha256()
    assert whole == MemoryDataset(x.numpy(), y.numpy().astype(np.float32), name="other").sha256()
    changed = x.clone()
    changed[2999, 3] += 1
    relabelled = y.clone()
    relabelled[0] = 1
    others = [
        MemoryDataset(changed, y),
        MemoryDataset(x, relabelled),
        MemoryDataset(x.view(3000, 2, 2), y),
        MemoryDataset(x.double(), y),
        MemoryDataset(x[:2999], y[:2999]),
    ]
    assert len({whole, *(o.sha256() for o in others)}) == 6


def test_description_is_json_and_survives_a_pickle() -> None:
    data = MemoryDataset([[0.0, 1.0]], [1], name="tiny", features=("a", "b"), classes=("no", "yes"))
    told = data.describe()
    assert json.loads(json.dumps(told)) == told
    assert told["name"] == "tiny"
    assert (told["n"], told["shape"], told["dtype"]) == (1, [2], "float32")
    assert (told["features"], told["classes"]) == (["a", "b"], ["no", "yes"])
    assert pickle.loads(pickle.dumps(data)).describe() == told

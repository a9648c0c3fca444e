"""The pass over the data: the first bad row and feature, by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hardpoint.core.box import UNBOUNDED, Box
from hardpoint.core.errors import DataError, NothingToTest
from hardpoint.data import DataCheck, MemoryDataset, check_dataset, looks_normalised

UNIT = Box(0.0, 1.0)


class Loose:
    """A dataset that keeps no promise of its own."""

    name, classes, features = "loose", None, None

    def __init__(self, x: Any, y: Any, shape: tuple[int, ...] = (2,), n: int = 3) -> None:
        self.x, self.y, self.shape, self.n = x, y, shape, n

    def __len__(self) -> int:
        return self.n

    def rows(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[index.clamp(max=len(self.x) - 1)][: len(index)], self.y[: len(index)]

    def sha256(self) -> str:
        return ""

    def describe(self) -> dict[str, Any]:
        return {}


def grid(n: int = 3000) -> torch.Tensor:
    return torch.linspace(0, 1, n * 4).view(n, 4)


def test_sound_data_is_summed_up() -> None:
    data = MemoryDataset(grid(), torch.arange(3000) % 3)
    assert check_dataset(data, UNIT, 4, chunk=7) == DataCheck(3000, 0.0, 1.0, (1000, 1000, 1000, 0))
    assert check_dataset(data, UNIT).label_counts == (1000, 1000, 1000)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("chunk", [1, 7, 1024, 10**9])
def test_the_first_value_that_is_no_number_is_named(value: float, chunk: int) -> None:
    x = grid()
    x[2500, 3] = x[2500, 2] = x[2999, 0] = value
    with pytest.raises(DataError, match=rf"row 2500 of memory has {value} at feature 'c'"):
        check_dataset(MemoryDataset(x, [0] * 3000, features="abcd"), UNBOUNDED, 2, chunk=chunk)


def test_a_value_outside_the_box_is_named_with_the_box() -> None:
    x = torch.zeros(5, 1, 2, 3)
    x[3, 0, 1, 2] = 1.5
    with pytest.raises(
        DataError, match=r"row 3 .* 1\.5 at feature \[0, 1, 2\], outside .*\[0\.0, 1\.0\].*scale"
    ):
        check_dataset(MemoryDataset(x, [0] * 5), UNIT)


def test_bounds_per_feature() -> None:
    box = Box(torch.tensor([0.0, 10.0]), torch.tensor([1.0, 20.0]))
    check_dataset(MemoryDataset([[0.0, 20.0], [1.0, 10.0]], [0, 1]), box)
    with pytest.raises(DataError, match=r"row 1 .* feature 'b'"):
        check_dataset(MemoryDataset([[0.0, 20.0], [1.0, 9.0]], [0, 1], features="ab"), box)
    with pytest.raises(DataError, match="shape of one input"):
        check_dataset(MemoryDataset([[0.0, 20.0, 1.0]], [0]), box)


def test_the_edges_belong_to_the_box_in_either_precision() -> None:
    for dtype in (torch.float32, torch.float64):
        check_dataset(MemoryDataset(torch.tensor([[0.1], [0.7]], dtype=dtype), [0, 1]), Box(0.1, 0.7))


def test_labels_must_be_classes() -> None:
    data = MemoryDataset(grid(4), [0, 1, 5, 2])
    with pytest.raises(DataError, match="row 2 of memory has label 5, but there are 5 classes"):
        check_dataset(data, UNIT, 5)
    check_dataset(data, UNIT, 6)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (torch.tensor([0.0, 1.0, 1.5]), "row 2 of loose has label 1.5"),
        (torch.tensor([0, -2, 1]), "row 1 of loose has label -2"),
        (torch.tensor([0, 1]), "3 inputs and 2 labels for 3 rows"),
    ],
)
def test_labels_of_other_datasets_are_not_trusted(y: torch.Tensor, words: str) -> None:
    with pytest.raises(DataError, match=words):
        check_dataset(Loose(torch.zeros(3, 2), y), UNIT, 2)


def test_whole_float_labels_are_accepted() -> None:
    assert check_dataset(Loose(torch.zeros(3, 2), torch.tensor([0.0, 1.0, 1.0])), UNIT, 2).label_counts == (
        1,
        2,
    )


def test_shapes_of_other_datasets_are_not_trusted() -> None:
    y = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(DataError, match=r"row 0 of loose has shape \(2,\), not \(3,\)"):
        check_dataset(Loose(torch.zeros(3, 2), y, shape=(3,)), UNIT)
    with pytest.raises(DataError, match=r"torch\.int64"):
        check_dataset(Loose(torch.zeros(3, 2, dtype=torch.int64), y), UNIT)
    with pytest.raises(NothingToTest):
        check_dataset(Loose(torch.zeros(3, 2), y, n=0), UNIT)


def test_normalised_samples_are_told_from_pixels() -> None:
    pixels = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert not looks_normalised(pixels)
    assert not looks_normalised(pixels * 255)
    assert looks_normalised((pixels - 0.47) / 0.25)
    assert looks_normalised(pixels * 2 - 1)
    assert not looks_normalised(pixels * 500 - 250)
    assert not looks_normalised(torch.full((3, 2), float("nan")))

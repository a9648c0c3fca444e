"""Whether data can be assessed at all: the first thing that is wrong, by row and feature."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardpoint.core.box import Box
from hardpoint.core.errors import DataError, NothingToTest
from hardpoint.data.dataset import Dataset, row_chunks
from hardpoint.data.labels import to_labels


@dataclass(frozen=True)
class DataCheck:
    """What a pass over sound data saw: the number of rows, the smallest and largest value, inputs per label."""

    n: int
    low: float
    high: float
    label_counts: tuple[int, ...]


def check_dataset(
    dataset: Dataset, box: Box, num_classes: int | None = None, *, chunk: int = 1024
) -> DataCheck:
    """One pass over all rows, at most ``chunk`` at a time, that stops at the first problem.

    Args:
        dataset: what is to be tested.
        box: the model's input range.
        num_classes: the model's classes; the number of named classes by default, else labels have no upper end.
        chunk: the most rows to hold at once; fewer are held where inputs are large.

    Raises:
        NothingToTest: when there is no row.
        DataError: naming the row, the feature and the value: NaN, infinity, outside the box, a label that is no class,
            or rows of another shape or number than promised.

    >>> from hardpoint.data.memory import MemoryDataset
    >>> check_dataset(MemoryDataset([[0.5], [1.0]], [0, 1]), Box(0, 1), num_classes=2)
    DataCheck(n=2, low=0.5, high=1.0, label_counts=(1, 1))
    """
    if len(dataset) == 0:
        raise NothingToTest(f"{dataset.name} holds no rows", "give at least one input")
    if num_classes is None and dataset.classes is not None:
        num_classes = len(dataset.classes)
    _check_box(dataset, box)
    least, most = float("inf"), float("-inf")
    counts = torch.zeros(num_classes or 0, dtype=torch.int64)
    for index in row_chunks(dataset, chunk):
        x, y = dataset.rows(index)
        first = int(index[0])
        _check_form(dataset, index, x, y)
        _refuse(dataset, first, x, ~torch.isfinite(x), "", "drop that row or fill in the value")
        cure = "scale the data, or declare the range the model takes: input_range=(low, high)"
        low, high = box.bounds_like(x)
        outside = (x < low) | (x > high)
        _refuse(dataset, first, x, outside, f", outside the input range {box.describe()}", cure)
        labels = torch.from_numpy(
            to_labels(y.cpu().numpy(), source=dataset.name, first_row=first, num_classes=num_classes)
        )
        new = torch.bincount(labels, minlength=len(counts))
        counts = torch.nn.functional.pad(counts, (0, len(new) - len(counts))) + new
        least, most = min(least, float(x.min())), max(most, float(x.max()))
    return DataCheck(len(dataset), least, most, tuple(counts.tolist()))


def looks_normalised(x: Tensor) -> bool:
    """Whether a sample of inputs looks shifted and scaled to about mean 0 and spread 1.

    True for the usual image normalisations and for [-1, 1]; a hint for a finding, not a verdict.

    >>> looks_normalised(torch.tensor([-1.2, 0.3, 1.1])), looks_normalised(torch.tensor([0.0, 0.5, 1.0]))
    (True, False)
    """
    values = x[torch.isfinite(x)].double()
    if values.numel() < 2 or bool((values >= 0).all()):
        return False
    return abs(float(values.mean())) < 1 and 0.25 < float(values.std()) < 4


def _check_box(dataset: Dataset, box: Box) -> None:
    for end in (torch.as_tensor(box.low), torch.as_tensor(box.high)):
        try:
            torch.broadcast_to(end, dataset.shape)
        except RuntimeError:
            raise DataError(
                f"inputs of {dataset.name} have shape {dataset.shape}, the input range {tuple(end.shape)}",
                "give the range in the shape of one input, or as two numbers",
            ) from None


def _check_form(dataset: Dataset, index: Tensor, x: Tensor, y: Tensor) -> None:
    first = int(index[0])
    if len(x) != len(index) or len(y) != len(index):
        raise DataError(
            f"{dataset.name} gave {len(x)} inputs and {len(y)} labels for {len(index)} rows from row {first}",
            "give one input and one label for each row",
        )
    if tuple(x.shape[1:]) != tuple(dataset.shape):
        raise DataError(
            f"row {first} of {dataset.name} has shape {tuple(x.shape[1:])}, not {tuple(dataset.shape)}",
            "give all inputs one shape",
        )
    if not x.is_floating_point():
        raise DataError(f"inputs of {dataset.name} are {x.dtype}", "give floating-point inputs")


def _refuse(dataset: Dataset, first: int, x: Tensor, bad: Tensor, why: str, cure: str) -> None:
    if not bool(bad.any()):
        return
    row, *place = (int(i) for i in bad.nonzero()[0])
    value = float(x[(row, *place)])
    feature = repr(dataset.features[place[0]]) if dataset.features is not None else str(place)
    raise DataError(f"row {first + row} of {dataset.name} has {value:.6g} at feature {feature}{why}", cure)

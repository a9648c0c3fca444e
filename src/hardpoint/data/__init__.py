"""Labelled inputs: one small face, read as a stream from whatever holds them."""

from __future__ import annotations

from hardpoint.data.checks import DataCheck, check_dataset, looks_normalised
from hardpoint.data.dataset import Dataset, row_chunks
from hardpoint.data.load import load_data
from hardpoint.data.memory import MemoryDataset
from hardpoint.data.subset import subset

__all__ = [
    "DataCheck",
    "Dataset",
    "MemoryDataset",
    "check_dataset",
    "load_data",
    "looks_normalised",
    "row_chunks",
    "subset",
]

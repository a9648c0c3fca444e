"""What CSV and Parquet tables share: which columns are the features, and how a value becomes a number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hardpoint.core.errors import DataError
from hardpoint.core.suggest import did_you_mean
from hardpoint.data.labels import to_labels
from hardpoint.data.spool import NpyWriter, SpoolFolder

CHUNK_CELLS = 1 << 14
"""Cells that are held as Python objects at once."""
_MISSING = {"", "?", "na", "n/a", "null", "none"}


@dataclass(frozen=True)
class TableOptions:
    """What a user says about a table.

    Args:
        label: the label column's name, or its position (negative counts from the end); ``"label"`` by default.
        columns: the feature columns, in the order the model takes them; all but the label by default.
        categories: for text columns, their values in the order of the numbers 0, 1, … they become.
        classes: names of the classes in label order; text labels are looked up in it.
        header: whether a CSV file starts with the names of the columns; they are "0", "1", … otherwise.
    """

    label: str | int | None = None
    columns: tuple[str, ...] | None = None
    categories: Mapping[str, tuple[str, ...]] | None = None
    classes: tuple[str, ...] | None = None
    header: bool = True


@dataclass(frozen=True)
class Column:
    """One column in use: its name, its position in the file and the numbers its text values stand for."""

    name: str
    at: int
    codes: Mapping[str, int] | None = None

    def number(self, text: str | None, place: str) -> float:
        """The number for ``text``; raises ``DataError`` naming ``place`` and the column otherwise."""
        word = (text or "").strip()
        if self.codes is not None and word in self.codes:
            return float(self.codes[word])
        if word.lower() in _MISSING:
            raise DataError(
                f"{place} has no value in column {self.name!r}", "fill it in, or drop the row or the column"
            )
        if self.codes is not None:
            raise DataError(
                f"{place} has {word[:60]!r} in column {self.name!r}, which is not one of its values",
                did_you_mean(word[:60], list(self.codes)),
            )
        try:
            if "_" in word:  # Python would read 1_000 as a number, no other reader of tables does
                raise ValueError
            return float(word)
        except ValueError:
            raise DataError(
                f"{place} has {word[:60]!r} in column {self.name!r}, which is not a number",
                f"leave the column out with columns=…, or list its values: categories={{{self.name!r}: (…)}}",
            ) from None


@dataclass(frozen=True)
class Columns:
    """The columns in use."""

    features: tuple[Column, ...]
    label: Column

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.features)

    @property
    def have_text(self) -> bool:
        """Whether any feature is text with given categories."""
        return any(c.codes is not None for c in self.features)


def choose_columns(names: Sequence[str], options: TableOptions, path: Path) -> Columns:
    """The feature and label columns among ``names``.

    Raises:
        DataError: for a name that is not there or there twice, or a label among the features.
    """
    known = list(names)
    twice = [name for name, count in Counter(known).items() if count > 1]
    if twice:
        raise DataError(f"{path} has two columns named {twice[0]!r}", "rename one of them")
    label = _label_name(known, options.label, path)
    chosen = options.columns if options.columns is not None else [n for n in known if n != label]
    for name in (*chosen, *(options.categories or {})):
        if name not in known:
            raise DataError(f"{path} has no column {name!r}", did_you_mean(name, known))
    if label in chosen:
        raise DataError(f"column {label!r} is both the label and a feature", "take it out of columns")
    if not chosen or len(set(chosen)) < len(chosen):
        raise DataError(f"the columns chosen from {path} are none or repeat", "name each feature once")
    categories = options.categories or {}
    unused = [name for name in categories if name not in chosen]
    if unused:
        raise DataError(
            f"categories were given for {unused[0]!r}, which is not a feature",
            "take it out; the values of the label go in classes=…",
        )

    def codes(values: Sequence[str] | None) -> dict[str, int] | None:
        return None if values is None else {str(v).strip(): i for i, v in enumerate(values)}

    features = tuple(Column(n, known.index(n), codes(categories.get(n))) for n in chosen)
    return Columns(features, Column(label, known.index(label)))


def _label_name(known: list[str], label: str | int | None, path: Path) -> str:
    if isinstance(label, int):
        if not -len(known) <= label < len(known):
            raise DataError(f"{path} has {len(known)} columns, so none at position {label}", "count from 0")
        return known[label]
    wanted = "label" if label is None else label
    if wanted in known:
        return wanted
    what = f"{path} has no label column {wanted!r}"
    raise DataError(what, f"name it with label=…: {did_you_mean(wanted, known)}")


def label_number(column: Column, classes: tuple[str, ...] | None, text: str | None, place: str) -> float:
    """The label for ``text``: its place in ``classes``, or the number it spells."""
    word = (text or "").strip()
    if classes is not None and word in classes:
        return float(classes.index(word))
    try:
        return column.number(word, place)
    except DataError as error:
        if word.lower() in _MISSING:
            raise
        raise DataError(
            error.what, f"say which word is which label: classes=({word[:60]!r}, …) in label order"
        ) from None


class TableWriter:
    """Spools feature rows and labels, a chunk at a time."""

    def __init__(
        self, columns: Columns, options: TableOptions, dtype: torch.dtype, path: Path, spool: SpoolFolder
    ) -> None:
        stored = np.float64 if dtype == torch.float64 else np.float32
        self._x = NpyWriter(spool.path / "x.npy", stored, (len(columns.features),))
        self._y = NpyWriter(spool.path / "y.npy", np.int64)
        self._source, self._classes = str(path), options.classes

    @property
    def count(self) -> int:
        return self._x.count

    def append(
        self, x: Sequence[Sequence[float]] | NDArray[np.float64], y: Sequence[float] | NDArray[np.float64]
    ) -> None:
        """Add rows and their labels."""
        if len(y) == 0:
            return
        count = None if self._classes is None else len(self._classes)
        labels = to_labels(np.asarray(y), source=self._source, first_row=self.count, num_classes=count)
        with np.errstate(over="ignore"):  # beyond float32 becomes infinity, which the checks name
            self._x.append(np.asarray(x, dtype=np.float64).astype(self._x.dtype))
        self._y.append(labels)

    def close(self) -> tuple[Path, Path]:
        """The paths of the inputs and the labels."""
        return self._x.close(), self._y.close()

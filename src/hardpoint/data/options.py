"""What can be said about data when it is loaded, and which of it fits which format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import torch

from hardpoint.core.errors import DataError
from hardpoint.core.suggest import did_you_mean


class DataOptions(TypedDict, total=False):
    """Options of ``load_data``; each may be left out, or None. One that does not fit the format is an error."""

    name: str | None
    """What reports call the data; the file's name by default."""
    dtype: torch.dtype | None
    """The type of the inputs, float32 (default) or float64."""
    scale: float | None
    """A factor for stored values; by default 1/255 for uint8 images and 1 otherwise."""
    limit: int | None
    """Take at most the first ``limit`` rows. Files are often sorted by class: ``subset`` draws at random."""
    layout: str | None
    """The stored axes of one input: ``"HW"``, ``"HWC"``, ``"CHW"`` or ``"as-is"``. ``"auto"`` (default) makes uint8
    ``[H, W]`` into ``[1, H, W]``, and ``[H, W, C]`` into ``[C, H, W]`` where only the last axis can be channels."""
    classes: Sequence[str] | None
    """The names of the classes in label order. Text labels of tables are looked up here; for a folder of images they
    are the sub-folders, in name order by default."""
    labels: str | Path | None
    """The labels file of a ``.npy`` or idx file; for idx it is found by its usual name."""
    keys: tuple[str, str] | None
    """The names of the arrays in a ``.npz``; ``x, y``, ``images, labels``, ``X, Y`` or ``X, y`` by default."""
    label: str | int | None
    """A table's label column, by name or by position (negative counts from the end); ``"label"`` by default."""
    columns: Sequence[str] | None
    """A table's feature columns, in the order the model takes them; all but the label by default."""
    categories: Mapping[str, Sequence[str]] | None
    """The values of a table's text columns, in the order of the numbers 0, 1, … they become."""
    header: bool | None
    """Whether a CSV file starts with the names of its columns (default); they are "0", "1", … otherwise."""
    spool_dir: str | Path | None
    """Where temporary folders go; the system's place by default."""


_ANY = {"name", "dtype", "scale", "limit"}
_TABLE = _ANY | {"label", "columns", "categories", "classes", "spool_dir"}
TAKES: dict[str, set[str]] = {
    "npz": _ANY | {"keys", "layout", "classes", "spool_dir"},
    "npy": _ANY | {"labels", "layout", "classes"},
    "idx": _ANY | {"labels", "layout", "classes", "spool_dir"},
    "csv": _TABLE | {"header"},
    "parquet": _TABLE,
    "images": _ANY | {"classes", "spool_dir"},
    "sklearn": _ANY,
    "arrays": _ANY | {"layout", "classes"},
    "dataset": {"limit"},
}
"""The options each kind of data takes."""


def check_options(kind: str, options: DataOptions) -> None:
    """Raises ``DataError`` for an option that is unknown, impossible, or says nothing about data of this ``kind``."""
    known = sorted(DataOptions.__annotations__)
    for key, value in options.items():
        if key not in known:
            raise DataError(f"unknown data option {key!r}", did_you_mean(key, known))
        if value is not None and key not in TAKES[kind]:
            fitting = ", ".join(k for k, takes in TAKES.items() if key in takes)
            raise DataError(
                f"option {key!r} does not fit data of kind {kind}", f"it fits: {fitting}; leave it out"
            )
    limit = options.get("limit")
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit} leaves nothing", "give at least 1, or leave it out")
    keys = options.get("keys")
    if keys is not None and (isinstance(keys, str) or len(keys) != 2):
        raise DataError(
            f"keys {keys!r} are not two names", "give the inputs' and the labels': keys=('x', 'y')"
        )
    classes = options.get("classes")
    if classes is not None and (isinstance(classes, str) or len(set(classes)) < max(len(classes), 2)):
        raise DataError(
            f"classes {classes!r} are not two or more names", "name each class once, in label order"
        )

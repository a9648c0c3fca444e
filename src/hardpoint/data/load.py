"""One door for data: what a user names, as a dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from hardpoint.core.errors import DataError
from hardpoint.core.suggest import did_you_mean
from hardpoint.data.bundled import bundled_table
from hardpoint.data.csvtable import csv_blocks
from hardpoint.data.dataset import Dataset
from hardpoint.data.idx import idx_block, is_idx_name, labels_beside
from hardpoint.data.images import image_blocks
from hardpoint.data.mapped import Block, map_blocks
from hardpoint.data.memory import MemoryDataset
from hardpoint.data.npy import npy_block, npz_blocks
from hardpoint.data.options import DataOptions, check_options
from hardpoint.data.parquet import parquet_blocks
from hardpoint.data.reading import Reading, choose_reading
from hardpoint.data.spool import SpoolFolder
from hardpoint.data.streams import read_errors
from hardpoint.data.subset import subset
from hardpoint.data.table import TableOptions

_KINDS = "a .npz, .npy, .csv, .tsv, .parquet or idx file, a folder of images, or sklearn:NAME"


def load_data(spec: str | Path | Dataset | tuple[Any, Any], **options: Unpack[DataOptions]) -> Dataset:
    """Labelled inputs from a file, a folder, arrays, or scikit-learn's bundled sets.

    Memory does not grow with the number of inputs: rows are read from disk when they are asked for. What cannot be
    read at random (packed files, tables, images) is unpacked once, a piece at a time, into a temporary folder that
    goes when the dataset goes.

    Args:
        spec: a ``.npz``; a ``.npy`` with ``labels``; an idx file; a ``.csv``, ``.tsv`` or ``.parquet`` table (idx, CSV
            and TSV may be packed: ``.gz``); a folder with one sub-folder of PNG or JPEG images per class;
            ``"sklearn:NAME"`` with ``breast_cancer``, ``digits``, ``iris`` or ``wine``; a pair ``(x, y)`` of arrays
            or of paths; or a dataset.
        options: see ``DataOptions``.

    Raises:
        NothingToTest: when there is no row.
        DataError: naming the file, row or column that cannot be used, or an option that does not fit the format.
        MissingExtra: when the format needs an extra that is not installed.

    >>> load_data((np.zeros((2, 8, 8, 3), np.uint8), [0, 1])).shape
    (3, 8, 8)
    """
    if isinstance(spec, tuple):
        if len(spec) != 2:
            raise DataError(f"a tuple of {len(spec)} is no data", "give a pair: inputs and labels")
        if not isinstance(spec[0], str | Path):
            return _arrays(spec[0], spec[1], options)
        if options.get("labels") is not None:
            raise DataError("the labels were given twice", "give them in the pair or as labels=…")
        options["labels"] = spec[1]
        spec = spec[0]
    if not isinstance(spec, str | Path):
        return _dataset(spec, options)
    if str(spec).startswith("sklearn:"):
        return _bundled(str(spec).removeprefix("sklearn:"), options)
    return _file(_existing(str(spec)), options)


def _reading(
    shape: tuple[int, ...], stored: DTypeLike, options: DataOptions, layout: str = "auto"
) -> Reading:
    return choose_reading(
        shape,
        stored,
        scale=options.get("scale"),
        layout=options.get("layout") or layout,
        dtype=options.get("dtype") or torch.float32,
    )


def _limited(dataset: Dataset, options: DataOptions) -> Dataset:
    limit = options.get("limit")
    return dataset if limit is None else subset(dataset, min(limit, len(dataset)))


def _dataset(spec: Any, options: DataOptions) -> Dataset:
    if not isinstance(spec, Dataset):
        raise DataError(f"{type(spec).__name__} is no data", f"give {_KINDS}, a pair (x, y), or a dataset")
    check_options("dataset", options)
    return _limited(spec, options)


def _arrays(x: Any, y: Any, options: DataOptions) -> Dataset:
    check_options("arrays", options)
    name, classes = options.get("name") or "memory", options.get("classes")
    if isinstance(x, Tensor):
        x = (x.float() if x.dtype == torch.bfloat16 else x).detach().cpu().numpy()
    stored = np.asarray(x)
    if stored.dtype.kind not in "buif" or stored.ndim == 0:
        return MemoryDataset(x, y)  # says what is wrong
    reading = _reading(stored.shape[1:], stored.dtype, options)
    origin = {"kind": "arrays", "reading": reading.describe()}
    return _limited(MemoryDataset(reading.apply(stored), y, name, None, classes, origin), options)


def _bundled(name: str, options: DataOptions) -> Dataset:
    check_options("sklearn", options)
    table, labels, features, classes = bundled_table(name)
    reading = _reading(table.shape[1:], table.dtype, options)
    origin = {"kind": "sklearn", "source": f"sklearn:{name}", "reading": reading.describe()}
    shown = options.get("name") or name
    return _limited(MemoryDataset(reading.apply(table), labels, shown, features, classes, origin), options)


def _existing(spec: str) -> Path:
    if "://" in spec:
        raise DataError(
            f"{spec} is an address", "download it yourself and give the file; nothing is downloaded"
        )
    path = Path(spec)
    if not path.exists():
        beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        raise DataError(
            f"{spec} does not exist", did_you_mean(path.name, beside) if beside else f"give {_KINDS}"
        )
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{spec} is an empty file", "copy or write it again")
    return path


def _kind(path: Path) -> str:
    name = path.name.lower()
    if path.is_dir():
        return "images"
    if is_idx_name(name):
        return "idx"
    for kind, ends in {
        "npz": (".npz",),
        "npy": (".npy",),
        "csv": (".csv", ".csv.gz", ".tsv", ".tsv.gz"),
        "parquet": (".parquet", ".pq"),
    }.items():
        if name.endswith(ends):
            return kind
    raise DataError(f"{path} is of a kind that is not known", f"give {_KINDS}")


class _Parts(NamedTuple):
    """What a reader found in a file."""

    x: Block
    y: Block
    layout: str = "auto"
    features: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None


def _npz(path: Path, options: DataOptions, spool: SpoolFolder) -> _Parts:
    return _Parts(*npz_blocks(path, options.get("keys"), spool))


def _npy(path: Path, options: DataOptions, spool: SpoolFolder) -> _Parts:
    labels = options.get("labels")
    if labels is None:
        raise DataError(f"{path} comes without labels", "give their .npy file: labels='y.npy'")
    return _Parts(npy_block(path), npy_block(_existing(str(labels))))


def _idx(path: Path, options: DataOptions, spool: SpoolFolder) -> _Parts:
    given = options.get("labels")
    labels = labels_beside(path) if given is None else _existing(str(given))
    return _Parts(idx_block(path, spool, "x"), idx_block(labels, spool, "y"))


def _table(path: Path, options: DataOptions, spool: SpoolFolder) -> _Parts:
    columns, header = options.get("columns"), options.get("header")
    said = TableOptions(
        label=options.get("label"),
        columns=None if columns is None else tuple(columns),
        categories={name: tuple(values) for name, values in (options.get("categories") or {}).items()},
        classes=_class_names(options),
        header=header is not False,
    )
    read = parquet_blocks if _kind(path) == "parquet" else csv_blocks
    x, y, features = read(path, said, spool, options.get("dtype") or torch.float32, options.get("limit"))
    return _Parts(x, y, features=features)


def _images(path: Path, options: DataOptions, spool: SpoolFolder) -> _Parts:
    with read_errors(path):
        x, y, layout, classes = image_blocks(path, _class_names(options), spool, options.get("limit"))
    return _Parts(x, y, layout, classes=classes)


_READERS: dict[str, Callable[[Path, DataOptions, SpoolFolder], _Parts]] = {
    "npz": _npz,
    "npy": _npy,
    "idx": _idx,
    "csv": _table,
    "parquet": _table,
    "images": _images,
}


def _class_names(options: DataOptions) -> tuple[str, ...] | None:
    classes = options.get("classes")
    return None if classes is None else tuple(str(c) for c in classes)


def _file(path: Path, options: DataOptions) -> Dataset:
    kind = _kind(path)
    check_options(kind, options)
    spool_dir = options.get("spool_dir")
    spool = SpoolFolder.create(None if spool_dir is None else Path(spool_dir))
    parts = _READERS[kind](path, options, spool)
    return map_blocks(
        parts.x,
        parts.y,
        reading=_reading(parts.x.row_shape, parts.x.dtype, options, parts.layout),
        path=path,
        kind=kind,
        name=options.get("name"),
        limit=options.get("limit"),
        features=parts.features,
        classes=parts.classes or _class_names(options),
        spool=spool,
    )
